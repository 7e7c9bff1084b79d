"""BLEU and self-BLEU as races; what they compute is in ``metrics``."""

from collections.abc import Iterator

from tests.benchmarks.metrics import contestants, load
from tests.benchmarks.race import Race

TEXTS, OF_NLTK = 10_000, 3


def races(task: str, bar: float) -> Iterator[Race]:
    corpus, hypotheses, references = load(TEXTS)
    tasks, missing = contestants(hypotheses, references, OF_NLTK)
    functions = tasks[task]
    yield Race(
        name=task,
        what=f"{task.replace('_', '-')} of order 2 to 5 of {len(references):,} {corpus}, from ids",
        ours=functions["textgan from ids"],
        peers={"fast-bleu": functions["fast-bleu"]} if "fast-bleu" in functions else {},
        work=len(references),
        unit="texts",
        bar=bar,
        missing=missing,
    )
