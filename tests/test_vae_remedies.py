"""The benchmark of remedies: every row is a config of its own that trains, and the table says what the runs did."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.benchmarks import vae_remedies
from tests.benchmarks.vae_remedies import COLUMNS, HEADS, ROWS, main, make_plan, parse_seeds, remedies, table
from textgan.configfile import load_config
from textgan.errors import UserError

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "vae"
SMOKE = str(CONFIGS / "smoke.yaml")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_row_differs_from_plain_in_what_it_names_alone(path):
    plan = {row: config for row, _, config in make_plan(str(path), ["vae.word_dropout=0.1"], None, [0])}
    small = plan["plain"].vae.batch_size <= plan["plain"].vae.z_size
    lacking = {"mle_longer"} | ({"layerwise"} if plan["mle"].generator.kind == "lstm" else set())
    lacking |= {"bn_whiten"} if small else set()
    assert tuple(plan) == tuple(row for row in ROWS if row not in lacking)
    assert plan["mle"].vae is None
    assert plan["mle"].mle == load_config(path).mle
    plain = plan["plain"].vae.model_dump()
    named = {
        "ae": {"kl_weight"},
        "plain": set(),
        "linear": {"kl_schedule"},
        "cyclical": {"kl_schedule"},
        "free_bits": {"kl_schedule", "free_bits"},
        "free_bits_total": {"kl_schedule", "free_bits", "free_bits_mode"},
        "beta": {"kl_weight"},
        "word_dropout": {"kl_schedule", "word_dropout"},
        "bn": {"kl_schedule", "bn_gamma"},
        "bn_whiten": {"kl_schedule", "bn_gamma", "bn_whiten"},
        "fbp": {"kl_schedule", "free_bits", "pretrain_steps"},
        "aggressive": {"kl_schedule", "aggressive", "aggressive_max_updates"},
        "layerwise": {"kl_schedule", "latents"},
    }
    for row, config in plan.items():
        assert config.adversarial is config.latent_gan is None
        if row != "mle":
            assert config.mle is None
            found = {key for key, value in config.vae.model_dump().items() if value != plain[key]}
            assert found - {"z_size"} == named[row], row
            assert config.generator == plan["mle"].generator
    assert set(named) | {"mle", "mle_longer"} == set(ROWS) == set(remedies(load_config(path)))
    assert plan["free_bits_total"].vae.free_bits == 0.25 * plan["free_bits"].vae.z_size
    if "layerwise" in plan:
        sizes = plan["layerwise"].vae.z_size, plan["plain"].vae.z_size
        assert sizes[0] % plan["plain"].generator.n_layer == 0
        assert 0 <= sizes[1] - sizes[0] < plan["plain"].generator.n_layer


@pytest.mark.parametrize(
    "base, rows, message",
    [
        (SMOKE, ["plain", "magic"], "unknown row magic; known: mle, mle_longer, ae, plain"),
        (str(CONFIGS.parent / "smoke.yaml"), None, "has no `vae` section"),
        (str(CONFIGS / "ptb_lstm.yaml"), ["layerwise"], "needs generator.kind=transformer"),
        (str(CONFIGS / "ptb_lstm.yaml"), ["bn_whiten"], "more texts in each micro-batch than z_size=32"),
    ],
)
def test_impossible_tables_are_refused(base, rows, message):
    with pytest.raises(UserError, match=message):
        make_plan(base, [], rows, [0])


def test_seeds_are_numbers():
    assert parse_seeds("3, 1,3") == [3, 1]
    for text in ("", "1,", "a"):
        with pytest.raises(UserError, match="with commas between them"):
            parse_seeds(text)


def test_the_table_has_means_and_spreads():
    shared = {"failed": False, "nll": 2.0, "minutes": 0.25, "cpu_minutes": 0.5}
    runs = [
        {"row": "mle", "seed": 0, "ppl": 10.0, **shared},
        {"row": "mle", "seed": 1, "ppl": 14.0, **shared},
        {"row": "bn", "seed": 0, "ppl": 9.5, **shared, **dict.fromkeys(["elbo", "recon", "kl", "mi"], 1.0)},
        {"row": "bn", "seed": 1, "failed": True},
    ]
    runs[2] |= {"active_units": 3.0, "active_directions": 3.0}
    assert table(runs).splitlines() == [
        "| | PPL | NLL | -ELBO | rec | KL | MI | AU | AD | minutes | CPU min |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| mle | 12.00 ± 2.83 | 2.00 ± 0.00 |  |  |  |  |  |  | 0.2 ± 0.0 | 0.5 ± 0.0 |",  # sd of 10, 14: sqrt(8)
        "| bn (1 of 2 failed) | 9.50 | 2.00 | 1.00 | 1.00 | 1.00 | 1.00 | 3.0 | 3.0 | 0.2 | 0.5 |",
    ]
    assert len(COLUMNS) == len(HEADS)


@pytest.mark.slow
def test_two_rows_are_trained_once_and_read_again(tmp_path, monkeypatch):
    shrink = ["data.size=200", "vae.max_steps=2", "vae.kl_ramp_steps=1", "mle.max_steps=2", "threads=1"]
    shrink += ["evaluation.samples=4", "evaluation.final_samples=4", "evaluation.final_iw_samples=3"]
    arguments = [SMOKE, *shrink, "--out", str(tmp_path), "--rows", "mle,fbp", "--json"]
    (tmp_path / "mle" / "seed-0").mkdir(parents=True)
    (tmp_path / "mle" / "seed-0" / "metrics.jsonl").write_text("")  # as if killed before its first checkpoint
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    mle, fbp = json.loads(result.stdout)["runs"]
    found = json.loads((tmp_path / "fbp" / "seed-0" / "results.json").read_text())["phases"]["vae"]["metrics"]
    assert fbp["ppl"] == found["test_ppl"]
    assert fbp["elbo"] == pytest.approx(found["test_recon"] + found["test_kl"])
    assert (fbp["split"], fbp["iw_samples"], fbp["step"], fbp["z_size"]) == ("test", 3, 6, 4)
    assert (mle["step"], mle["iw_samples"]) == (2, None)
    assert "kl" not in mle
    assert min(run[key] for run in (mle, fbp) for key in ("minutes", "cpu_minutes")) > 0

    def refuse(*args, **kwargs):
        raise AssertionError("what is finished must not be trained again")

    monkeypatch.setattr(vae_remedies.subprocess, "run", refuse)
    again = CliRunner().invoke(main, arguments[:-1], catch_exceptions=False)
    assert again.stdout.splitlines()[2].startswith(f"| mle | {mle['ppl']:.2f} |")
    assert "with 3 draws of z a text" in again.stdout
    other = CliRunner().invoke(main, [*arguments, "vae.lr=0.5"])
    assert other.exit_code == 1
    assert "was trained with another config" in other.output


def test_warm_decoders_start_from_the_generator_of_their_seed(tmp_path):
    plan = make_plan(SMOKE, [], None, [0, 3], tmp_path)
    steps = {row: config.mle.max_steps for row, _, config in plan if config.mle}
    assert steps["mle_longer"] == steps["mle"] + load_config(SMOKE).vae.max_steps
    for row, seed, config in plan:
        expected = None if row in ("mle", "mle_longer") else ("vae.init_from", str(tmp_path / "mle" / f"seed-{seed}"))
        assert config.parent == expected
    assert all(config.parent is None for _, _, config in make_plan(SMOKE, ["vae.init_from=mle"], None, [0]))
