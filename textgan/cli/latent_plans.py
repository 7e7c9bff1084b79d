"""What ``textgan sample`` writes of texts that a VAE has read: anew, changed, on the way between two, near one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from textgan.cli.latent import Request
from textgan.cli.output import labelled, progress, say
from textgan.cli.writing import Job, Plan
from textgan.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from textgan.sampling.latent_walks import Direction, Reading
    from textgan.training.loading import SamplingModel

WEAK = 0.6  # share of texts on their own side below which a direction means little
NAMED = 5  # unknown words that are named in a note


def latent_plan(model: SamplingModel, request: Request, n: int, *, seed: int, batch_size: int) -> Plan:
    """What the task of the request writes: ``n`` texts for each text, ways or places near a text.

    Raises:
        UserError: a text that the model cannot read, or two sets of texts without a difference.
    """
    read = Reader(model, batch_size)
    ids = read.encode(request.texts, f"--{request.task}")
    if request.task == "interpolate":
        return _way_plan(model, request, read(ids), n)
    if request.task == "around":
        return _around_plan(model, request, ids[0], read(ids), n, seed)
    if not request.source_set:
        return _rewriting_plan(model, request, ids, read, n)
    direction = _direction(read, request)
    return _attribute_plan(model, request, ids, read, n, direction)


class Reader:
    """Reads texts with the encoder of a model."""

    def __init__(self, model: SamplingModel, batch_size: int):
        self.tokenizer, self.vae, self.batch_size = model.tokenizer, model.generator.vae, batch_size

    def encode(self, given: list[tuple[str, str]], option: str) -> list[list[int]]:
        """Ids of the texts of an option, with where each stands; a note tells of unknown words."""
        from textgan.data.prompts import encode_text, unknown_pieces

        ids, unknown = [], []
        for name, text in given:
            ids.append(encode_text(self.tokenizer, text, block_size=self.vae.block_size, name=name))
            unknown += unknown_pieces(self.tokenizer, text, ids[-1])
        if unknown:
            different = list(dict.fromkeys(unknown))
            named = ", ".join(f"`{piece}`" for piece in different[:NAMED])
            more = f" and {len(different) - NAMED} more" if len(different) > NAMED else ""
            what = "characters" if self.tokenizer.kind == "char" else "words"
            count = f"{len(unknown)} of {sum(map(len, ids))} {what}"
            say(f"note: {option}: {count} are unknown to the model and read as <unk>: {named}{more}")
        return ids

    def __call__(self, ids: list[list[int]]) -> Reading:
        """What the model makes of these texts, in one batch."""
        from textgan.sampling.latent_walks import read_texts

        return read_texts(self.vae, ids, self.tokenizer.eos_id)

    def noise(self, given: list[tuple[str, str]], option: str) -> Tensor:
        """(N, Z) where texts stand, in the noise that the prior makes latents of."""
        import torch

        from textgan.sampling.latent_walks import to_noise

        ids, parts = self.encode(given, option), []
        with progress(len(ids), visible=len(ids) > self.batch_size) as advance:
            for start in range(0, len(ids), self.batch_size):
                parts.append(to_noise(self(ids[start : start + self.batch_size]).means))
                advance(len(parts[-1]))
        return torch.cat(parts)


def likeness(eos_id: int) -> Callable[[Job, list[int]], dict]:
    """What makes the fields of a record on how like the text that was read is the one that was written, in tokens."""
    from textgan.metrics.edits import edit_distance

    def compare(job: Job, ids: list[int]) -> dict:
        target, written = list(job.target), [token for token in ids if token != eos_id]
        return {"edit_distance": edit_distance(target, written), "exact": ids == [*target, eos_id]}

    return compare


class Rewritings:
    """Counts up the records of texts written anew."""

    def __init__(self) -> None:
        self.targets: list[list[list[str]]] = []
        self.written: list[list[str]] = []
        self.edits, self.exact, self.log_prob = 0, 0, 0.0

    def add(self, record: dict) -> None:
        self.targets.append([record["input_tokens"]])
        self.written.append(record["tokens"][:-1] if record["finish_reason"] == "eos" else record["tokens"])
        self.edits += record["edit_distance"]
        self.exact += record["exact"]
        self.log_prob += record["input_log_prob_given_z"]

    def told(self) -> str:
        """One line on all: exact copies, corpus BLEU (Papineni et al. 2002), edits, log p(x|z).

        BLEU-4, or of the order of the longest text where that is shorter: of exact copies it is 1.
        """
        from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

        N = len(self.written)
        length = sum(len(target) for (target,) in self.targets) / N
        order = min(4, max(1, *(len(target) for (target,) in self.targets)))
        weights, smoothing = [1 / order] * order, SmoothingFunction().method1
        bleu = corpus_bleu(self.targets, self.written, weights=weights, smoothing_function=smoothing)
        exact = f"{self.exact} exact ({100 * self.exact / N:.0f} %)"
        return (
            f"{N} text{'s' * (N != 1)} compared: {exact}, BLEU-{order} {bleu:.3f}, "
            f"edit distance {self.edits / N:.1f} of {length:.1f} tokens, log p(x|z) {self.log_prob / N:.2f} nats a text"
        )


def _rewriting_plan(model: SamplingModel, request: Request, ids: list[list[int]], read: Reader, n: int) -> Plan:
    tokenizer, rewritings = model.tokenizer, Rewritings()

    def jobs(rows: range) -> list[Job]:
        first = rows[0] // n
        reading = read(ids[first : rows[-1] // n + 1])
        made = []
        for row in rows:
            i = row // n
            fields = {
                "input": request.texts[i][1],
                "input_tokens": tokenizer.tokens(ids[i]),
                "input_log_prob_given_z": reading.log_likelihood[i - first].item(),
            }
            made.append(Job(fields, row, z=reading.means.z[i - first], target=ids[i]))
        return made

    def block(record: dict, width: int | None) -> str:
        edits, tokens = record["edit_distance"], len(record["input_tokens"])
        told = "exact" if record["exact"] else f"edit distance {edits} of {tokens} tokens"
        about = f"log p(x|z) {record['input_log_prob_given_z']:.2f}, {told}"
        rows = [("text", record["input"]), ("written", record["text"]), ("", about)]
        return labelled(rows, width, len("written"))

    return Plan(
        n * len(ids),
        jobs,
        block,
        told="z at the posterior mean of each text",
        latents={"source": "posterior mean"},
        repeats="versions of a text",
        compare=likeness(tokenizer.eos_id),
        heed=rewritings.add,
        closing=rewritings.told,
    )


def _attribute_plan(
    model: SamplingModel, request: Request, ids: list[list[int]], read: Reader, n: int, direction: Direction
) -> Plan:
    from textgan.sampling.latent_walks import shift

    def jobs(rows: range) -> list[Job]:
        first = rows[0] // n
        means = read(ids[first : rows[-1] // n + 1]).means
        moved = shift(model.generator.vae, means, direction.vector, request.strength)
        texts = [(row, row // n) for row in rows]
        return [
            Job({"input": request.texts[i][1]}, row, z=moved[i - first], before=means.z[i - first]) for row, i in texts
        ]

    def block(record: dict, width: int | None) -> str:
        rows = [("text", record["input"]), ("before", record["before"]), ("after", record["text"])]
        return labelled(rows, width, len("before"))

    sizes = len(request.source_set), len(request.target_set)
    sides = (
        "" if direction.separation is None else f", {100 * direction.separation:.0f} % of which lie on their own side"
    )
    return Plan(
        n * len(ids),
        jobs,
        block,
        told=f"z moved by {request.strength:g} x {direction.length:.2f} prior deviations, the difference of {sizes[0]} "
        f"and {sizes[1]} texts{sides}",
        latents={
            "source": "posterior mean + direction",
            "strength": request.strength,
            "length": direction.length,
            "separation": direction.separation,
            "texts_from": sizes[0],
            "texts_to": sizes[1],
        },
        repeats="versions of a text",
    )


def _direction(read: Reader, request: Request) -> Direction:
    from textgan.sampling.latent_walks import difference

    source, target = (
        read.noise(request.source_set, "--attribute-from"),
        read.noise(request.target_set, "--attribute-to"),
    )
    direction = difference(source, target)
    if not direction.length > 1e-9:
        raise UserError("--attribute-from and --attribute-to have the same mean in z; give sets of different texts")
    if direction.separation is None:
        say("note: a set of one text: what is moved is all that the text has, not one attribute")
    elif direction.separation <= WEAK:
        say(
            f"note: only {100 * direction.separation:.0f} % of the texts, each left out in turn, are nearer to their "
            "own set (50 % is chance): the direction may mean nothing; give more texts, or sets unlike in one thing"
        )
    return direction


def _way_plan(model: SamplingModel, request: Request, reading: Reading, n: int) -> Plan:
    from textgan.sampling.latent_walks import way_between

    z = way_between(model.generator.vae, reading.means, request.steps, request.way)
    a, b = (text for _, text in request.texts)
    last = request.steps - 1

    def jobs(rows: range) -> list[Job]:
        made = []
        for row in rows:
            way, step = divmod(row, request.steps)
            # One stream for a whole way: where tokens are drawn, the same numbers draw them at each step.
            made.append(Job({"from": a, "to": b, "share": step / last}, way, z=z[step]))
        return made

    def block(record: dict, width: int | None) -> str:
        rows = [(f"{record['share']:.2f}", record["text"])]
        step = record["index"] % request.steps
        if step == 0:
            rows.insert(0, ("A", a))
        if step == last:
            rows.append(("B", b))
        return ("\n" if step == 0 and record["index"] else "") + labelled(rows, width, len("0.00"))

    return Plan(
        n * request.steps,
        jobs,
        block,
        between="",
        told=f"z on the {request.way} way from A to B, {request.steps} steps",
        latents={"source": "interpolation", "way": request.way, "steps": request.steps},
        repeats="ways",
    )


def _around_plan(
    model: SamplingModel, request: Request, target: list[int], reading: Reading, n: int, seed: int
) -> Plan:
    from textgan.sampling.latent_walks import around
    from textgan.sampling.streams import POSTERIOR_STREAMS, row_normals

    ((_, text),) = request.texts

    def jobs(rows: range) -> list[Job]:
        noise = row_normals(seed, POSTERIOR_STREAMS + rows[0], len(rows), model.generator.vae.z_size)
        z = around(model.generator.vae, reading.features, noise, request.radius)
        far = (z - reading.means.z).norm(dim=1).tolist()
        return [Job({"input": text, "distance": far[i]}, row, z=z[i], target=target) for i, row in enumerate(rows)]

    def block(record: dict, width: int | None) -> str:
        rows = [(str(record["index"] + 1), record["text"])]
        if record["index"] == 0:
            rows.insert(0, ("text", text))
        return labelled(rows, width, max(len("text"), len(str(n))))

    return Plan(
        n,
        jobs,
        block,
        between="",
        told=f"z {request.radius:g} posterior deviations from the mean of the text",
        latents={"source": "around the posterior mean", "radius": request.radius},
        compare=likeness(model.tokenizer.eos_id),
        draws_latents=True,
    )
