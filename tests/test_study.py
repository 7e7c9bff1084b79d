"""Reading runs: which are seeds of one setting, which arms are the same, and what may not be compared."""

import json
import shutil

import numpy as np
import pytest

from tests.synthetic_runs import SIGNATURE, N, front, write_record, write_run
from textgan.analysis.runs import run_sources, setting_of
from textgan.analysis.study import build_study, signature_differences
from textgan.configfile import load_config
from textgan.errors import UserError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def both_arms(rng):
    return {"mle": front(rng), "adversarial": front(rng, shift=0.03)}


def study(*paths, **options):
    return build_study(run_sources(paths), **options)


def test_seeds_of_one_setting_are_one_arm(rng, tmp_path):
    paths = [write_run(tmp_path / f"gan-s{seed}", both_arms(rng), seed=seed) for seed in (2, 0, 1)]
    found = study(*paths)
    assert list(found.arms) == ["mle", "adversarial"]
    arm = found.arms["adversarial"]
    assert arm.seeds == (0, 1, 2)
    assert arm.title == "gan"
    assert list(arm.records) == ["temperature=0.6", "temperature=0.8", "temperature=1", "temperature=1.2"]
    for sampler, own in arm.records.items():
        assert [record.point.training_seed for record in own] == [0, 1, 2]
        assert {record.point.sampler for record in own} == {sampler}
    assert arm.runs == [str(tmp_path / f"gan-s{seed}") for seed in (0, 1, 2)]
    assert (found.split, found.n, found.signature) == ("dev", N, SIGNATURE)


def test_other_settings_are_other_arms_with_names_of_their_own(rng, tmp_path):
    first = write_run(tmp_path / "small", both_arms(rng))
    second = write_run(tmp_path / "large", {"mle": front(rng)}, overrides=["generator.n_embd=32"])
    write_record(second, "mle", "temperature=1", front(rng)["temperature=1"], weights="others")
    for own in (second / "evaluation" / f"dev-n{N}-s0" / "mle").glob("*.json"):
        own.write_text(own.read_text().replace("mle-0", "others"))
    found = study(first, second)
    assert list(found.arms) == ["small/mle", "large/mle", "adversarial"]
    assert found.arms["small/mle"].setting == found.arms["adversarial"].setting
    assert found.arms["large/mle"].setting != found.arms["adversarial"].setting


def test_a_parent_in_two_runs_is_one_arm(rng, tmp_path):
    parent = write_run(tmp_path / "parent", {"mle": front(rng)}, overrides=["adversarial=none"])
    child = write_run(
        tmp_path / "child", both_arms(rng), overrides=["mle=none", f"adversarial.init_from={tmp_path / 'parent'}"]
    )
    found = study(parent, child)
    assert list(found.arms) == ["mle", "adversarial"]
    assert found.name_of[found.arms["adversarial"].setting, "mle"] == "mle"
    values = [json.loads(r.path.read_text())["values"] for r in found.arms["mle"].records["temperature=1"]]
    assert values == [found.arms["mle"].records["temperature=1"][0].point.values]
    assert found.arms["mle"].runs == [str(parent)]


def test_children_of_parents_that_differ_in_their_seed_are_one_setting(rng, tmp_path):
    sources = []
    for seed in (3, 4):
        parent = write_run(tmp_path / f"mle-{seed}", {"mle": front(rng)}, seed=seed, overrides=["adversarial=none"])
        child = tmp_path / f"gan-{seed}"
        overrides = ["mle=none", f"adversarial.init_from={parent}"]
        sources += run_sources([write_run(child, {"adversarial": front(rng)}, overrides=overrides)])
    assert len({source.setting for source in sources}) == 1
    both = run_sources([tmp_path / "gan-3", tmp_path / "gan-4"])
    assert [(source.seed, source.title) for source in both] == [(3, "gan"), (4, "gan")]  # those of the parents


@pytest.mark.parametrize("origin, told", [("mle", True), ("none", False)])
def test_a_vae_that_goes_on_from_a_generator_is_told_to_have_had_more_updates(rng, tmp_path, origin, told):
    overrides = ["adversarial=none", f"vae.init_from={origin}"]
    run = write_run(tmp_path / "a", {"mle": front(rng), "vae": front(rng)}, overrides=overrides)
    found = [note for note in study(run).notes if "not compared at equal updates" in note]
    assert [note.startswith(f"{run}: ") for note in found] == [True] * told


@pytest.mark.parametrize(
    "override, same", [("name=x", True), ("seed=5", True), ("threads=2", True), ("mle.lr=2e-3", False)]
)
def test_setting_is_all_but_seed_name_and_machine(override, same):
    base, other = (load_config("configs/smoke.yaml", own) for own in ([], [override]))
    assert (setting_of(base) == setting_of(other)) is same


def test_a_run_given_twice_counts_once_and_a_copy_is_refused(rng, tmp_path):
    run = write_run(tmp_path / "a", both_arms(rng))
    assert len(run_sources([run, tmp_path / "." / "a"])) == 1
    copy = shutil.copytree(run, tmp_path / "b")
    with pytest.raises(UserError, match=r"a and .*b are one setting with one seed \(0\)"):
        run_sources([run, copy])


def test_signatures_that_differ_are_refused_or_marked(rng, tmp_path):
    arms = {"mle": front(rng), "adversarial": front(rng)}
    run = write_run(tmp_path / "a", arms)
    other = {**SIGNATURE, "references_sha256": "cc", "sampling": {"seed": 1}}
    write_record(run, "adversarial", "temperature=1", arms["adversarial"]["temperature=1"], signature=other)
    with pytest.raises(UserError, match=r"\(references_sha256, sampling.seed differ\).*--mark-differences"):
        study(run)
    found = study(run, mark_differences=True)
    assert found.arms["adversarial"].differs == ("references_sha256", "sampling.seed")
    assert found.arms["mle"].differs == ()
    assert any("adversarial was measured otherwise" in note for note in found.notes)


def test_signature_differences_names_keys_on_one_side_too():
    assert signature_differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}, "d": None}) == ["b.c", "d"]
    assert signature_differences(SIGNATURE, dict(SIGNATURE)) == []


def test_samplers_that_a_seed_lacks_are_left_out_and_told(rng, tmp_path):
    runs = [write_run(tmp_path / f"r{seed}", {"mle": front(rng)}, seed=seed) for seed in (0, 1)]
    write_record(runs[0], "mle", "top_k=5", front(rng)["temperature=1"])
    found = study(*runs)
    assert "top_k=5" not in found.arms["mle"].records
    assert any("top_k=5 left out" in note for note in found.notes)


def test_most_texts_are_chosen_of_what_all_have(rng, tmp_path):
    run = write_run(tmp_path / "a", {"mle": front(rng)})
    larger = {**SIGNATURE, "texts": 400}
    write_run(run, {"mle": front(rng)}, n=400, signature=larger, real={"bleu_4": 0.5})
    found = study(run)
    assert (found.n, found.real) == (400, {"bleu_4": 0.5})
    assert any("there are also dev-n200-s0" in note for note in found.notes)
    other = write_run(tmp_path / "b", {"mle": front(rng)}, seed=1, real={"bleu_4": 0.3})
    both = study(run, other)
    assert (both.n, both.real) == (N, {"bleu_4": 0.3})  # real text of the first run has no values there
    third = write_run(tmp_path / "c", {"mle": front(rng)}, seed=2, n=300)
    with pytest.raises(UserError, match="was evaluated as dev-n300-s0"):
        study(run, third)


def test_splits_are_kept_apart(rng, tmp_path):
    run = write_run(tmp_path / "a", {"mle": front(rng)}, setting="test")
    (run / "evaluation" / "test_reads.json").write_text('{"count": 3, "reads": []}')
    with pytest.raises(UserError, match=r"no records of the dev split \(it has test-n200-s0\)"):
        study(run)
    assert study(run, split="test").test_reads == {str(run): 3}


def test_records_of_several_weights_are_refused(rng, tmp_path):
    run = write_run(tmp_path / "a", {"mle": front(rng)})
    write_record(run, "mle", "temperature=1", front(rng)["temperature=1"], weights="newer")
    with pytest.raises(UserError, match="holds records of different weights"):
        study(run)


def test_seeds_with_the_same_weights_are_told(rng, tmp_path):
    runs = [tmp_path / "r0", tmp_path / "r1"]
    for seed, run in enumerate(runs):
        arms = front(rng)
        write_run(run, {}, seed=seed)
        for sampler, values in arms.items():
            write_record(run, "mle", sampler, values, weights="one")
            write_record(run, "kneser_ney", sampler, values, weights="ngrams")
    notes = study(*runs).notes
    assert [note for note in notes if "same weights" in note] == [
        "mle: several of its seeds have the same weights; claims hold for these weights alone"
    ]


def test_what_cannot_be_read_is_told(rng, tmp_path):
    with pytest.raises(UserError, match="is not the folder of a run"):
        run_sources([tmp_path])
    run = write_run(tmp_path / "a", {"mle": front(rng)})
    shutil.rmtree(run / "evaluation")
    with pytest.raises(UserError, match=r"has no records of the dev split; make them with: textgan evaluate"):
        study(run)
