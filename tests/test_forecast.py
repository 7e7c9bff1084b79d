"""What a dry run says of cost: work counted against torch's own counter, bytes against what autograd keeps."""

import time

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks import cost
from tests.benchmarks.adversarial import full_batch, players
from tests.benchmarks.models import Shape, ours
from textgan.config import Config
from textgan.confignets import Generator as GeneratorShape
from textgan.data.dataset import TokenDataset
from textgan.models.generator import Generator
from textgan.models.lstm import LSTMGenerator
from textgan.training import estimate, work
from textgan.training.adversarial_steps import discriminator_step, draw_texts, generator_step
from textgan.training.building import build_vae
from textgan.training.objectives import mle_loss, reconstruct
from textgan.training.phases import Planner
from textgan.training.work import KINDS, Texts, Work, net_of

SHAPE = Shape(batch=4, length=12, vocab=100, width=32, layers=2, heads=2)
TEXTS = Texts(4, 48, 48, 12)


def attention(passes: float, shape: Shape = SHAPE) -> float:
    """FLOP of Q K and P V in so many passes: torch's counter does not know the CPU's fused attention."""
    return passes * 4 * shape.batch * shape.length**2 * shape.width * shape.layers


def counted(run) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_products_of_a_step_of_maximum_likelihood_are_those_that_torch_counts():
    model, batch = ours(shape=SHAPE).train(), full_batch("cpu", SHAPE)
    net = net_of(model, GeneratorShape(n_layer=2, n_head=2, n_embd=32, dropout=0.0), SHAPE.vocab)
    assert net.weights == 2 * 12 * 32 * 32
    found = counted(lambda: mle_loss(model, batch, 1.0).backward())
    assert work.mle_step(net, TEXTS).products == found + attention(3)
    assert work.mle_step(net, TEXTS).updated == model.num_parameters()


@pytest.mark.parametrize(
    "settings",
    [
        {"estimator": "straight_through"},
        {"estimator": "gapped"},
        {"estimator": "gumbel_rao", "mle_weight": 0.0, "adv_ratio": None},
        {"estimator": "straight_through", "loss": "non_saturating", "kl_weight": 0.5},
    ],
    ids=str,
)
def test_products_of_an_adversarial_iteration_are_those_that_torch_counts(settings):
    run, both, parent = players("cpu", SHAPE, **settings)
    batch = full_batch("cpu", SHAPE)
    judged, own = draw_texts(run, both, 0)
    found = counted(
        lambda: (
            discriminator_step(run, both, batch, judged[0], ("d", 0), 0),
            generator_step(run, both, parent, batch, own, 1.0, 0, logged=False),
        )
    )
    nets = [
        net_of(model, shape, SHAPE.vocab)
        for model, shape in ((both.generator, run.config.generator), (both.discriminator, run.config.discriminator))
    ]
    expected = work.iteration(run.config, *nets, TEXTS, TEXTS).products
    passes = 2 * 3 + 3 + 2 + 3 * (settings.get("mle_weight") != 0.0)
    passes += 4 * bool(settings.get("kl_weight")) + (settings.get("loss") is None)
    assert expected - attention(passes) == pytest.approx(found, rel=0.01)  # the critic pools and scores, too


def test_sampling_is_counted_by_the_passes_of_its_positions():
    model = ours(shape=SHAPE).eval()
    net = net_of(model, GeneratorShape(n_layer=2, n_head=2, n_embd=32, dropout=0.0), SHAPE.vocab)
    one = counted(lambda: model(torch.zeros(4, 1, dtype=torch.long)))
    found = work.decode(net, TEXTS)
    assert found.decoded == 12 * one
    assert found.cached == sum(2 * 32 * 2 * 4 * (t + 0.5) for t in range(12))  # keys and values of the columns so far
    assert found.drawn == 48 * 100


def test_an_lstm_multiplies_by_its_steps_and_reads_and_writes_by_tables_of_their_own():
    model = LSTMGenerator(100, 12, 1, 16, 24, dropout=0.0)
    net = net_of(model, GeneratorShape(kind="lstm", n_layer=1, n_embd=16, n_hidden=24), 100)
    assert net.weights == 4 * 24 * (16 + 24)
    assert net.parameters == model.num_parameters()
    assert work.mle_step(net, TEXTS).products == counted(lambda: model.head(torch.randn(48, 24))) * 3
    assert work.mle_step(net, TEXTS).decoded_calls == 3 * 12


def test_a_vae_is_its_encoder_and_its_decoder():
    config = Config.model_validate(
        {
            "generator": {"block_size": 12, "n_layer": 2, "n_head": 2, "n_embd": 32, "dropout": 0.0},
            "encoder": {"n_layer": 1, "n_head": 2, "n_embd": 32, "dropout": 0.0},
            "vae": {"z_size": 4},
        }
    )
    vae, batch = build_vae(config, 100), full_batch("cpu", SHAPE)
    nets = net_of(vae.encoder, config.encoder, 100), net_of(vae.decoder, config.generator, 100)
    found = counted(lambda: reconstruct(vae, batch, torch.randn(4, 4), batch.inputs)[1].backward())
    expected = work.vae_step(*nets, TEXTS).products - attention(3, SHAPE._replace(layers=3))
    assert expected == pytest.approx(found, rel=0.02)  # posterior and injection of z are small


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_bytes_for_the_gradient_are_those_that_autograd_keeps(dropout):
    shape = Shape(batch=8, length=24, vocab=50, width=64, layers=4)
    model, batch = ours(dropout, shape=shape).train(), full_batch("cpu", shape)
    held = {}

    def keep(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.states(batch.inputs, at=batch.mask)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    kept = sum(size for size, _ in held.values()) - weights
    net = net_of(model, GeneratorShape(n_layer=4, n_head=4, n_embd=64, dropout=dropout), 50)
    texts = Texts(8, 8 * 24, 8 * 24, 24)
    one_more = estimate.kept_bytes(net._replace(layers=0), texts, "cpu", dropout=True)
    assert estimate.kept_bytes(net, texts, "cpu", dropout=True) - one_more == pytest.approx(kept, rel=0.05)


def test_what_is_trained_takes_weights_gradients_moments_and_average():
    model = Generator(50, 8, 1, 2, 16)
    net = net_of(model, GeneratorShape(n_layer=1, n_head=2, n_embd=16), 50)
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    moments = [x for state in optimizer.state.values() for x in state.values() if x.dim()]
    tensors = [*model.parameters(), *(p.grad for p in model.parameters()), *moments]
    assert estimate.trained_bytes(net, 0.0) == sum(x.numel() * x.element_size() for x in tensors)
    assert estimate.trained_bytes(net, 0.99) == estimate.trained_bytes(net, 0.0) + 4 * model.num_parameters()


def test_shapes_come_without_weights():
    config = Config.model_validate({"generator": {"n_layer": 100, "n_embd": 16_384, "n_head": 8}})
    model = work.on_meta(lambda: Generator(50, 8, 2, 2, 16))
    assert all(p.is_meta for p in model.parameters())
    lengths = TokenDataset(torch.zeros(30, dtype=torch.long), torch.tensor([0, 10, 20, 30]), 0)
    splits = {"train": lengths, "dev": lengths, "test": None}
    planner = Planner(config, splits, 50, "cpu")  # 1.2 TB of weights
    assert planner.generator.weights == 100 * 12 * 16_384**2


def test_padding_is_paid_for_and_more_of_everything_costs_more():
    rng = np.random.default_rng(0)

    def step(lengths, **settings):
        offsets = torch.tensor([0, *lengths]).cumsum(0)
        data = TokenDataset(torch.zeros(int(offsets[-1]), dtype=torch.long), offsets, 0)
        config = Config.model_validate({"generator": {"block_size": 64}, "mle": {"calibrate": False, **settings}})
        return Planner(config, {"train": data, "dev": data, "test": None}, 500, "cpu").phases()["mle"]

    even, uneven = [20] * 3840, rng.permutation([10, 30] * 1920).tolist()
    plain = step(even)
    assert plain.steps == 2000
    assert plain.epochs == 2000 / 60
    assert step(even, batch_size=128).step.products == pytest.approx(2 * plain.step.products, rel=1e-6)
    by_length = step(uneven).step
    assert by_length.products == pytest.approx(plain.step.products, rel=0.05)  # sorted: no padding
    longest = step([30] * 3840)
    assert step(uneven).held == longest.held > plain.held  # what the largest batch needs
    assert by_length.products < longest.step.products
    twice = step(even, accumulate=2)
    assert twice.step.products == pytest.approx(plain.step.products)
    assert twice.held < plain.held
    assert twice.step.calls == 2 * plain.step.calls


def test_a_fit_finds_prices_back_and_makes_none_negative():
    rng = np.random.default_rng(0)
    prices = np.array([1.2, 0.0, 3.0])
    features = rng.lognormal(sigma=1.0, size=(30, 3))
    assert cost.fit(features, features @ prices) == pytest.approx(prices, abs=1e-6)
    negative = features @ [1.0, -0.05, 1.5]
    assert cost.fit(features[negative > 0], negative[negative > 0])[1] == 0.0


def test_seconds_are_work_times_prices_of_the_probe(monkeypatch):
    monkeypatch.setitem(
        estimate.PRICES, "cpu", dict.fromkeys(KINDS, 0.0) | {"products": 2.0, "logits": 3.0, "calls": 5.0}
    )
    speed = estimate.Speed(product=1e-9, stream=1e-8, call=1e-6)
    amount = Work(products=1e6, logits=1e3, calls=10)
    assert estimate.seconds(amount, speed) == pytest.approx(2e-3 + 3e-5 + 5e-5)
    assert estimate.seconds(amount * 3 + amount, speed) == pytest.approx(4 * estimate.seconds(amount, speed))
    assert estimate.seconds(amount, speed, "cuda") is None


def test_a_probe_is_quick_and_positive():
    began = time.monotonic()
    speed = estimate.probe(torch.device("cpu"))
    assert min(speed) > 0
    assert time.monotonic() - began < 20
