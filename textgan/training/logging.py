"""The log of a run: TensorBoard events in the run's own folder, and the same numbers as JSON lines.

``metrics.jsonl`` holds what the training computes and nothing of the clock, so that a resumed run's file is bit for
bit that of an uninterrupted one; rates and times are in ``timing.jsonl``. TensorBoard's HParams page gets one
session-start record, written into the run's own events: ``SummaryWriter.add_hparams`` would open a second run and
lose the columns of all other runs (pytorch/pytorch#32651, tensorboard#5596). The values of real text (``..._real``)
are plotted under the same tags by a second writer in ``real_text/``: TensorBoard draws them into the same charts.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.plugins.text.metadata import create_summary_metadata
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from textgan.config import Config
from textgan.configfile import describe_config
from textgan.errors import UserError
from textgan.training.ranks import Ranks
from textgan.training.tags import HEADLINES, escape, explain_tag, glossary, layout

# Two runs that differ in nothing else are one trial on the HParams page, averaged.
NOT_IN_TRIAL = ("name", "seed", "device", "threads", "shard_optimizer")


class RunLogger:
    """Writes everything that a run says about itself into its folder.

    Every tag must have an explanation in ``tags.py``; a tag without one raises ValueError. Only one process of a
    run may hold a logger.
    """

    def __init__(self, folder: Path, *, config: Config, resume: tuple[int, int] | None = None, beside: bool = False):
        """Start the log of a run, or go on with it.

        Args:
            folder: the run's folder, made where it is missing.
            config: what the run does; shown on its own page and in the HParams table.
            resume: ``(step, position)`` of the checkpoint that the run goes on from, the latter as
                :meth:`position` gave it; what was logged after it is taken back.
            beside: it is of a second arm inside a run's folder: what it would repeat (pages, HParams, real text) is
                left out of TensorBoard.

        Raises:
            UserError: the folder's log is shorter than the checkpoint says, or broken.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        metrics, timing = folder / "metrics.jsonl", folder / "timing.jsonl"
        if resume is not None:
            step, position = resume
            _take_back(metrics, position)
            _keep_until(timing, step)
        self._metrics = metrics.open("a", encoding="utf-8")
        self._timing = timing.open("a", encoding="utf-8")
        self._folder = folder
        # A purge at the very start looks idle, but TensorBoard's slower loader obeys only the second one that it meets.
        self._purge_step = resume[0] + 1 if resume else 0
        self._writer = self._open(folder)
        self._real_writer: SummaryWriter | None = None
        self._beside = beside
        if resume is None and not beside:
            self._introduce(config)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log values that the training or an evaluation computed; in JSON, NaN and infinities become null."""
        for tag in values:
            explain_tag(tag)
        _write_line(self._metrics, {"step": step, **values})
        self._plot(step, values)

    def histogram(self, step: int, tag: str, values: Tensor) -> None:
        """Log a histogram; it is for TensorBoard alone."""
        explain_tag(tag)
        self._writer.add_histogram(tag, values, step)

    def perf(self, step: int, values: Mapping[str, float]) -> None:
        """Log rates and times, under ``perf/``; they stay out of metrics.jsonl."""
        tagged = {f"perf/{name}": value for name, value in values.items()}
        for tag in tagged:
            explain_tag(tag)
        _write_line(self._timing, {"step": step, "unix_time": round(time.time(), 3), **tagged})
        self._plot(step, tagged)

    def text(self, step: int, tag: str, text: str) -> None:
        """Log a text (samples, an alarm), shown as it is: whatever looks like Markdown in it is escaped."""
        explain_tag(tag)
        self._page(step, tag, escape(text))

    def table(self, step: int, tag: str, rows: Sequence[Sequence[str]]) -> None:
        """Log a table whose first row is its headings."""
        explain_tag(tag)
        head, *body = (f"| {' | '.join(map(escape, row))} |" for row in rows)
        self._page(step, tag, "\n".join([head, "| --- " * len(rows[0]) + "|", *body]))

    def summary(self, stages: Mapping[str, tuple[int, Mapping[str, float]]]) -> None:
        """Log the metrics of each stage, ``{"end": (step, {"nll": 1.2, ...})}``, for the HParams table.

        Stages are those of ``tags.STAGES``. All metrics of the model go to ``summary/STAGE_METRIC``; the headlines of
        all but ``best`` also to ``at_end/METRIC``, at their steps, with real text beside.
        """
        for stage, (step, metrics) in stages.items():
            values = {f"summary/{stage}_{name}": v for name, v in metrics.items() if not name.endswith("_real")}
            if stage != "best" and not self._beside:
                shown = {name for headline in HEADLINES for name in (headline, f"{headline}_real")}
                values |= {f"at_end/{name}": value for name, value in metrics.items() if name in shown}
            for tag in values:
                explain_tag(tag)
            self._plot(step, values)

    def position(self) -> int:
        """Return where the log stands, for a checkpoint; everything up to here is on the disk when this returns."""
        for writer in self._writers():
            writer.flush()
        for file in (self._metrics, self._timing):
            file.flush()
            os.fsync(file.fileno())
        return self._metrics.tell()

    def close(self, status: str) -> None:
        """Close the log; ``status`` is "finished", "interrupted" or "failed".

        Only a finished run gets its end on the HParams page: TensorBoard believes the first end that it reads, and
        the others may be resumed.
        """
        if status == "finished" and not self._beside:
            end = SessionEndInfo(status=Status.STATUS_SUCCESS, end_time_secs=time.time())
            self._hparams(hparams_metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))
        for writer in self._writers():
            writer.close()
        self._metrics.close()
        self._timing.close()

    def _writers(self) -> list[SummaryWriter]:
        return [writer for writer in (self._writer, self._real_writer) if writer is not None]

    def _introduce(self, config: Config) -> None:
        values = flatten(config.model_dump(mode="json"))
        start = SessionStartInfo(group_name=trial_of(config), start_time_secs=time.time())
        for key, value in values.items():
            if isinstance(value, bool):  # before int: True is one
                start.hparams[key].bool_value = value
            elif isinstance(value, (int, float)):
                start.hparams[key].number_value = value
            else:
                start.hparams[key].string_value = value if isinstance(value, str) else _plain(value)
        self._hparams(hparams_metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))
        self._writer.add_custom_scalars(layout())
        self._page(0, "setup/config", f"```yaml\n{describe_config(config)}\n```")
        self._page(0, "setup/tags", glossary())

    def _plot(self, step: int, values: Mapping[str, float]) -> None:
        for tag, value in values.items():
            if tag.endswith("_real") and self._beside:
                continue
            if tag.endswith("_real"):
                self._real().add_scalar(tag.removesuffix("_real"), float(value), step)
            else:
                self._writer.add_scalar(tag, float(value), step)

    def _real(self) -> SummaryWriter:
        if self._real_writer is None:
            self._real_writer = self._open(self._folder / "real_text")
        return self._real_writer

    def _open(self, folder: Path) -> SummaryWriter:
        return SummaryWriter(str(folder), purge_step=self._purge_step, flush_secs=10)

    def _page(self, step: int, tag: str, markdown: str) -> None:
        # SummaryWriter.add_text would append "/text_summary" to the tag.
        tensor = TensorProto(
            dtype="DT_STRING",
            string_val=[markdown.encode("utf-8", "replace")],
            tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
        )
        metadata = create_summary_metadata(display_name="", description=explain_tag(tag))
        self._add(Summary.Value(tag=tag, metadata=metadata, tensor=tensor), step)

    def _hparams(self, tag: str, data: HParamsPluginData) -> None:
        metadata: SummaryMetadata = hparams_metadata.create_summary_metadata(data)
        self._add(Summary.Value(tag=tag, metadata=metadata, tensor=hparams_metadata.NULL_TENSOR), 0)

    def _add(self, value: Summary.Value, step: int) -> None:
        self._writer.file_writer.add_summary(Summary(value=[value]), step)


class Silence:
    """The log of a process that writes none: what it is told is lost."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def histogram(self, step: int, tag: str, values: Tensor) -> None: ...

    def perf(self, step: int, values: Mapping[str, float]) -> None: ...

    def text(self, step: int, tag: str, text: str) -> None: ...

    def table(self, step: int, tag: str, rows: Sequence[Sequence[str]]) -> None: ...

    def summary(self, stages: Mapping[str, tuple[int, Mapping[str, float]]]) -> None: ...

    def position(self) -> int:
        return 0

    def close(self, status: str) -> None: ...


def open_log(folder: Path, ranks: Ranks, **options: Any) -> RunLogger | Silence:
    """The log of a run on its first rank, silence on the others; ``options`` are those of :class:`RunLogger`."""
    return RunLogger(folder, **options) if ranks.first else Silence()


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one: ``{"mle": {"lr": 1}}`` as ``{"mle.lr": 1}``."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def trial_of(config: Config) -> str:
    """Return what runs that differ only in seed, name and machine have in common: a readable name and a digest."""
    values = flatten(config.model_dump(mode="json"))
    told = json.dumps({k: v for k, v in values.items() if k not in NOT_IN_TRIAL}, sort_keys=True)
    return f"{config.data.source}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def _plain(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _write_line(file, record: Mapping[str, Any]) -> None:
    plain = {key: _number(value) for key, value in record.items()}
    file.write(json.dumps(plain, ensure_ascii=False) + "\n")
    file.flush()


def _number(value: float) -> float | int | None:
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None


def _take_back(path: Path, position: int) -> None:
    """Cut a log off behind ``position`` bytes."""
    size = path.stat().st_size if path.exists() else 0
    if size < position:
        raise UserError(
            f"{path} has {size} bytes, but the checkpoint was written when it had {position}; "
            "the log was changed since: bring it back, or start a new run from the checkpoint"
        )
    if size > position:
        os.truncate(path, position)


def _keep_until(path: Path, step: int) -> None:
    """Leave only the records up to ``step`` in a log of JSON lines; a half-written last line goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        if json.loads(line)["step"] <= step:
            kept.append(line)
    beside = path.with_name(path.name + ".new")
    beside.write_text("".join(kept), encoding="utf-8")
    os.replace(beside, path)
