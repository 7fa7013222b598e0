"""Outcomes from a file to the detector, in batches, each until it is taken."""

from __future__ import annotations

import csv
import gzip
import io
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from fraudkit.errors import InvalidInput, PermanentError

BATCH: Final = 10_000
TRIES: Final = 6
FIELDS: Final = ("id", "label", "source", "by", "at")
SHOWN: Final = 10


class LabelProblem(BaseModel):
    """A line that could not be used: its number in the file, the header being line 1."""

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
    """Send the labels of a CSV, or of a CSV.gz.

    Raises:
        InvalidInput: The file is not that.
        PermanentError: The detector does not take them, though it was asked several times.
    """
    total, line = LabelsRecord(), 2
    with Progress(console=console, transient=True) as progress, httpx.Client(timeout=60) as client:
        task = progress.add_task("labels", total=None)
        rows = _rows(path)
        while batch := list(islice(rows, BATCH)):
            answer = _send(client, f"{url}/v1/labels", batch)
            problems = tuple(
                LabelProblem(line=line + one.row, field=one.field, problem=one.problem) for one in answer.mistakes
            )
            total = LabelsRecord(
                accepted=total.accepted + answer.accepted,
                repeated=total.repeated + answer.repeated,
                unknown=total.unknown + answer.unknown,
                rejected=total.rejected + answer.rejected,
                problems=(*total.problems, *problems)[:100],
            )
            line += len(batch)
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


def _rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
        if not {"id", "label"} <= set(reader.fieldnames):
            raise InvalidInput(f"{path} must have a header with id and label; other columns may be source, by, at")
        yield from ({name: row[name] for name in FIELDS if row.get(name)} for row in reader)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{path} cannot be read as CSV: {error}") from error


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


def _send(client: httpx.Client, url: str, batch: list[dict[str, str]]) -> _Answer:
    wait = 0.5
    for left in reversed(range(TRIES)):
        try:
            answer = client.post(url, json=batch)
        except httpx.HTTPError as error:
            said = str(error)
        else:
            if answer.status_code in (httpx.codes.OK, httpx.codes.BAD_REQUEST):
                return _read(answer, url)
            said = f"{answer.status_code}: {answer.text[:200]}"
            if not answer.is_server_error:
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
