"""Adapters as networks: what they compute, against the library peft and by hand, and what they share with the base."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from textgan.models.adapters import (
    AdaptiveRank,
    Bottleneck,
    LowRank,
    adapted_copy,
    can_merge,
    merge,
    put_on,
)
from textgan.models.generator import Condition, Generator
from textgan.models.sharing import copy_of, count, frozen, let_train, load_own_state, own_state
from textgan.ops.packed_linear import can_pack, packed
from textgan.sampling.rollout import rollout, sample_ids

V, BLOCK, D, LAYERS = 23, 12, 16, 2
KINDS = {
    "lora": {"rank": 3, "alpha": 5.0, "targets": ["*"]},
    "adalora": {"rank": 3, "alpha": 5.0, "targets": ["*"]},
    "bottleneck": {"targets": ["attn", "mlp"], "bottleneck": 5},
    "prefix": {"n_tokens": 3},
    "prompt": {"n_tokens": 3},
}
FOLDED = ("lora", "adalora")
every_kind = pytest.mark.parametrize("kind", KINDS)


def base(dropout=0.0):
    """A generator with weights large enough to matter, in eval mode."""
    torch.manual_seed(0)
    generator = Generator(V, BLOCK, LAYERS, 4, D, dropout=dropout).eval()
    with torch.no_grad():
        for p in generator.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return generator


def adapted(kind, **more):
    """A base and a copy with an adapter whose weights are far from their start."""
    generator = base()
    copied = adapted_copy(generator, kind, **KINDS[kind] | more)
    with torch.no_grad():
        for p in copied.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.3)
    return generator, copied


def ids(*shape, seed=1):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------- what they compute


@pytest.mark.parametrize("kind", ["lora", "adalora", "bottleneck"])
def test_at_the_start_the_adapted_generator_is_the_base(kind):
    generator, x = base(), ids(3, 8)
    assert torch.equal(adapted_copy(generator, kind, **KINDS[kind])(x), generator(x))


@every_kind
def test_away_from_the_start_it_is_not(kind):
    generator, changed = adapted(kind)
    assert (changed(ids(3, 8)) - generator(ids(3, 8))).abs().amax(-1).min() > 1e-3


def peft_lora(generator, rank, alpha, targets):
    from peft import LoraConfig, inject_adapter_in_model

    theirs = copy.deepcopy(generator)
    settings = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=targets)
    return inject_adapter_in_model(settings, theirs)


def test_lora_equals_pefts_in_value_gradient_and_merged():
    """In layers without the GELU: peft adds its update behind that."""
    layers = ["c_attn", "attn.c_proj"]
    generator, ours = adapted("lora", targets=["c_attn", "attn.c_proj"])
    theirs = peft_lora(generator, 3, 5, layers).eval()
    parts = dict(theirs.named_modules())
    with torch.no_grad():
        for name, module in ours.named_modules():
            if isinstance(module, LowRank):
                wrapped = parts[name.removesuffix(".delta")]
                wrapped.lora_A["default"].weight.copy_(module.lora_A)
                wrapped.lora_B["default"].weight.copy_(module.lora_B)
    x = ids(3, 8)
    torch.testing.assert_close(ours(x), theirs(x))
    for network in (ours, theirs):
        network(x).square().mean().backward()
    checked = 0
    for name, module in ours.named_modules():
        if isinstance(module, LowRank):
            wrapped = parts[name.removesuffix(".delta")]
            torch.testing.assert_close(module.lora_A.grad, wrapped.lora_A["default"].weight.grad)
            torch.testing.assert_close(module.lora_B.grad, wrapped.lora_B["default"].weight.grad)
            checked += 1
    assert checked == 2 * LAYERS
    trains = {name for name, p in ours.named_parameters() if p.requires_grad}
    assert len(trains) == len([p for p in theirs.parameters() if p.requires_grad])
    merged = merge(ours)
    for name in (f"h.{i}.attn.{layer}" for i in range(LAYERS) for layer in ("c_attn", "c_proj")):
        parts[name].merge()
        torch.testing.assert_close(merged.get_submodule(name).weight, parts[name].base_layer.weight)


def test_lora_starts_as_pefts():
    """A by Kaiming's rule, uniform within sqrt(1 / inputs); B zero."""
    wide = LowRank(torch.zeros(8, 400), rank=50, alpha=1.0, dropout=0.0)
    assert wide.lora_A.abs().max().item() == pytest.approx(0.05, rel=0.01)
    assert wide.lora_A.std().item() == pytest.approx(0.05 / 3**0.5, rel=0.02)
    assert not wide.lora_B.any()


@pytest.mark.parametrize("kind", FOLDED)
def test_the_update_is_inside_the_gelu(kind):
    _, changed = adapted(kind)
    layer = changed.h[0].mlp.c_fc
    x = torch.randn(4, D, generator=torch.Generator().manual_seed(0))
    expected = F.gelu(F.linear(x, layer.weight + layer.delta.matrix(), layer.bias), approximate="tanh")
    torch.testing.assert_close(layer(x, gelu=True), expected, rtol=1e-5, atol=1e-6)


def test_adalora_equals_pefts():
    from peft import AdaLoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(7, 9))
    settings = AdaLoraConfig(init_r=4, target_r=2, lora_alpha=6, target_modules=["0"], total_step=10)
    theirs = inject_adapter_in_model(settings, plain)[0]
    ours = AdaptiveRank(theirs.base_layer.weight.detach(), 4, 6.0, 0.0)
    assert theirs.lora_A["default"].shape == ours.lora_A.shape
    with torch.no_grad():
        for p in ours.parameters():
            p.normal_()
        theirs.lora_A["default"].copy_(ours.lora_A)
        theirs.lora_B["default"].copy_(ours.lora_B)
        theirs.lora_E["default"].copy_(ours.lora_E[:, None])
    x = torch.randn(5, 7)
    expected = theirs(x) - theirs.base_layer(x)
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)  # peft adds 1e-5 to the rank
    torch.testing.assert_close(x @ ours.matrix().T, expected, rtol=1e-4, atol=1e-5)


def test_a_bottleneck_by_hand():
    torch.manual_seed(0)
    part = Bottleneck(torch.zeros(4), 2)
    assert not part.up.weight.any()
    with torch.no_grad():
        for p in part.parameters():
            p.normal_()
    y = torch.randn(3, 4)
    inner = nn.GELU("tanh")(y @ part.down.weight.T + part.down.bias)
    torch.testing.assert_close(part(y), y + inner @ part.up.weight.T + part.up.bias)


def test_bottlenecks_stand_where_they_are_asked_for():
    generator = base()
    both = adapted_copy(generator, "bottleneck", targets=["attn", "mlp"], bottleneck=2)
    assert all(block.attn.adapter and block.mlp.adapter for block in both.h)
    one = adapted_copy(generator, "bottleneck", targets=["h.1.mlp"], bottleneck=2)
    places = [name for name, module in one.named_modules() if isinstance(module, Bottleneck)]
    assert places == ["h.1.mlp.adapter"]
    seen = {}
    block = both.h[0]
    block.attn.adapter.register_forward_hook(lambda module, inputs, output: seen.update(attn=(inputs[0], output)))
    block.ln_2.register_forward_hook(lambda module, inputs, output: seen.update(between=inputs[0]))
    block.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0]))
    with torch.no_grad():
        block.attn.adapter.up.weight.normal_()
        both(ids(2, 5))
    torch.testing.assert_close(seen["between"], seen["x"] + seen["attn"][1])
    assert not torch.equal(*seen["attn"])


def naive_prompted(generator, vectors, x):
    """The whole sequence, prompt and text, through the blocks; the text has the positions that it has alone."""
    text = generator.wte(x) + generator.wpe(torch.arange(x.size(1)))
    states = torch.cat([vectors.expand(len(x), -1, -1), text], dim=1)
    for block in generator.h:
        states = block(states, mask=None, causal=True)
    return generator.ln_f(states)[:, vectors.size(0) :] @ generator.wte.weight.T


def test_a_prompt_is_read_before_the_text():
    generator, prompted = adapted("prompt")
    x = ids(3, 8)
    expected = naive_prompted(generator, prompted.prefix.vectors, x)
    torch.testing.assert_close(prompted(x), expected, rtol=1e-5, atol=1e-5)


def test_prompt_and_prefix_start_at_the_same_words_of_the_vocabulary():
    generator, x = base(), ids(3, 8)
    torch.manual_seed(5)
    drawn = torch.randint(V, (1, 3))
    torch.manual_seed(5)
    prompted = adapted_copy(generator, "prompt", n_tokens=3)
    torch.manual_seed(5)
    prefixed = adapted_copy(generator, "prefix", n_tokens=3)
    torch.testing.assert_close(prompted.prefix.vectors, generator.wte(drawn)[0] + generator.wpe.weight[:3])
    torch.testing.assert_close(prompted(x), prefixed(x), rtol=1e-5, atol=1e-5)


def test_a_prefix_is_a_memory_of_all_rows():
    generator, prefixed = adapted("prefix")
    memory = tuple(tuple(part.expand(3, -1, -1, -1) for part in pair) for pair in prefixed.prefix.memory)
    x = ids(3, 8)
    torch.testing.assert_close(prefixed(x), generator(x, condition=Condition(None, memory)), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="leaves no place for a memory"):
        prefixed(x, condition=Condition(None, memory))


# --------------------------------------------------------------------------------------- as generators are used


@every_kind
def test_cached_equals_uncached(kind):
    _, generator = adapted(kind)
    x = ids(3, BLOCK)
    with torch.no_grad():
        whole = generator(x)
        for pieces in ([1] * BLOCK, [5, 1, 1, 4, 1], [BLOCK]):
            cache = generator.new_cache(3, BLOCK)
            parts = torch.cat([generator(piece, cache=cache) for piece in x.split(pieces, dim=1)], dim=1)
            torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


@every_kind
def test_selected_and_left_padded_rows_equal_each_alone(kind):
    _, generator = adapted(kind)
    prompts, follow = [ids(1, n, seed=n) for n in (7, 3, 1)], ids(3, 3, seed=9)
    pad = torch.tensor([7 - p.size(1) for p in prompts])
    batch = torch.cat([F.pad(p, (7 - p.size(1), 0), value=11) for p in prompts])
    rows = torch.tensor([2, 0, 2])
    with torch.no_grad():
        cache = generator.new_cache(3, BLOCK)
        first = generator(batch, left_pad=pad, cache=cache)
        torch.testing.assert_close(first, generator(batch, left_pad=pad), rtol=1e-5, atol=1e-5)
        cache.select(rows)
        got = generator(follow, left_pad=pad[rows], cache=cache)
        for i, row in enumerate(rows.tolist()):
            alone = generator(torch.cat([prompts[row], follow[i : i + 1]], dim=1))
            torch.testing.assert_close(got[i], alone[0, -3:], rtol=1e-5, atol=1e-5)


@every_kind
def test_wanted_columns_and_losses_are_those_of_all_logits(kind):
    _, generator = adapted(kind)
    x, targets = ids(3, 8), ids(3, 8, seed=4)
    at = torch.arange(8) < torch.tensor([8, 3, 5])[:, None]
    logits = generator(x)
    torch.testing.assert_close(generator(x, at=at), logits[at], rtol=1e-5, atol=1e-5)
    expected = F.cross_entropy(logits[at], targets[at], reduction="sum")
    torch.testing.assert_close(generator.nll(x, targets, at=at, reduction="sum"), expected)
    one_hot = F.one_hot(x, V).float()
    torch.testing.assert_close(generator(one_hot), logits, rtol=1e-5, atol=1e-5)


@every_kind
def test_only_what_trains_gets_a_gradient_and_it_is_right(kind):
    """Of the likelihood, and of relaxed tokens: those of the same network with everything trained."""
    _, generator = adapted(kind, train_also=["ln_1"])
    everything = copy.deepcopy(generator).requires_grad_(True)
    x, at = ids(3, 8), torch.ones(3, 8, dtype=torch.bool)
    found = []
    for network in (generator, everything):
        network.nll(x, ids(3, 8, seed=4), at=at, reduction="sum").backward()
        texts, lengths = sample_ids(network, 5, BLOCK, eos_id=0, rng=torch.Generator().manual_seed(0))
        noise = torch.Generator().manual_seed(1)
        common = {"eos_id": 0, "estimator": "straight_through", "tau": 1.0}
        tokens = rollout(network, texts, lengths, **common, rng=noise).tokens
        table = torch.randn(V, 6, generator=torch.Generator().manual_seed(2))
        tokens.embed(table).square().sum().backward()
        found.append({name: p.grad for name, p in network.named_parameters()})
    ours, full = found
    trained = {name for name, grad in ours.items() if grad is not None}
    assert trained == generator.trained
    assert {"h.0.ln_1.weight", "h.1.ln_1.bias"} < trained
    assert not any("wte" in name or "c_attn.weight" in name for name in trained)
    for name in trained:
        assert ours[name].any(), name
        torch.testing.assert_close(ours[name], full[name])


def test_what_is_frozen_is_left_out_of_the_work():
    """Three products a weight and step become two: forward, and back to what was read."""
    generator = Generator(500, BLOCK, LAYERS, 4, D, dropout=0.0)
    changed = adapted_copy(generator, "lora", rank=1, alpha=1.0, targets=["h.0.attn.c_attn"])
    x, at = ids(3, 8), torch.ones(3, 8, dtype=torch.bool)
    done = []
    for network in (changed, copy.deepcopy(generator).requires_grad_(True)):
        with FlopCounterMode(display=False) as counter:
            network.nll(x, ids(3, 8, seed=4), at=at, reduction="sum").backward()
        done.append(counter.get_total_flops())
    assert done[0] < 0.7 * done[1]


@pytest.mark.skipif(not can_pack(torch.zeros(1), torch.float32), reason="no kernels for packed weights here")
@every_kind
def test_packed_weights_respect_the_adapter(kind):
    _, generator = adapted(kind)
    with torch.no_grad():
        plain = generator(ids(3, 8))
        with packed(generator, 3):
            assert generator.h[0].attn.c_attn.packed is not None
            torch.testing.assert_close(generator(ids(3, 8)), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", FOLDED)
def test_dropout_is_of_what_the_update_reads(kind):
    weight = torch.randn(6, 400, generator=torch.Generator().manual_seed(0))
    part = {"lora": LowRank, "adalora": AdaptiveRank}[kind](weight, 2, 1.0, 0.25)
    seen = []
    part.drop.register_forward_hook(lambda module, inputs, output: seen.append(output))
    part.train()(torch.ones(50, 400))
    assert (seen[0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    part.eval()(torch.ones(50, 400))
    assert (seen[1] == 1).all()


# ------------------------------------------------------------------------------------------------------- merged


@pytest.mark.parametrize("kind", FOLDED)
def test_merged_it_is_a_plain_generator_with_the_same_logits(kind):
    generator, changed = adapted(kind, train_also=["ln_2"])
    x, before = ids(3, 8), copy.deepcopy(generator.state_dict())
    expected = changed(x)
    assert can_merge(changed)
    merged = merge(changed)
    torch.testing.assert_close(merged(x), expected, rtol=1e-5, atol=1e-5)
    assert merged.state_dict().keys() == before.keys()
    fresh = Generator(V, BLOCK, LAYERS, 4, D).eval()
    fresh.load_state_dict(merged.state_dict())
    torch.testing.assert_close(fresh(x), expected, rtol=1e-5, atol=1e-5)
    assert not frozen(merged)
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())


@pytest.mark.parametrize("kind", ["bottleneck", "prefix", "prompt"])
def test_what_cannot_be_folded_says_so(kind):
    _, changed = adapted(kind)
    assert not can_merge(changed)
    with pytest.raises(ValueError, match=f"of kind {kind} cannot be folded into the weights of a plain generator"):
        merge(changed)


def test_a_generator_without_adapter_is_merged_already():
    generator = base()
    assert can_merge(generator)
    before = copy.deepcopy(generator.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in merge(generator).state_dict().items())


# ------------------------------------------------------------------------------------------------------- shared


@every_kind
def test_a_copy_shares_what_is_frozen_and_nothing_else(kind):
    generator, changed = adapted(kind, train_also=["ln_2"])
    for one, other in ((generator, changed), (changed, copy_of(changed))):
        ours, theirs = dict(one.named_parameters()), dict(other.named_parameters())
        same = {name for name in ours.keys() & theirs.keys() if ours[name].data_ptr() == theirs[name].data_ptr()}
        assert same == set(frozen(changed))
    assert frozen(changed).keys() == {
        name for name, _ in generator.named_parameters() if not name.startswith("ln_f") and "ln_2" not in name
    }
    assert changed.logit_bias.data_ptr() != generator.logit_bias.data_ptr()


@every_kind
def test_calibrating_a_copy_leaves_the_other_alone(kind):
    generator, changed = adapted(kind)
    x = ids(3, 8)
    before, own = generator(x), changed(x)
    copied = copy_of(changed)
    copied.scale_logits_(2.0, torch.ones(V))
    torch.testing.assert_close(copied(x), own / 2 + 1, rtol=1e-5, atol=1e-5)
    assert torch.equal(changed(x), own)
    assert torch.equal(generator(x), before)


@every_kind
def test_the_own_state_and_the_base_make_the_generator(kind):
    generator, changed = adapted(kind, train_also=["ln_1"])
    changed.scale_logits_(2.0, torch.ones(V))
    state = copy.deepcopy(own_state(changed))
    assert not state.keys() & frozen(changed).keys()
    assert state.keys() | frozen(changed).keys() == changed.state_dict().keys()
    torch.manual_seed(9)
    again = adapted_copy(generator, kind, **KINDS[kind], train_also=["ln_1"])
    assert not torch.equal(again(ids(3, 8)), changed(ids(3, 8)))
    load_own_state(again, state)
    assert torch.equal(again(ids(3, 8)), changed(ids(3, 8)))
    with pytest.raises(RuntimeError, match="Missing key"):
        load_own_state(again, {name: tensor for name, tensor in state.items() if name != "ln_f.weight"})


def test_without_adapter_everything_is_own_and_trains():
    generator = base().requires_grad_(False)
    assert own_state(generator).keys() == generator.state_dict().keys()
    assert count(generator)[0] == 0
    assert count(let_train(generator)) == (generator.num_parameters(),) * 2
    copied = copy_of(generator)
    assert not {p.data_ptr() for p in copied.parameters()} & {p.data_ptr() for p in generator.parameters()}


SIZES = [(D, 3 * D), (D, D), (D, 4 * D), (4 * D, D)]  # inputs and outputs of the layers of a block


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("lora", LAYERS * sum(3 * (a + b) for a, b in SIZES)),
        ("adalora", LAYERS * sum(3 * (a + b + 1) for a, b in SIZES)),
        ("bottleneck", LAYERS * 2 * (5 * D + 5 + 5 * D + D)),
        ("prefix", LAYERS * 2 * 3 * D),
        ("prompt", 3 * D),
    ],
)
def test_how_much_trains(kind, expected):
    generator, changed = adapted(kind)
    assert count(changed) == (expected, generator.num_parameters() + expected)


# ------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "kind, options, message",
    [
        (
            "lora",
            {"targets": ["c_atn"]},
            r"adapter.targets: `c_atn` matches nothing in the generator; did you mean c_attn",
        ),
        (
            "lora",
            {"targets": ["xyz"]},
            r"there are: h.\*.attn.c_attn, h.\*.attn.c_proj, h.\*.mlp.c_fc, h.\*.mlp.c_proj",
        ),
        ("lora", {"targets": ["c_attn", "h.7.*"]}, r"`h.7.\*` matches nothing"),
        ("bottleneck", {"targets": ["c_attn"]}, "`c_attn` matches nothing"),
        ("lora", {"targets": ["c_attn"], "train_also": ["ln_9"]}, "adapter.train_also: `ln_9` matches nothing.*ln_"),
        ("prompt", {"n_tokens": BLOCK + 1}, "adapter.n_tokens=13 is above generator.block_size=12"),
    ],
)
def test_what_does_not_fit_is_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        put_on(base(), kind, **{"rank": 1, "alpha": 1.0, "bottleneck": 1, **options})


def test_patterns_name_layers_by_end_whole_or_beginning():
    def changed(*targets):
        generator = put_on(base(), "lora", rank=1, alpha=1.0, targets=targets)
        return [
            name.removesuffix(".delta") for name, module in generator.named_modules() if isinstance(module, LowRank)
        ]

    assert changed("c_attn") == ["h.0.attn.c_attn", "h.1.attn.c_attn"]
    assert changed("h.1.*.c_proj", "mlp.c_fc") == ["h.0.mlp.c_fc", "h.1.attn.c_proj", "h.1.mlp.c_fc", "h.1.mlp.c_proj"]
    assert changed("h.0") == ["h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.mlp.c_fc", "h.0.mlp.c_proj"]
    assert changed("h.[1].attn") == ["h.1.attn.c_attn", "h.1.attn.c_proj"]
