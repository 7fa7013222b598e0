"""Outcomes from a file to the detector, in batches, each until it is taken."""

from __future__ import annotations

import csv
import gzip
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

import httpx
import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from fraudkit.errors import InvalidInput, PermanentError

BATCH: Final = 10_000
TRIES: Final = 6
FIELDS: Final = ("id", "label", "source", "by", "at")
SHOWN: Final = 10
_TEMPORARY: Final = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS)
Numbered = tuple[int, Any]
"""A label as the file has it, and its line."""


class LabelProblem(BaseModel):
    """A label that could not be used: its line in the file, or its number from 1 in JSON and Parquet."""

    model_config = ConfigDict(frozen=True)

    line: int
    field: str
    problem: str


class LabelsRecord(BaseModel):
    """What became of a file: labels that were new, known before, and of no transaction that is known yet."""

    model_config = ConfigDict(frozen=True)

    accepted: int = 0
    repeated: int = 0
    unknown: int = 0
    rejected: int = 0
    problems: tuple[LabelProblem, ...] = ()


def report(path: Path, url: str, console: Console) -> LabelsRecord:
    """Send the labels of a CSV, JSON or JSON lines, each as it is or as `.gz`, or of a Parquet file.

    Raises:
        InvalidInput: The file is not that.
        PermanentError: The detector does not take them, though it was asked several times.
    """
    total = LabelsRecord()
    with Progress(console=console, transient=True) as progress, httpx.Client(timeout=60) as client:
        task = progress.add_task("labels", total=None)
        rows = _rows(path)
        while batch := list(islice(rows, BATCH)):
            answer = _send(client, f"{url.rstrip('/')}/v1/labels", [row for _, row in batch])
            problems = tuple(
                LabelProblem(line=batch[one.row][0], field=one.field, problem=one.problem)
                for one in answer.mistakes
            )
            total = LabelsRecord(
                accepted=total.accepted + answer.accepted,
                repeated=total.repeated + answer.repeated,
                unknown=total.unknown + answer.unknown,
                rejected=total.rejected + answer.rejected,
                problems=(*total.problems, *problems)[:100],
            )
            progress.update(task, advance=len(batch))
    return total


def show_report(record: LabelsRecord, console: Console) -> None:
    """Counts, and the first problems by line."""
    console.print(
        f"{record.accepted:,} labels were new, {record.repeated:,} were known, "
        f"{record.rejected:,} could not be read; {record.unknown:,} name no transaction so far",
        highlight=False,
    )
    for problem in record.problems[:SHOWN]:
        console.print(f"line {problem.line}, {escape(problem.field)}: {escape(problem.problem)}", highlight=False)


def _rows(path: Path) -> Iterator[Numbered]:
    read = _readers().get(path.name.removesuffix(".gz").rpartition(".")[2].lower(), _from_csv)
    try:
        if read is _from_parquet:
            yield from _from_parquet(path)
            return
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from read(file)
    except (OSError, EOFError, zlib.error, csv.Error, ValueError, InvalidInput) as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from error


def _readers() -> dict[str, Callable[[Any], Iterator[Numbered]]]:
    lines = dict.fromkeys(("jsonl", "ndjson"), _from_json_lines)
    return {"json": _from_json, "parquet": _from_parquet, **lines}


def _from_csv(file: IO[bytes]) -> Iterator[Numbered]:
    reader = csv.DictReader((line.decode("utf-8-sig") for line in file), strict=True)
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    _check(reader.fieldnames)
    for row in reader:
        yield reader.line_num, {name: row[name] for name in FIELDS if row.get(name)}


def _from_json(file: IO[bytes]) -> Iterator[Numbered]:
    document = orjson.loads(file.read())
    rows = document.get("labels", document) if isinstance(document, dict) else document
    return ((number, _taken(row)) for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1))


def _from_json_lines(file: IO[bytes]) -> Iterator[Numbered]:
    return ((number, _taken(orjson.loads(line))) for number, line in enumerate(file, 1) if line.strip())


def _from_parquet(path: Path) -> Iterator[Numbered]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = [name for name in FIELDS if name in file.schema_arrow.names]
        _check(names)
        number = 0
        for batch in file.iter_batches(BATCH, columns=names):
            for row in batch.to_pylist():
                number += 1
                yield number, _taken(row)


def _check(names: Sequence[str]) -> None:
    if not {"id", "label"} <= set(names):
        raise InvalidInput("there must be columns id and label; others may be source, by, at")


def _taken(row: Any) -> Any:
    """What is sent of a label; what is none is sent too, and the detector says so."""
    return {name: row[name] for name in FIELDS if row.get(name) is not None} if isinstance(row, dict) else row


class _Mistake(BaseModel):
    row: int
    field: str
    problem: str


class _Answer(BaseModel):
    accepted: int
    repeated: int
    unknown: int
    rejected: int
    mistakes: tuple[_Mistake, ...]


def _send(client: httpx.Client, url: str, batch: list[Any]) -> _Answer:
    wait, body = 0.5, orjson.dumps(batch, default=str)
    for left in reversed(range(TRIES)):
        try:
            answer = client.post(url, content=body, headers={"content-type": "application/json"})
        except httpx.HTTPError as error:
            said = str(error) or type(error).__name__
        else:
            if answer.status_code in (httpx.codes.OK, httpx.codes.BAD_REQUEST):
                return _read(answer, url)
            said = f"{answer.status_code}: {answer.text[:200]}"
            if not answer.is_server_error and answer.status_code not in _TEMPORARY:
                raise PermanentError(f"{url} answered {said}")
        if left:
            time.sleep(wait)
            wait *= 2
    raise PermanentError(f"{url} does not take the labels ({said}); sending the file again does no harm")


def _read(answer: httpx.Response, url: str) -> _Answer:
    try:
        return _Answer.model_validate_json(answer.content)
    except ValidationError as error:
        raise PermanentError(f"{url} answered {answer.status_code}: {answer.text[:200]}") from error
