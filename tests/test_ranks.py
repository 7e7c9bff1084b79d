"""Several processes train what one would: gradients, scores, whole runs; and they end together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from tests.processes import children, on_ranks, torchrun
from tests.test_adversarial import left_behind, setting
from textgan.errors import UserError
from textgan.training.adversarial_steps import discriminator_step, draw_texts, generator_step
from textgan.training.ranks import Ranks, joined

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "configs" / "smoke.yaml"

# ------------------------------------------------------------------------------------------- the parts


def _gathered(ranks, n):
    """Loss and gradient of a function in which all rows meet, of parameters that each rank uses on its own rows."""
    data = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(6).view(2, 3) / 6)
        layer.bias.fill_(0.5)
    rows = ranks.gather(layer(ranks.own(data)), n)
    loss = ((rows - rows.mean(0)).tanh() * torch.arange(1, n + 1)[:, None]).sum()
    loss.backward()
    (share,) = ranks.add_up(layer, torch.tensor(float(ranks.counted(n))))
    return {"rows": rows.detach(), "loss": loss.detach(), "gradient": layer.weight.grad, "counted": share}


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_gathered_rows_and_added_gradients_are_those_of_one_process(n, tmp_path):
    alone = _gathered(Ranks(), n)
    for found in on_ranks(3, _gathered, tmp_path / "out", n):
        assert found["counted"] == alone["counted"] == n
        for name in ("rows", "loss", "gradient"):
            torch.testing.assert_close(found[name], alone[name], msg=name)


def _told(ranks):
    texts = [torch.tensor([[1, 2, 9]]), torch.tensor([[3, 9], [4, 9]])][ranks.rank]
    lengths = [torch.tensor([3]), torch.tensor([2, 2])][ranks.rank]
    if ranks.rank == 0:  # rows 0 and 2 of three; rank 1 has row 1
        texts, lengths = torch.tensor([[1, 2, 9], [5, 9, 9]]), torch.tensor([3, 2])
    else:
        texts, lengths = torch.tensor([[3, 9]]), torch.tensor([2])
    ids, ends = ranks.gather_texts(texts, lengths, 3, pad_id=9)
    taken = list(ranks.take("tasks", 5))
    for number in taken:
        ranks.tell(f"{number} is done")
    everything = ranks.collect(taken)
    return {
        "taken": everything,
        "heard": list(ranks.heard()) if ranks.first else [],
        "tally": ranks.tally("tasks", 0),
        "sum": ranks.add(torch.tensor([0.1, 0.0]) if ranks.first else torch.tensor([0.0, 0.3])),
        "ids": ids,
        "lengths": ends,
        "same": ranks.same(f"of rank {ranks.rank}"),
        "collected": ranks.collect(ranks.rank * 10),
        "any": [ranks.any(ranks.rank == 1), ranks.any(False)],
        "first": ranks.first_does(lambda: f"done by {ranks.rank}"),
        "stream": ranks.stream,
    }


def test_what_ranks_tell_each_other(tmp_path):
    for rank, found in enumerate(on_ranks(2, _told, tmp_path / "out")):
        assert found["ids"].tolist() == [[1, 2, 9], [3, 9, 9], [5, 9, 9]]
        assert found["lengths"].tolist() == [3, 2, 2]
        assert found["same"] == "of rank 0"
        assert found["collected"] == [0, 10]
        assert found["any"] == [True, False]
        assert found["first"] == "done by 0"
        assert sorted(found["taken"][0] + found["taken"][1]) == list(range(5))
        assert sorted(found["heard"]) == ([f"{i} is done" for i in range(5)] if rank == 0 else [])
        assert found["tally"] == 7  # each asked once more, in vain
        assert found["sum"].tolist() == torch.tensor([0.1, 0.3]).tolist()
        assert found["stream"] == (rank,)


def _failing(ranks):
    def work():
        raise UserError("the folder is full")

    try:
        ranks.first_does(work)
    except UserError as error:
        return str(error)


def test_an_error_of_the_first_ends_all(tmp_path):
    assert on_ranks(2, _failing, tmp_path / "out") == ["the folder is full", "the first process stopped"]


def _fail_on_one(ranks):
    if ranks.rank == 1:
        raise UserError("rank 1 has no room")
    ranks.collect(0)


def _fail_in_all(ranks):
    raise UserError("no such run")


def _fail_first(ranks):
    ranks.first_does(lambda: _fail_in_all(ranks))


def _stop_one(ranks):
    if ranks.rank == 1:
        raise KeyboardInterrupt
    ranks.collect(0)


def _leave(ranks):
    if ranks.rank == 0:
        ranks.collect(0)


def _ends(rank, ports, works, folder):
    """How this rank ends each of these works."""
    ends = []
    for port, work in zip(ports, works, strict=True):
        where = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in where.items()} | {"TORCHELASTIC_USE_AGENT_STORE": "True"}
        try:
            with joined(torch.device("cpu"), "go on like this") as ranks:
                work(ranks)
            ends.append("done")
        except BaseException as error:
            ends.append(f"{type(error).__name__}: {error}")
    torch.save(ends, folder / f"{rank}.pt")


def test_what_ends_them_is_said_by_one(tmp_path):
    works = [_fail_on_one, _fail_in_all, _fail_first, _stop_one, _leave]
    stores = [dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in works]  # as torchrun does
    mp.spawn(_ends, ([store.port for store in stores], works, tmp_path), nprocs=2)
    ends = list(zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)), strict=True))
    assert ends[0] == ("SystemExit: 1", "UserError: rank 1 has no room")
    assert sorted(ends[1]) == ["SystemExit: 1", "UserError: no such run"]
    assert ends[2] == ("UserError: no such run", "SystemExit: 1")
    assert ends[3] == ("KeyboardInterrupt: ", "SystemExit: 130")
    lost, left = ends[4]
    assert left == "done"
    assert lost.startswith("UserError: another process of this run is gone (")
    assert lost.endswith("); go on like this")


def test_one_process_alone_needs_nothing():
    alone = Ranks()
    x = torch.randn(3, 2, requires_grad=True)
    assert alone.own(x) is x
    assert alone.gather(x, 3) is x
    assert alone.add_up(None, torch.tensor(2.0)) == [torch.tensor(2.0)]
    assert alone.same(5) == 5
    assert alone.collect(5) == [5]
    assert alone.stream == ()
    assert list(alone.take("tasks", 3)) == [0, 1, 2]
    alone.tell("小猫")
    assert list(alone.heard()) == ["小猫"]
    assert list(alone.heard()) == []
    assert alone.first


def _adversarial_step(ranks, settings):
    """What a step of each player logs, and the gradients that it leaves behind, from the same weights and texts."""
    run, players, parent, batch = setting(**settings)
    run.ranks = ranks
    (judged,), own = draw_texts(run, players, 0)
    found = discriminator_step(run, players, batch, judged, ("d", 0), 0)
    gradients = [left_behind(players.discriminator)]  # before the generator's step goes through it
    found |= generator_step(run, players, parent, batch, own, 0.8, 0)
    gradients.append(left_behind(players.generator))
    found = {name: torch.as_tensor(value).double() for name, value in found.items()}
    return found | {"d": gradients[0], "g": gradients[1]}


@pytest.mark.parametrize("loss", ["rsgan", "ragan", "hinge"])
def test_a_step_of_both_players_is_that_of_one_process(loss, tmp_path):
    """Relativistic averages over the whole batch, scores of tokens, anchors and the ratio of two gradients."""
    settings = {"loss": loss, "estimator": "reinmax", "token_weight": 0.5, "mle_weight": 0.5, "kl_weight": 2.0}
    settings |= {"adv_ratio": 0.3, "lr": 1e-12, "lr_d": 1e-12, "warmup_steps": 0, "accumulate": 1, "r1": 1.0}
    alone = _adversarial_step(Ranks(), settings)
    assert alone["d"].norm() > 0.1 < alone["g"].norm()
    for found in on_ranks(2, _adversarial_step, tmp_path / "out", settings):
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


# ------------------------------------------------------------------------------------------- whole runs

# No dropout, and an estimator without noise of its own: then the number of processes changes nothing but rounding.
EQUAL = (
    "generator.dropout=0",
    "discriminator.dropout=0",
    "adversarial.estimator=reinmax",
    "adversarial.loss=rsgan",
    "mle.batch_size=10",
    "adversarial.batch_size=10",
    "mle.max_steps=6",
    "adversarial.max_steps=4",
    "evaluation.every=3",
    "log_every=1",
    "threads=1",
)


def alone(*args):
    return subprocess.run([sys.executable, "-m", "textgan", "train", str(SMOKE), *map(str, args)], check=True)


def logged(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


SAMPLED = ("train/d_", "train/g_", "train/grad_norm", "train/grad_cosine", "train/adv_scale", "train/fake", "train/ent")


def assert_same_log(one, two):
    """Alike up to rounding; where samples of the model come in, of which one token may tip, roughly."""
    assert [set(line) for line in one] == [set(line) for line in two]
    for a, b in zip(one, two, strict=True):
        adversarial = "train/g_loss" in a
        for name, value in a.items():
            if name.startswith(("train/", "schedule/", "quality/nll")) and value is not None:
                rough = adversarial and name.startswith(SAMPLED)
                tolerance = {"rel": 0.3, "abs": 0.05} if rough else {"rel": 2e-3, "abs": 1e-4}
                assert b[name] == pytest.approx(value, **tolerance), (a["step"], name)


def test_two_processes_train_what_one_does(tmp_path):
    alone("--run", tmp_path / "one", *EQUAL)
    together = torchrun(2, "train", SMOKE, "--run-folder", tmp_path / "two", *EQUAL)
    out, err = together.communicate(timeout=300)
    assert together.returncode == 0, err
    assert err.count("next: ") == out.count("real text") == 1  # one process speaks
    assert_same_log(logged(tmp_path / "one"), logged(tmp_path / "two"))


def test_a_killed_process_ends_the_others_and_the_run_goes_on_with_another_number(tmp_path):
    options = [o for o in EQUAL if not o.startswith("mle.max")] + ["mle.max_steps=300", "checkpoint.every=20"]
    together = torchrun(2, "train", SMOKE, "--run-folder", tmp_path / "run", *options, start_new_session=True)
    while not (tmp_path / "run/checkpoints/last").exists():
        assert together.poll() is None, together.communicate()
        time.sleep(0.05)
    os.kill(children(together)[-1], signal.SIGKILL)
    began = time.monotonic()
    _, err = together.communicate(timeout=60)
    assert time.monotonic() - began < 40
    assert together.returncode != 0
    assert "another process of this run is gone" in err or "stopped; go on with" in err
    assert "textgan/" not in err.replace(str(SMOKE), "")  # no traceback but torchrun's own
    done = torchrun(3, "train", SMOKE, "--run-folder", tmp_path / "run", *options, "--resume")
    _, err = done.communicate(timeout=300)
    assert done.returncode == 0, err
    assert "resuming" in err
    alone("--run", tmp_path / "one", *options)
    assert_same_log(logged(tmp_path / "one"), logged(tmp_path / "run"))


def test_what_cannot_be_shared_out_is_refused(tmp_path):
    for options, reason in (
        (["mle.batch_size=1"], "leaves no text for each of 2 processes"),
        (["vae={}", "adversarial=none"], "a run with a `vae` section is of one"),
    ):
        together = torchrun(2, "train", SMOKE, "--run-folder", tmp_path / "run", *options)
        _, err = together.communicate(timeout=120)
        assert together.returncode != 0
        assert reason in err
        assert not (tmp_path / "run").exists()
