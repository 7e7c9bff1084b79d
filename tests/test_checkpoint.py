"""Checkpoints: round trip, pointers, pruning, and one clear line for everything that is not a good one."""

import errno
import json
import os
import pickle

import pytest
import torch

from textgan.config import Config
from textgan.data.tokenizer import train_tokenizer
from textgan.errors import UserError
from textgan.training.building import build_generator
from textgan.training.checkpoint import find_checkpoint, load_state, point, prune, save_checkpoint
from textgan.training.loading import load_for_sampling

CONFIG = Config.model_validate({"generator": {"block_size": 8, "n_layer": 1, "n_head": 1, "n_embd": 4}})
TOKENIZER = train_tokenizer("word", ["a cat sat .", "a dog ran ."], vocab_size=None, min_count=1, lowercase=False)


def write(folder, step, **meta):
    torch.manual_seed(step)
    generator = build_generator(CONFIG, TOKENIZER.vocab_size)
    path = save_checkpoint(
        folder / "checkpoints" / f"step-{step:08d}",
        generator=generator,
        config=CONFIG,
        tokenizer=TOKENIZER,
        state={"step": step, "tensors": [torch.ones(2)]},
        meta={"step": step, **meta},
    )
    point(path, "last")
    return generator, path


def test_round_trip_keeps_every_bit(tmp_path):
    generator, path = write(tmp_path, 3)
    loaded = load_for_sampling(tmp_path)
    for name, tensor in generator.state_dict().items():
        assert torch.equal(tensor, loaded.generator.state_dict()[name]), name
    assert loaded.config == CONFIG
    assert loaded.tokenizer.encode("a dog sat .") == TOKENIZER.encode("a dog sat .")
    assert (loaded.path, loaded.step) == (path, 3)
    assert not loaded.generator.training
    assert load_state(path)["tensors"][0].tolist() == [1.0, 1.0]
    assert sorted(p.name for p in path.iterdir()) == [
        "config.yaml",
        "generation.yaml",
        "meta.json",
        "model.safetensors",
        "state.pt",
        "tokenizer.json",
    ]


def test_best_is_preferred_and_last_stands_in(tmp_path):
    _, first = write(tmp_path, 1)
    _, second = write(tmp_path, 2)
    assert find_checkpoint(tmp_path) == second  # no best yet
    point(first, "best")
    assert find_checkpoint(tmp_path) == first
    assert find_checkpoint(tmp_path, prefer="last") == second
    assert find_checkpoint(tmp_path / "checkpoints") == first
    assert find_checkpoint(second) == second


def test_pruning_keeps_the_newest_and_what_is_pointed_to(tmp_path):
    paths = [write(tmp_path, step)[1] for step in (1, 2, 3, 4)]
    (tmp_path / "checkpoints" / "mle").mkdir()
    point(paths[0], "best")
    prune(tmp_path / "checkpoints", keep_last=2)
    names = {p.name for p in (tmp_path / "checkpoints").iterdir() if p.is_dir()}
    assert names == {"mle", paths[0].name, paths[2].name, paths[3].name}


def test_writing_the_same_name_again_replaces_it(tmp_path):
    write(tmp_path, 1, metrics={"x": 1})
    _, path = write(tmp_path, 1, metrics={"x": 2})
    assert json.loads((path / "meta.json").read_text())["metrics"] == {"x": 2}
    assert [p.name for p in path.parent.iterdir() if p.is_dir()] == [path.name]  # nothing left beside


def test_a_kill_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    _, old = write(tmp_path, 1)
    monkeypatch.setattr(torch, "save", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert find_checkpoint(tmp_path) == old
    assert load_for_sampling(tmp_path).step == 1
    write(tmp_path, 2)  # what the kill left behind is no obstacle
    assert load_for_sampling(tmp_path).step == 2


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "tokenizer.json", "meta.json"])
def test_a_missing_file_is_named_and_the_newest_good_one_too(tmp_path, name):
    _, good = write(tmp_path, 1)
    _, bad = write(tmp_path, 2)
    os.remove(bad / name)
    with pytest.raises(UserError, match=rf"step-00000002 is not a whole.*no {name}.*newest good one is {good}"):
        load_for_sampling(bad)


def test_truncated_weights_are_refused_in_one_line(tmp_path):
    _, good = write(tmp_path, 1)
    _, bad = write(tmp_path, 2)
    data = (bad / "model.safetensors").read_bytes()
    (bad / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read") as error:
        load_for_sampling(tmp_path)
    assert str(good) in str(error.value)
    assert "\n" not in str(error.value)


def test_truncated_state_is_refused_in_one_line(tmp_path):
    _, path = write(tmp_path, 1)
    data = (path / "state.pt").read_bytes()
    (path / "state.pt").write_bytes(data[:100])
    with pytest.raises(UserError, match=r"state\.pt cannot be read") as error:
        load_state(path)
    assert "\n" not in str(error.value)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (os.environ["BOMB"],))


def test_no_pickle_is_executed(tmp_path, monkeypatch):
    _, path = write(tmp_path, 1)
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    for writer in (torch.save, lambda value, file: file.write_bytes(pickle.dumps(value))):
        writer({"state": Bomb()}, path / "state.pt")
        with pytest.raises(UserError, match=r"state\.pt cannot be read"):
            load_state(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": 99, "textgan": "9.9"}, "format 99 by textgan 9.9; .* upgrade"),
        ({"format": None}, "not a textgan checkpoint"),
        ({"step": "x"}, "not a textgan checkpoint"),
    ],
)
def test_newer_and_foreign_versions_are_refused(tmp_path, change, message):
    _, path = write(tmp_path, 1)
    meta = json.loads((path / "meta.json").read_text()) | change
    (path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=message):
        load_for_sampling(path)


def test_weights_of_another_shape_name_both_shapes(tmp_path):
    _, path = write(tmp_path, 1)
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("n_embd: 4", "n_embd: 6", 1))
    with pytest.raises(UserError, match=r"`wte.weight` is \(\d+, 4\) in the checkpoint and \(\d+, 6\)"):
        load_for_sampling(path)


@pytest.mark.parametrize("make", ["nothing", "file", "empty run"])
def test_places_without_a_checkpoint(tmp_path, make):
    path = tmp_path / "x"
    if make == "file":
        path.write_text("hello")
    elif make == "empty run":
        (path / "checkpoints").mkdir(parents=True)
    messages = {"nothing": "does not exist", "file": "not a checkpoint folder", "empty run": "no checkpoint yet"}
    with pytest.raises(UserError, match=messages[make]):
        find_checkpoint(path)


def test_a_full_disk_is_said_in_one_line_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    _, good = write(tmp_path, 1)

    def full(state, file):  # as torch does it: the system's error is behind one of its own
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            raise RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0") from None

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError) as error:
        write(tmp_path, 2)
    bad = good.with_name("step-00000002")
    told = f"checkpoint {bad} cannot be written: No space left on device; the newest good one is {good}"
    assert str(error.value) == told
    assert {path.name for path in good.parent.iterdir()} == {good.name, "last"}
    assert load_for_sampling(tmp_path).step == 1


def test_a_folder_that_is_no_run_names_the_runs_in_it(tmp_path):
    with pytest.raises(UserError, match="neither a run nor a checkpoint; give runs/NAME or one in it"):
        find_checkpoint(tmp_path)
    write(tmp_path / "b", 1)
    write(tmp_path / "a", 1)
    with pytest.raises(UserError, match=f"give one of the runs in it: {tmp_path}/a, {tmp_path}/b$"):
        find_checkpoint(tmp_path)
