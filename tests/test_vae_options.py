"""Each option of a VAE's training does what it says, in the arithmetic of single updates and small runs."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from textgan.configfile import load_config
from textgan.errors import UserError
from textgan.ops import elbo
from textgan.training import run, vae
from textgan.training.aggressive import Aggressive, catch_up
from textgan.training.building import build_vae
from textgan.training.checkpoint import load_state
from textgan.training.experiment import Experiment

TINY = [
    "name=tiny", "threads=1", "log_every=1", "data.source=stories", "data.size=200", "mle=none",
    "generator.block_size=96", "generator.n_layer=1", "generator.n_head=2", "generator.n_embd=16",
    "generator.dropout=0", "encoder.n_layer=1", "encoder.n_head=2", "encoder.n_embd=16", "encoder.dropout=0",
    "vae.z_size=4", "vae.max_steps=4", "vae.batch_size=8", "vae.warmup_steps=0", "vae.ema=0", "vae.calibrate=false",
    "vae.kl_schedule=constant", "evaluation.every=100", "evaluation.samples=2", "evaluation.final_samples=2",
    "evaluation.iw_samples=2", "evaluation.final_iw_samples=2", "evaluation.show=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "empty.yaml"
    path.write_text("name: tiny\n")
    return path


@pytest.fixture
def config(empty):
    return lambda *options: load_config(empty, [*TINY, *options])


class Bench:
    """One run's learner and batch, without the run: single updates can be looked at."""

    def __init__(self, config):
        corpus = run.read_corpus(config)
        self.tokenizer = run.make_tokenizer(config, corpus)
        train = run.encode(config, corpus, self.tokenizer)["train"]
        device = torch.device("cpu")
        self.run = Experiment(config, Path("none"), device, corpus, self.tokenizer, train, train, None, None, None)
        self.learner = vae.set_up(self.run)
        self.batch = train.batch(torch.arange(config.vae.batch_size))

    def gradients(self, weight, only=None, k=0):
        """The update's values and the gradients that it took, by parameter; the weights stay."""
        before = copy.deepcopy(self.learner.vae.state_dict())
        found = vae.update(self.run, self.learner, self.batch, (k,), weight, 1e-6, only=only)
        grads = {name: p.grad for name, p in self.learner.vae.named_parameters() if p.grad is not None}
        self.learner.vae.load_state_dict(before)
        return found, {name: grad.clone() for name, grad in grads.items()}


@pytest.fixture
def bench(config):
    return lambda *options: Bench(config("vae.grad_clip=0", *options))


def by_hand(bench, weight, k=0):
    """Loss, reconstruction and KL of the bench's batch from the definition, with the update's own noise."""
    settings, model, batch = bench.run.config.vae, bench.learner.vae, bench.batch
    rng = vae.stream("cpu", bench.run.config.seed, "z", k)
    noise = torch.randn(2, len(batch.ids), settings.z_size, generator=rng)[0]
    mu, logvar = model.infer(model.encode(batch.targets, batch.lengths), noise)[1:3]
    z = mu + noise * (0.5 * logvar).exp()
    logits = model.decoder(batch.inputs, condition=model.condition(z))
    nll = F.cross_entropy(logits.transpose(1, 2), batch.targets, reduction="none")
    recon = sum(nll[i, :length].sum() for i, length in enumerate(batch.lengths.tolist()))
    kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum()
    tokens = settings.batch_size * bench.run.train.lengths.double().mean().item()
    return (recon + weight * kl) / tokens, recon / len(batch.ids), kl / len(batch.ids)


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_an_update_follows_the_bound_divided_by_one_constant(bench, weight):
    b = bench()
    found, grads = b.gradients(weight)
    loss, recon, kl = by_hand(b, weight)
    assert found["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert found["recon"].item() == pytest.approx(recon.item(), rel=1e-5)
    assert found["kl"].item() == pytest.approx(kl.item(), rel=1e-4)
    b.learner.vae.zero_grad()
    loss.backward()
    for name, parameter in b.learner.vae.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_without_weight_the_kl_never_enters_the_gradient(bench, monkeypatch):
    b = bench("vae.kl_weight=0")
    monkeypatch.setattr(vae, "free_bits", lambda *args: pytest.fail("the KL was asked for"))
    found, grads = b.gradients(0.0)
    loss, recon, kl = by_hand(b, 0.0)
    assert found["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert found["kl"].item() == pytest.approx(kl.item(), rel=1e-4)  # it is told all the same
    b.learner.vae.zero_grad()
    (recon / b.run.train.lengths.double().mean()).backward()
    for name, parameter in b.learner.vae.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_free_bits_leave_no_gradient_below_the_floor(bench):
    """A floor above every KL is a constant: what is left is the gradient of an autoencoder."""
    b = bench("vae.free_bits=3")
    floored, grads = b.gradients(1.0)
    plain, expected = b.gradients(0.0)
    assert floored["kl"].item() < 3 * 4
    tokens = 8 * b.run.train.lengths.double().mean().item()
    assert floored["loss"].item() == pytest.approx(plain["loss"].item() + 8 * 3 * 4 / tokens, rel=1e-5)
    for name in expected:
        torch.testing.assert_close(grads[name], expected[name])


def test_free_bits_in_total_are_of_the_sum(bench):
    b = bench("vae.free_bits=3", "vae.free_bits_mode=total")
    tokens = 8 * b.run.train.lengths.double().mean().item()
    lift = b.gradients(1.0)[0]["loss"] - b.gradients(0.0)[0]["loss"]
    assert lift.item() == pytest.approx(8 * 3 / tokens, rel=1e-3)


def test_word_dropout_changes_what_the_decoder_reads_and_nothing_else(bench, monkeypatch):
    b = bench("vae.word_dropout=0.4")
    read, reconstruct = {}, vae.reconstruct

    def spy(model, batch, noise, inputs):
        read.update(batch=batch, inputs=inputs)
        return reconstruct(model, batch, noise, inputs)

    monkeypatch.setattr(vae, "reconstruct", spy)
    b.gradients(1.0)
    assert torch.equal(read["batch"].ids, b.batch.ids)
    changed = read["inputs"] != b.batch.inputs
    unknown = b.tokenizer.unk_id
    assert 0.3 < changed[:, 1:].float().mean() < 0.5
    assert not changed[:, 0].any()
    assert (read["inputs"][changed] == unknown).all()


def test_accumulation_is_the_same_batch(bench):
    whole = bench("vae.word_dropout=0.3").gradients(0.7)
    parts = bench("vae.word_dropout=0.3", "vae.accumulate=4").gradients(0.7)
    for name in ("loss", "recon", "kl"):
        assert parts[0][name].item() == pytest.approx(whole[0][name].item(), rel=1e-5)
    assert set(whole[1]) == set(parts[1])
    for name, grad in whole[1].items():
        torch.testing.assert_close(parts[1][name], grad, rtol=1e-3, atol=1e-6)


def test_an_update_of_one_side_moves_that_side_alone(bench):
    b = bench()
    for only, moving in (("encoder", "encoder_parameters"), ("decoder", "decoder_parameters")):
        before = copy.deepcopy(b.learner.vae)
        vae.update(b.run, b.learner, b.batch, (0,), 1.0, 1e-2, only=only)
        for side in ("encoder_parameters", "decoder_parameters"):
            pairs = list(zip(getattr(before, side)(), getattr(b.learner.vae, side)(), strict=True))
            still = [torch.equal(old, new) for old, new in pairs]
            assert not all(still) if side == moving else all(still), (only, side)


def test_every_step_draws_its_own_noise(bench):
    b = bench()
    assert b.gradients(1.0, k=0)[0]["recon"] != b.gradients(1.0, k=1)[0]["recon"]
    assert b.gradients(1.0, k=0)[0]["recon"] == b.gradients(1.0, k=0)[0]["recon"]


@pytest.mark.parametrize("kind", ["mmd", "adversarial"])
def test_the_pull_to_the_prior_is_in_the_encoders_gradient_at_its_weight(bench, kind):
    plain, grads = bench("vae.kl_weight=0").gradients(0.0)
    few, small = bench("vae.kl_weight=0", f"vae.aggregate={kind}", "vae.aggregate_weight=1").gradients(0.0)
    _, large = bench("vae.kl_weight=0", f"vae.aggregate={kind}", "vae.aggregate_weight=3").gradients(0.0)
    assert {"aggregate"} <= set(few) - set(plain)
    name = "posterior.0.weight"
    torch.testing.assert_close(large[name] - grads[name], 3 * (small[name] - grads[name]), rtol=1e-3, atol=1e-6)
    assert not torch.allclose(small[name], grads[name])
    torch.testing.assert_close(large["decoder.wte.weight"], grads["decoder.wte.weight"])
    constant = 8 / (8 * 45)  # texts over tokens, about
    assert (few["loss"] - plain["loss"]).item() == pytest.approx(few["aggregate"].item() * constant, rel=0.2, abs=1e-4)


@pytest.mark.parametrize("kind", ["mmd", "adversarial"])
def test_nothing_pulls_at_the_codes_of_the_autoencoder_of_pretraining(config, tmp_path, kind):
    options = ["vae.pretrain_steps=2", "checkpoint.every=1", "checkpoint.keep_last=9"]
    options += ["vae.bn_gamma=0.5"]  # batches of all lengths, with the pull and without
    run.train(config(*options), tmp_path / "none")
    run.train(config(*options, f"vae.aggregate={kind}"), tmp_path / "pull")
    assert [r["step"] for r in records(tmp_path / "pull") if "train/aggregate" in r] == [3, 4, 5, 6]
    for step, same in ((2, True), (3, False)):
        one, other = (
            load_state(tmp_path / name / f"checkpoints/step-{step:08d}")["learner"]["vae"]["encoder.wte.weight"]
            for name in ("none", "pull")
        )
        assert torch.equal(one, other) == same


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "options",
    [
        ("vae.kl_schedule=linear", "vae.kl_ramp_steps=4", "vae.kl_weight=0.8", "vae.kl_start=0.2"),
        ("vae.kl_schedule=cyclical", "vae.kl_cycles=2", "vae.kl_ramp_share=0.5"),
        ("vae.kl_schedule=constant", "vae.kl_weight=0.4"),
    ],
)
def test_the_weight_of_the_kl_in_the_log_is_the_schedules(config, tmp_path, options):
    settings = config(*options, "vae.max_steps=8", "vae.pretrain_steps=2", "vae.reset_decoder=false")
    run.train(settings, tmp_path / "run")
    logged = [record["schedule/kl_weight"] for record in records(tmp_path / "run") if "schedule/kl_weight" in record]
    own = settings.vae
    rest = [
        elbo.kl_weight_at(
            own.kl_schedule, k, weight=own.kl_weight, start=own.kl_start, total_steps=8,
            ramp_steps=own.kl_ramp_steps, cycles=own.kl_cycles, ramp_share=own.kl_ramp_share,
        )
        for k in range(8)
    ]  # fmt: skip
    assert logged == [0.0, 0.0, *rest]


def test_only_weights_with_the_whole_kl_can_be_the_best(config, tmp_path, monkeypatch):
    """The bound is made to rise from one evaluation to the next: the first that counts is the best."""
    seen = []
    monkeypatch.setattr(
        vae, "evaluate_vae",
        lambda run, model, step: seen.append(step) or {"quality/nll": float(step), "vae/mi": 1.0, "vae/kl": 1.0},
    )  # fmt: skip
    options = ["vae.kl_schedule=linear", "vae.kl_ramp_steps=3", "vae.max_steps=6", "evaluation.every=1"]
    run.train(config(*options, "vae.pretrain_steps=1", "checkpoint.every=1"), tmp_path)
    # Update k of the ramp has weight k/3; the whole weight is in update 3, the fifth of the run.
    assert load_state(tmp_path / "checkpoints" / "step-00000007")["best"] == "step-00000005"


def test_pretraining_ends_with_a_new_decoder_and_the_same_encoder(config, tmp_path, monkeypatch):
    """``set_up`` follows from the seed; only what pretraining learned of the encoder is in what goes on."""
    kept = {}
    end = vae.end_pretraining

    def spy(experiment, learner):
        fresh = end(experiment, learner)
        kept.update(before=copy.deepcopy(learner.vae), after=copy.deepcopy(fresh.vae), fresh=fresh)
        kept.update(moments=len(fresh.optimizer.state), average=copy.deepcopy(fresh.average.state_dict()))
        return fresh

    monkeypatch.setattr(vae, "end_pretraining", spy)
    run.train(config("vae.pretrain_steps=5", "vae.max_steps=2", "vae.lr=1e-2", "vae.ema=0.9"), tmp_path / "run")
    before, after = kept["before"], kept["after"]
    for old, new in zip(before.encoder_parameters(), after.encoder_parameters(), strict=True):
        assert torch.equal(old, new)
    decoders = zip(before.decoder_parameters(), after.decoder_parameters(), strict=True)
    assert not any(torch.equal(old, new) for old, new in decoders if old.dim() == 2)
    assert after.decoder.ln_f.weight.eq(1).all()  # as at the start of a model, and not so after learning
    assert not before.decoder.ln_f.weight.eq(1).all()
    assert kept["moments"] == 0
    assert kept["average"]["updates"] == 0
    assert all(torch.equal(kept["average"]["weights"][k], v) for k, v in after.state_dict().items())


def test_the_decoder_of_pretraining_can_be_kept(bench):
    b = bench("vae.pretrain_steps=1", "vae.reset_decoder=false")
    b.learner.vae.decoder.wte.weight.data.add_(1)
    fresh = vae.end_pretraining(b.run, b.learner)
    assert all(torch.equal(fresh.vae.state_dict()[k], v) for k, v in b.learner.vae.state_dict().items())


def test_free_bits_hold_in_training(config, tmp_path):
    """An encoder that would collapse within these steps keeps about the floor of each dimension."""
    options = ["vae.max_steps=80", "vae.lr=2e-2", "log_every=80"]
    metrics = run.train(config(*options), tmp_path / "plain")["phases"]["vae"]["metrics"]
    floored = run.train(config(*options, "vae.free_bits=0.5"), tmp_path / "floor")["phases"]["vae"]["metrics"]
    assert metrics["kl"] < 0.1
    assert 0.8 * 4 * 0.5 < floored["kl"] < 1.5 * 4 * 0.5


def test_bn_gamma_gives_a_kl_above_its_bound(config, tmp_path):
    """d gamma^2 / 2 is the least KL whose means have the variance gamma^2 (Zhu et al. 2020, eq. 8)."""
    options = ["vae.max_steps=60", "vae.lr=2e-2", "vae.bn_gamma=0.7", "vae.ema=0.9"]
    results = run.train(config(*options), tmp_path / "run")
    assert results["phases"]["vae"]["metrics"]["kl"] > 0.9 * 4 * 0.7**2 / 2
    logged = [record["train/kl"] for record in records(tmp_path / "run") if "train/kl" in record]
    assert min(logged) > 4 * 0.7**2 / 2 * 0.99  # an epsilon keeps a first spread of nearly nothing small


@pytest.mark.parametrize("options", [(), ("vae.latents=layerwise", "generator.n_layer=2"), ("vae.bn_whiten=true",)])
def test_statistics_of_the_batch_norm_are_those_of_the_weights_that_are_evaluated(bench, options):
    b = bench("vae.bn_gamma=0.5", "vae.ema=0.9", "encoder.dropout=0.3", *options)
    vae.update(b.run, b.learner, b.batch, (0,), 1.0, 1e-2)
    b.learner.average.update()
    model = b.learner.average.module
    vae.fit_batch_norm(b.run, model)
    rows = b.run.train.batch(torch.arange(len(b.run.train)))
    mu = model.infer(model.encode(rows.targets, rows.lengths), torch.randn(len(rows.ids), 4)).mu
    torch.testing.assert_close(mu[:, :2].std(0, correction=0), torch.full((2,), 0.5), rtol=1e-3, atol=0)
    correlated = (torch.corrcoef(mu[:, :2].T) - torch.eye(2)).abs().max() > 0.01
    assert correlated == ("vae.bn_whiten=true" not in options)
    assert not torch.allclose(b.learner.vae.bn[0].running_var, model.bn[0].running_var)


def test_batches_whose_codes_are_compared_hold_texts_of_all_lengths(bench):
    def spread(b):
        lengths = [b.run.train.lengths[vae.batches(b.run, "vae").indices(k)].double().std() for k in range(8)]
        return torch.stack(lengths).mean()

    assert spread(bench()) < 0.3 * spread(bench("vae.bn_gamma=0.5"))
    assert spread(bench()) < 0.3 * spread(bench("vae.aggregate=mmd"))


# ---------------------------------------------------------------------------------------------- aggressive updates


def losses(*values):
    left = list(values)
    return lambda: (torch.tensor(float(left.pop(0))), 1)


def test_the_encoder_catches_up_until_its_mean_loss_falls_no_more():
    assert catch_up(losses(9, 9, 7, 7, 8, 6, 0, 0), most=100, window=2) == 6  # means 9, 7, 7
    assert catch_up(losses(9, 9, 7, 7, 6, 6, 0, 0), most=7, window=2) == 7
    assert catch_up(losses(3, 3, 4, 4, 0, 0), most=100, window=2) == 4


def test_the_mean_loss_is_of_tokens_not_of_batches():
    left = [(8.0, 2), (2.0, 2), (4.0, 4), (6.0, 1), (0.0, 1), (0.0, 1)]  # 10/4, then 10/5: less a token
    assert catch_up(lambda: (torch.tensor(left[0][0]), left.pop(0)[1]), most=6, window=2) == 6


def test_a_loss_that_is_no_number_ends_the_catching_up():
    assert catch_up(losses(1, 1, math.nan, 1, 0, 0), most=100, window=2) == 4


def test_the_encoder_stops_running_ahead_when_information_rises_no_more():
    state = Aggressive(True)
    for information, active in ((0.1, True), (0.5, True), (0.5, False), (0.9, False)):
        state.note(information)
        assert state.active is active
    assert not Aggressive(False).active
    copied = Aggressive(True)
    copied.load_state_dict(state.state_dict())
    assert copied == state


def test_the_encoder_is_updated_several_times_for_each_update_of_the_decoder(config, tmp_path, monkeypatch):
    calls, plain = [], vae.update

    def spy(*args, only=None, **options):
        calls.append(only)
        return plain(*args, only=only, **options)

    information = iter([1.0, 2.0, 1.5, 9.0])
    evaluate = vae.evaluate_vae
    monkeypatch.setattr(vae, "update", spy)
    monkeypatch.setattr(vae, "evaluate_vae", lambda *args: evaluate(*args) | {"vae/mi": next(information, 0.0)})
    options = ["vae.aggressive=true", "vae.aggressive_max_updates=3", "vae.aggressive_window=1", "vae.max_steps=8"]
    run.train(config(*options, "evaluation.every=2"), tmp_path / "run")
    text = "".join({"encoder": "e", "decoder": "d", None: "b"}[only] for only in calls)
    parts = text.split("d")
    assert len(parts) == 7  # six updates of the decoder alone, until the third evaluation
    assert all(set(part) == {"e"} and 2 <= len(part) <= 3 for part in parts[:-1])
    assert parts[-1] == "bb"
    logged = [r["train/encoder_updates"] for r in records(tmp_path / "run") if "train/encoder_updates" in r]
    assert logged[-1] == text.count("e")
    assert logged == sorted(logged)
    state = load_state(tmp_path / "run" / "checkpoints" / "step-00000008")["learner"]["aggressive"]
    assert state == {"active": False, "updates": text.count("e"), "information": 9.0}


def test_batches_of_the_encoder_alone_are_fresh_ones(bench, monkeypatch):
    b = bench("vae.aggressive_max_updates=4", "vae.aggressive_window=4")
    seen = []
    monkeypatch.setattr(
        vae, "update", lambda run, learner, batch, name, *rest, **more: seen.append(name) or {"loss": torch.ones(())}
    )
    plan = vae.batches(b.run, "vae-ahead")
    asked, indices = [], plan.indices
    plan.indices = lambda step: asked.append(step) or indices(step)
    for _ in range(2):
        vae.run_ahead(b.run, b.learner, plan, 1.0, 1e-3)
    assert asked == list(range(8))
    assert len(set(seen)) == 8


# ---------------------------------------------------------------------------------------------- wrong configs


@pytest.mark.parametrize(
    "options, told",
    [
        (["adversarial.init_from=runs/a"], "either a `vae` section or an `adversarial` one"),
        (["vae.latents=layerwise", "generator.kind=lstm"], "vae.latents=layerwise needs generator.kind=transformer"),
        (["vae.latents=layerwise", "generator.n_layer=3"], "vae.z_size=4 is not divisible by generator.n_layer=3"),
        (["vae.batch_size=9", "vae.accumulate=2"], "batch_size=9 is not divisible by accumulate=2"),
        (["vae.free_bits=1", "vae.kl_weight=0"], "free_bits=1.0 has no effect with kl_weight=0"),
        (["vae.kl_schedule=linear", "vae.kl_start=2", "vae.kl_ramp_steps=1"], "kl_start=2.0 is above kl_weight=1.0"),
        (["vae.kl_schedule=linear", "vae.kl_ramp_steps=9"], "kl_ramp_steps=9 is above max_steps=4"),
        (["vae.bn_gamma=0.5", "vae.accumulate=8"], "bn_gamma needs at least 2 texts in each micro-batch"),
        (["vae.bn_whiten=true"], "bn_whiten=true has no effect without bn_gamma"),
        (["vae.bn_gamma=1", "vae.bn_whiten=true", "vae.accumulate=4"], "more texts in each micro-batch than z_size=4"),
        (["vae.aggressive=true", "vae.kl_weight=0"], "whose encoder cannot lag"),
        (["vae.aggregate=mmd", "vae.aggregate_weight=0"], "vae.aggregate_weight"),
        (["vae.aggregate_weight=2"], "no effect with aggregate=none"),
        (["mle={}"], "mle.calibrate=True but vae.calibrate=False"),
        (["encoder.n_embd=30", "encoder.n_head=4"], "encoder.n_embd=30 is not divisible by encoder.n_head=4"),
        (["vae.injection=side"], "must be one of embedding, memory, both"),
        (["vae=none"], "nothing to train"),
    ],
)
def test_a_wrong_config_is_one_clear_line(config, options, told):
    with pytest.raises(UserError) as error:
        config(*options)
    lines = str(error.value).splitlines()
    assert len([line for line in lines if told in line]) == 1, lines
    assert len(lines) == 1


def test_shapes_of_the_config_reach_the_model(config):
    lstm = build_vae(config("generator.kind=lstm", "generator.n_hidden=24", "encoder.kind=lstm"), 50)
    assert (lstm.decoder.n_hidden, lstm.decoder.n_extra, lstm.encoder.n_features) == (24, 4, 1024)
    assert (
        build_vae(config("generator.kind=lstm", "generator.n_hidden=24", "vae.injection=memory"), 50).decoder.n_extra
        == 0
    )
    deep = build_vae(config("generator.n_layer=2", "vae.latents=layerwise", "vae.bn_gamma=0.6"), 50)
    assert (deep.latents, deep.groups) == ("layerwise", 2)
    assert [layer.weight.tolist() for layer in deep.bn] == [pytest.approx([0.6, 0.6])] * 2
    assert build_vae(config("encoder.pooling=max"), 50).encoder.pooling == "max"
