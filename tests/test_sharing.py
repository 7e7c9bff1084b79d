"""`textgan sample` and `textgan evaluate` on several processes: the bytes of one, and an end in one line."""

import contextlib
import importlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from click.testing import CliRunner
from torch.distributed.run import get_args_parser
from torch.multiprocessing.spawn import ProcessException

from tests import test_cli_latent as vaes
from tests.commands import invoke
from tests.processes import children, on_ranks, torchrun
from tests.test_cli_sample import write_checkpoint
from tests.test_latent_arms import write_arms
from textgan.analysis import all_measures, evaluate, front_log, judged
from textgan.analysis.judged import Judged
from textgan.analysis.measures import LikelihoodMeasure
from textgan.analysis.sweep import Sweep, shared_out
from textgan.cli import writing
from textgan.cli.evaluate import evaluate as evaluate_command
from textgan.cli.main import SHARED
from textgan.cli.sample import sample
from textgan.errors import UserError
from textgan.sampling import latent_likelihood
from textgan.sampling.samplers import DEFAULT_SAMPLERS, parse_samplers
from textgan.training import ranks as ranks_module
from textgan.training.ranks import Ranks

CPU = torch.device("cpu")
N = 60
SWEEP = Sweep(
    tuple(parse_samplers("temperature=0.8,1,rejection=1,z_temperature=0.5")), N, embedders=(), lm=(), iw_samples=3
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As the processes have: more would round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@contextlib.contextmanager
def as_joined(ranks, number=0):
    """Commands called within share their work among these ranks; each call needs a ``number`` of its own."""
    store = dist.PrefixStore(f"call {number}", ranks.store)
    with pytest.MonkeyPatch.context() as patch:
        own = Ranks(ranks.rank, ranks.size, store)
        patch.setattr(ranks_module, "joined", lambda device, go_on: contextlib.nullcontext(own))
        yield own


# ------------------------------------------------------------------------------------------- sample


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a generator, the run of a VAE and texts."""
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "generator")
    vaes.write_run(folder / "vae")
    (folder / "a.txt").write_text("\n".join(vaes.TEXTS[:2]) + "\n")
    (folder / "b.txt").write_text("\n".join(vaes.TEXTS[2:]) + "\n")
    (folder / "prompts.txt").write_text("Tom\nLily sees a\nthe dog\n")
    return folder


def commands_in(folder):
    generator, vae = folder / "generator", folder / "vae"
    a, b, prompts = folder / "a.txt", folder / "b.txt", folder / "prompts.txt"
    lines = [
        [generator, "-n", 19, "--batch-size", 4],  # five batches: uneven on two ranks and on three
        [generator, "-n", 19, "--batch-size", 4, "--json", "--top-p", 0.9],
        [generator, "-n", 3, "--lines"],  # one batch: some ranks have none
        [generator, "--prompts", prompts, "-n", 3, "--batch-size", 2, "--json"],
        [generator, "--prompts", prompts, "--num-beams", 3, "--batch-size", 1, "--json"],
        [vae, "-n", 9, "--batch-size", 2, "--json", "--z-temperature", 0.7],
        [vae, "--reconstruct", a, "-n", 2, "--batch-size", 1, "--temperature", 1],
        [vae, "--interpolate", *vaes.TEXTS[:2], "--steps", 5, "--batch-size", 2],
        [vae, "--around", vaes.TEXTS[0], "--batch-size", 2, "--json"],
        [vae, "--text", vaes.TEXTS[0], "--attribute-from", a, "--attribute-to", b, "-n", 3, "--batch-size", 1],
    ]
    return [[str(word) for word in line] for line in lines]


def said(result):
    """Output and notes of a command, of which none may have failed."""
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def _written(ranks, folder, out):
    """What a rank printed of each command, and that one of them wrote into a file."""
    found = []
    for number, args in enumerate(commands_in(folder)):
        with as_joined(ranks, number):
            found.append(said(CliRunner().invoke(sample, args)))
    with as_joined(ranks, "file"):
        said(CliRunner().invoke(sample, [*commands_in(folder)[1], "--output", str(out) if ranks.first else "never"]))
    return found


@pytest.mark.parametrize("size", [2, 3])
def test_texts_are_those_of_one_process_to_the_byte(models, tmp_path, size):
    expected = [said(invoke(sample, *args)) for args in commands_in(models)]
    assert "compared: " in expected[6][1]
    assert len(expected[1][0].splitlines()) == 19
    first, *_ = on_ranks(size, _written, tmp_path / "out", models, tmp_path / "texts.jsonl")
    assert first == expected
    assert (tmp_path / "texts.jsonl").read_text() == expected[1][0]
    assert not Path("never").exists()


def _interrupted(ranks, folder):
    """One rank is stopped while it writes its second batch; how each of them ends."""
    plain, calls = writing.write, []

    def write(*args, **settings):
        calls.append(args)
        if ranks.rank == 1 and len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(*args, **settings)

    with as_joined(ranks), pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "write", write)
        result = CliRunner().invoke(sample, commands_in(folder)[1])
    return result.exit_code, result.stdout, result.stderr


def test_ctrl_c_ends_all_ranks_behind_whole_batches_in_order(models, tmp_path):
    whole = invoke(sample, *commands_in(models)[1]).stdout.splitlines(keepends=True)
    for code, out, err in on_ranks(2, _interrupted, tmp_path / "out", models):
        assert code == 130
        assert out == "".join(whole[:16])  # two turns of two batches of four
        assert "stopped: 16 of 19 texts are written" in err


def test_one_process_of_torchrun_reads_the_input_and_speaks(models):
    args = ["sample", models / "generator", "--prompts", "-", "-n", 5, "--batch-size", 2, "--lines"]
    expected = said(invoke(sample, *args[1:], stdin="Tom\nthe dog\n"))
    with open(models / "stdin.txt", "w+", encoding="utf-8") as stdin:
        stdin.write("Tom\nthe dog\n")
        stdin.seek(0)
        together = torchrun(2, *args, stdin=stdin)
        out, err = together.communicate(timeout=120)
    assert together.returncode == 0, err
    assert out == expected[0]
    assert [line for line in err.splitlines() if "temperature" in line or "note" in line] == expected[1].splitlines()


@pytest.mark.parametrize(
    "args, told",
    [
        (["sample", "nowhere"], "error: nowhere does not exist"),
        (["compare", "runs/x"], "torchrun is for `train`, `sample`, `evaluate`, whose work processes share; run `te"),
        (["evaluate", "x", "--nonsense"], "No such option"),
    ],
)
def test_what_goes_wrong_everywhere_is_said_once(args, told):
    together = torchrun(2, *args)
    out, err = together.communicate(timeout=120)
    assert together.returncode != 0
    assert out == ""
    assert err.count(told) == 1, err
    assert "textgan/" not in err


def test_torchrun_takes_no_option_of_ours_but_two():
    """It reads the words behind the module's name too, and refuses what could be short for two options of its own."""
    refused = set()
    for name in SHARED:
        command = getattr(importlib.import_module(f"textgan.cli.{name}"), name)
        for option in (flag for param in command.params for flag in param.opts if flag.startswith("-")):
            words = ["textgan", name, "x", option, "1"]
            for front in (["--nproc-per-node", "2", "-m"], ["--nproc-per-node", "2", "-m", "--"]):
                try:
                    found = get_args_parser().parse_args([*front, *words])
                    assert [found.training_script, *found.training_script_args] == words
                except SystemExit:
                    refused.add((name, option, front[-1]))
    assert refused == {("train", "--run", "-m"), ("evaluate", "--n", "-m")}  # a `--` in front helps


# ------------------------------------------------------------------------------------------- evaluate


@contextlib.contextmanager
def quick():
    """Without the classifiers and pictures, which take seconds; likelihood in several batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(all_measures, "ClassifierMeasure", lambda *args, **settings: LikelihoodMeasure())
        patch.setattr(front_log, "has_matplotlib", lambda: False)
        patch.setattr(judged, "LIKELIHOOD_BATCH", 16)
        yield patch


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a generator and a VAE, and a copy of it that one process has evaluated."""
    folder = write_arms(tmp_path_factory.mktemp("runs") / "run", names=("mle", "vae"))
    alone = Path(shutil.copytree(folder, folder.with_name("alone")))
    with quick():
        result = evaluate.evaluate(alone, SWEEP, device=CPU)
    return folder, alone, result


def files(run):
    """Bytes of all that an evaluation leaves but TensorBoard's files, whose times differ."""
    paths = sorted(path for path in (run / "evaluation").rglob("*") if path.is_file() and "tfevents" not in path.name)
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


def _evaluated(ranks, run):
    """What a rank got, the records it wrote and the number of texts whose likelihood it bounded."""
    wrote, bounded = [], []
    with quick() as patch:
        write, bound = evaluate.write_point, latent_likelihood.importance_bound
        patch.setattr(evaluate, "write_point", lambda path, point: wrote.append(path.stem) or write(path, point))
        patch.setattr(latent_likelihood, "importance_bound", lambda w: bounded.append(len(w[0])) or bound(w))
        result = evaluate.evaluate(run, SWEEP, device=CPU, ranks=ranks)
    points = [(point.arm, point.sampler, point.values) for point in result["points"]]
    return {"points": points, "real": result["real"], "wrote": wrote, "bounded": sum(bounded)}


def test_records_are_those_of_one_process_to_the_byte(run, tmp_path):
    folder, alone, expected = run
    together = Path(shutil.copytree(folder, tmp_path / "run"))
    found = on_ranks(2, _evaluated, tmp_path / "out", together)
    assert files(together) == files(alone)
    assert len(list(together.rglob("*tfevents*"))) == len(list(alone.rglob("*tfevents*")))
    for of_rank in found:
        assert of_rank["points"] == [(p.arm, p.sampler, p.values) for p in expected["points"]]
        assert of_rank["real"] == expected["real"]
        assert of_rank["wrote"]  # both had something to do
        assert of_rank["bounded"] > 0
    assert sum(len(of_rank["wrote"]) for of_rank in found) == len(expected["points"])
    again = on_ranks(2, _evaluated, tmp_path / "out", together)
    assert [of_rank["wrote"] for of_rank in again] == [[], []]
    assert again[1]["points"] == found[0]["points"]


def _failing(ranks, run):
    """A rank that cannot write its second record."""
    write = evaluate.write_point

    def fail(path, point):
        if ranks.rank == 1 and list(run.rglob("*=*.json")):
            raise UserError("the disk of rank 1 is full")
        write(path, point)

    with quick() as patch:
        patch.setattr(evaluate, "write_point", fail)
        evaluate.evaluate(run, SWEEP, device=CPU, ranks=ranks)


def test_an_error_of_one_rank_ends_all_and_what_is_done_stays(run, tmp_path):
    folder, alone, _ = run
    together = Path(shutil.copytree(folder, tmp_path / "run"))
    with pytest.raises(ProcessException, match="the disk of rank 1 is full"):
        on_ranks(2, _failing, tmp_path / "out", together)
    kept = {name: content for name, content in files(together).items() if "=" in name and name.endswith(".json")}
    assert kept
    assert kept.items() <= files(alone).items()
    on_ranks(3, _evaluated, tmp_path / "again", together)
    assert files(together) == files(alone)


def test_a_killed_process_ends_the_others_and_the_same_command_goes_on(run, tmp_path):
    folder, _, _ = run
    together, alone = (Path(shutil.copytree(folder, tmp_path / name)) for name in ("together", "alone"))
    args = ["--arms", "mle", "--samplers", "temperature=0.5:1.3:0.05", "-n", N, "--embedder", "none", "--lm", "none"]
    process = torchrun(2, "evaluate", together, *args)
    while not list(together.rglob("*=*.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(children(process)[-1], signal.SIGKILL)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 40
    assert process.returncode != 0
    assert err.count("another process of this run is gone") + err.count("stopped; go on with: textgan evaluate") == 1
    assert "textgan/" not in err.replace(str(folder), "")  # no traceback but torchrun's own
    kept = {name: content for name, content in files(together).items() if name.endswith(".json") and "=" in name}
    assert 0 < len(kept) < 17
    said(CliRunner().invoke(evaluate_command, [str(arg) for arg in (together, *args)]))
    said(CliRunner().invoke(evaluate_command, [str(arg) for arg in (alone, *args)]))
    assert kept.items() <= files(together).items()
    assert files(together) == files(alone)


def test_points_are_shared_out_so_that_texts_are_drawn_once_unless_ranks_would_be_idle():
    samplers = parse_samplers(DEFAULT_SAMPLERS)
    arms = [Judged(name, None, None, "") for name in ("mle", "adversarial")]
    todo = [(arm, sampler) for arm in arms for sampler in samplers]
    for size in (1, 2, 8):
        parts = shared_out(todo, size)
        assert sorted((arm.name, s) for arm, part in parts for s in part) == sorted((arm.name, s) for arm, s in todo)
        assert [arm.name for arm, _ in parts] == ["mle"] * (len(parts) // 2) + ["adversarial"] * (len(parts) // 2)
        for first in (parts[0], parts[len(parts) // 2]):
            assert list(map(str, first[1])) == ["temperature=1", "rejection=0.5", "rejection=1", "rejection=2"]
        assert {len(part) for _, part in parts[1 : len(parts) // 2]} == {1}
    few = [(arms[0], sampler) for sampler in parse_samplers("temperature=1,rejection=1,2")]
    assert [len(part) for _, part in shared_out(few, 1)] == [3]
    assert [len(part) for _, part in shared_out(few, 2)] == [1, 1, 1]
    assert shared_out([], 2) == []
