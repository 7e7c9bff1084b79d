"""What runs on a GPU gives what the CPU gives; skipped where there is none."""

import math
from pathlib import Path

import pytest
import torch

from textgan.configfile import load_config
from textgan.models.generator import Generator
from textgan.sampling.rollout import rollout, sample_ids
from textgan.training import run
from textgan.training.evaluation import text_nll
from textgan.training.loading import load_for_sampling

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_phases_train_and_resume_on_the_gpu(tmp_path, precision):
    config = load_config(SMOKE, ["device=cuda", f"precision={precision}"])
    results = run.train(config, tmp_path / "run")
    assert all(math.isfinite(v) for entry in results["phases"].values() for v in entry["metrics"].values())
    (tmp_path / "run" / "results.json").unlink()
    run.train(config, tmp_path / "run", resume=True)


def test_a_checkpoint_of_the_gpu_has_the_same_likelihood_on_the_cpu(tmp_path):
    config = load_config(SMOKE, ["device=cuda", "adversarial=none"])
    run.train(config, tmp_path / "run")
    corpus = run.read_corpus(config)
    nll = []
    for device in ("cuda", "cpu"):
        model = load_for_sampling(tmp_path / "run", device)
        dev = run.encode(config, corpus, model.tokenizer)["dev"]
        nll.append(text_nll(model.generator, dev, batch_size=8, device=torch.device(device)))
    torch.testing.assert_close(*nll, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("estimator", ["straight_through", "gumbel_rao", "reinmax", "gapped", "relgan"])
def test_rollouts_carry_gradient_on_the_gpu(estimator):
    torch.manual_seed(0)
    generator = Generator(20, 12, 2, 2, 16, dropout=0.0).cuda().eval()
    rng = torch.Generator("cuda").manual_seed(0)
    ids, lengths = sample_ids(generator, 6, 12, eos_id=0, rng=rng)
    fake = rollout(generator, ids, lengths, eos_id=0, estimator=estimator, tau=1.0, rng=rng)
    (fake.tokens.vectors() * torch.randn(20, device="cuda")).sum().backward()
    assert generator.wte.weight.grad.isfinite().all()
    assert generator.wte.weight.grad.abs().sum() > 0
