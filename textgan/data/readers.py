"""Texts out of files: lines, paragraphs, `<|endoftext|>`, JSONL and CSV, with every fault told by file and line."""

from __future__ import annotations

import codecs
import csv
import glob
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from textgan.data.tokenizer import EOS
from textgan.errors import UserError

FORMATS = ("auto", "lines", "paragraphs", "endoftext", "jsonl", "csv")
_BY_SUFFIX = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "csv"}
_FOLDER_SUFFIXES = (".txt", ".jsonl", ".ndjson", ".csv", ".tsv")
# Blank lines separate paragraphs only where they are frequent: a list of lines with a stray blank line is none.
_PARAGRAPH_LINES = 20


@dataclass(frozen=True)
class Reading:
    """What was read.

    texts: without white space at their ends, none blank. labels: of each text, what its record's label field holds,
    or else the file that it comes from where there are several; None for neither. formats: files by the format
    they were read as. blank: lines, fields or parts left out because they held only white space (none are counted
    for paragraphs). conditions: of each text, what its record's condition field holds; None where none was asked for.
    """

    texts: list[str]
    labels: list[str | None]
    formats: dict[str, int]
    blank: int
    conditions: list[str | None]


def read_texts(
    path: str | Path,
    *,
    format: str = "auto",
    field: str = "text",
    label: str | None = None,
    condition: str | None = None,
    encoding: str = "utf-8",
    max_chars: int = 100_000,
) -> Reading:
    """The texts of a file, of all .txt, .jsonl and .csv files below a folder, or of all files that a pattern fits
    (`reviews.*`), in the order of their paths, each with its label.

    Formats: "lines" is one text a line; "paragraphs" are separated by blank lines, "endoftext" by
    `<|endoftext|>`, both keep line breaks inside a text; "jsonl" has one object with `field` (a string, or a
    list of strings, which are joined by blank lines) or one string a line; "csv" has a header with `field`
    (delimiter comma, semicolon or tab). "auto" goes by the suffix, then by the content: a first line that is a
    JSON object is JSONL; `<|endoftext|>` anywhere is endoftext; blank lines between blocks that have several
    lines, 20 at most on average, are paragraphs; anything else is lines. Line ends may be Unix's, Windows' or
    old Mac's; a byte order mark is skipped. `label` is the field of a text's class or source (text, a number, true
    or false; null and an empty field are none), which every file must have then; without it, texts of several files
    are labelled by their file: its path below the folder, or its name, without .txt and the like.

    Raises:
        UserError: in one line, with the line number where there is one: no such file, an unknown format or
            encoding, bytes of another encoding, a binary file, invalid JSON or CSV, a missing field, a text
            longer than `max_chars` characters, no text at all, a label or condition field of files that have no fields,
            a text without condition.
    """
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r}; known: {', '.join(FORMATS)}")
    files = _files_of(path)
    texts: list[str] = []
    labels: list[str | None] = []
    conditions: list[str | None] = []
    formats: dict[str, int] = {}
    blank = 0
    for file in files:
        content = _decode(file, encoding)
        found = _format_of(file, content) if format == "auto" else format
        formats[found] = formats.get(found, 0) + 1
        for name, what in ((label, "label"), (condition, "condition")):
            if name is not None and found not in ("jsonl", "csv"):
                raise UserError(
                    f"{file} is read as {found}, which has no field {name!r} for a {what}; jsonl and csv have"
                )
        origin = _origin(file, Path(path).expanduser()) if len(files) > 1 and label is None else None
        for line, text, own, given in _parse(file, content, found, field, label, condition):
            text = text.strip()
            if text:
                _check_text(file, line, text, max_chars)
                if given is not None:
                    _check_text(file, line, given, max_chars)
                texts.append(text)
                conditions.append(given)
                labels.append(own if label is not None else origin)
            else:
                blank += 1
    if not texts:
        raise UserError(f"{path} holds no text")
    return Reading(texts, labels, formats, blank, conditions)


def is_readable(path: str | Path) -> bool:
    """Whether `path` is there as a file, a folder, or a pattern that some file fits."""
    return Path(path).expanduser().exists() or bool(_matches(path))


def _files_of(path: str | Path) -> list[Path]:
    place = Path(path).expanduser()
    if place.is_dir():
        return _files_below(place)
    if place.exists():
        return [place]
    if files := _matches(path):
        return files
    what = "no file fits the pattern {}" if glob.has_magic(str(path)) else "{} does not exist"
    raise UserError(what.format(path))


def _matches(pattern: str | Path) -> list[Path]:
    if not glob.has_magic(str(pattern)):
        return []
    found = glob.glob(str(Path(pattern).expanduser()), recursive=True)
    return [file for name in sorted(found) if (file := Path(name)).is_file()]


def _origin(file: Path, source: Path) -> str:
    name = file.relative_to(source).as_posix() if source.is_dir() else file.name
    return name[: -len(file.suffix)] if file.suffix.lower() in _FOLDER_SUFFIXES else name


def _files_below(folder: Path) -> list[Path]:
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in _FOLDER_SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    if not files:
        raise UserError(f"there is no .txt, .jsonl or .csv file below {folder}")
    return files


def _decode(file: Path, encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
    except LookupError:
        raise UserError(f"unknown encoding {encoding!r}; usual ones: utf-8, utf-16, latin-1, gb18030") from None
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    nul = -1 if name.startswith(("utf-16", "utf-32")) else data.find(b"\0")
    if nul >= 0:
        raise UserError(
            f"{_place(file, data, nul)}: a NUL byte: this is no text file (or it is UTF-16: set its encoding)"
        )
    try:
        text = data.decode(name)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{_place(file, data, error.start)}: byte 0x{data[error.start]:02x} is not {encoding}; "
            "set the file's encoding, such as latin-1 or gb18030"
        ) from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _place(file: Path, data: bytes, position: int) -> str:
    line = data.count(b"\n", 0, position) + 1
    return f"{file}:{line}"


def _format_of(file: Path, content: str) -> str:
    if file.suffix.lower() in _BY_SUFFIX:
        return _BY_SUFFIX[file.suffix.lower()]
    if content.lstrip().startswith("{"):
        try:
            json.loads(content.lstrip().split("\n", 1)[0])
            return "jsonl"
        except ValueError:
            pass
    if EOS in content:
        return "endoftext"
    lines = [line.strip() for line in content.strip().split("\n")]
    full = sum(map(bool, lines))
    blocks = sum(bool(line) and not before for before, line in zip(["", *lines], lines, strict=False))
    return "paragraphs" if 1 < blocks < full <= _PARAGRAPH_LINES * blocks else "lines"


Record = tuple[int, str, str | None, str | None]


def _parse(
    file: Path, content: str, format: str, field: str, label: str | None, condition: str | None
) -> Iterator[Record]:
    """(line number, text, label, condition) of every text; blank ones too."""
    if format == "jsonl":
        return _parse_jsonl(file, content, field, label, condition)
    if format == "csv":
        return _parse_csv(file, content, field, label, condition)
    if format == "paragraphs":
        parts = _parse_paragraphs(content)
    elif format == "endoftext":
        parts = _parse_endoftext(content)
    else:
        body = content.removesuffix("\n")
        parts = enumerate(body.split("\n"), 1) if body else ()
    return ((number, text, None, None) for number, text in parts)


def _parse_paragraphs(content: str) -> Iterator[tuple[int, str]]:
    block: list[str] = []
    for number, line in enumerate([*content.split("\n"), ""], 1):
        if line.strip():
            block.append(line)
        elif block:
            yield number - len(block), "\n".join(block)
            block = []


def _parse_endoftext(content: str) -> Iterator[tuple[int, str]]:
    body = content.lstrip()
    number = 1 + content[: len(content) - len(body)].count("\n")
    for part in body.rstrip().removeprefix(EOS).removesuffix(EOS).split(EOS):
        text = part.lstrip()
        yield number + part[: len(part) - len(text)].count("\n"), text
        number += part.count("\n")


def _parse_jsonl(file: Path, content: str, field: str, label: str | None, condition: str | None) -> Iterator[Record]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            message = getattr(error, "msg", None) or str(error)
            raise UserError(f"{file}:{number}: invalid JSON: {message}; there must be one object a line") from None
        if isinstance(record, dict):
            place = f"{file}:{number}"
            text = text_of_record(record, field, place)
            given = condition_of_record(record, condition, place) if text.strip() else None
            yield number, text, label_of_record(record, label, place), given
        elif isinstance(record, str):
            for name, what in ((label, "label"), (condition, "condition")):
                if name is not None:
                    raise UserError(f"{file}:{number}: a JSON string, which has no field {name!r} for a {what}")
            yield number, record, None, None
        else:
            raise UserError(f"{file}:{number}: a JSON {type(record).__name__}; there must be one object a line")


def text_of_record(record: dict, field: str, place: str) -> str:
    """The text in `record[field]`: a string, or a list of strings joined by blank lines.

    Raises:
        UserError: the field is missing or holds anything else; `place` says where.
    """
    if field not in record:
        raise UserError(f"{place}: no field {field!r}; there are: {', '.join(map(str, record)) or 'none'}")
    value = record[field]
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n\n".join(value)
    if not isinstance(value, str):
        raise UserError(f"{place}: field {field!r} holds a {type(value).__name__}, not text")
    return value


def label_of_record(record: dict, field: str | None, place: str) -> str | None:
    """The label in `record[field]` as text; None where it is null or empty, or `field` is None.

    Raises:
        UserError: the field is missing, or holds a list or an object; `place` says where.
    """
    if field is None:
        return None
    if field not in record:
        raise UserError(f"{place}: no field {field!r} for a label; there are: {', '.join(map(str, record)) or 'none'}")
    value = record[field]
    if value is not None and not isinstance(value, str | int | float):
        raise UserError(f"{place}: field {field!r} holds a {type(value).__name__}, which is no label")
    return None if value is None else " ".join(str(value).split()) or None


def condition_of_record(record: dict, field: str | None, place: str) -> str | None:
    """The condition in `record[field]`: a string, or a list of strings joined by commas; None where `field` is None.

    Raises:
        UserError: the field is missing, holds anything else, or only white space; `place` says where.
    """
    if field is None:
        return None
    if field not in record:
        there = ", ".join(map(str, record)) or "none"
        raise UserError(f"{place}: no field {field!r} for a condition; there are: {there}")
    value = record[field]
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = ", ".join(part.strip() for part in value if part.strip())
    if value is not None and not isinstance(value, str):
        raise UserError(f"{place}: field {field!r} holds a {type(value).__name__}, which is no condition")
    if value is None or not value.strip():
        raise UserError(f"{place}: field {field!r} is empty; every text needs a condition: fill it in or drop the text")
    return value.strip()


def _parse_csv(file: Path, content: str, field: str, label: str | None, condition: str | None) -> Iterator[Record]:
    header = content.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    limit = csv.field_size_limit(len(content) + 1)  # the process's own; too long texts are told elsewhere
    rows = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = rows.fieldnames or []
        wanted = [name for name in (field, label, condition) if name is not None]
        for name in wanted:
            if name not in columns:
                raise UserError(f"{file}:1: no column {name!r}; there are: {', '.join(columns)[:200] or 'none'}")
        for row in rows:
            for name in wanted:
                if row[name] is None:
                    raise UserError(f"{file}:{rows.line_num}: no field {name!r}: the row is too short")
            place = f"{file}:{rows.line_num}"
            given = condition_of_record(row, condition, place) if row[field].strip() else None
            yield rows.line_num, row[field], label_of_record(row, label, place), given
    except csv.Error as error:
        line = min(rows.line_num + 1, content.rstrip("\n").count("\n") + 1)  # line_num is the last good one
        raise UserError(f"{file}:{line}: invalid CSV: {error}") from None
    finally:
        csv.field_size_limit(limit)


def _check_text(file: Path, line: int, text: str, max_chars: int) -> None:
    if len(text) > max_chars:
        raise UserError(
            f"{file}:{line}: a text of {len(text):,} characters; at most max_chars={max_chars:,} are allowed "
            "(is this the right format? lines, paragraphs, endoftext, jsonl or csv)"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{file}:{line}: half of a surrogate pair, which is no character") from None
