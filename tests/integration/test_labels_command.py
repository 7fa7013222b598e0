"""`fraudctl labels`: files of every kind, to something that takes labels."""

from __future__ import annotations

import gzip
import io
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from fraudctl.labels import report, show_report
from fraudkit.errors import InvalidInput, PermanentError

SILENT = Console(file=io.StringIO())
ROWS = [{"id": "a-0", "label": 1, "source": "bank"}, {"id": "a-1", "label": 0}, {"id": "a-2", "label": 7}]


class Sink(HTTPServer):
    """Takes labels as the detector does, after it has failed as often as it is told to."""

    def __init__(self) -> None:
        self.failures, self.took = list[int](), list[Any]()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: Sink

    def do_POST(self) -> None:
        rows = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
        status, answer = 200, b"{}"
        if self.server.failures:
            status = self.server.failures.pop()
        else:
            self.server.took += rows
            wrong = [n for n, row in enumerate(rows) if str(row.get("label")) not in "01"]
            mistakes = [{"row": n, "field": "label", "problem": "must be 0 or 1"} for n in wrong]
            counts = {"accepted": len(rows) - len(wrong), "repeated": 0, "unknown": 0, "rejected": len(wrong)}
            answer = orjson.dumps(counts | {"mistakes": mistakes})
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def written(folder: Path, name: str) -> Path:
    path = folder / name
    plain = name.removesuffix(".gz")
    if plain.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), path)
        return path
    if plain.endswith(".csv"):
        content = "\ufeffid,Label,source,more\na-0,1,bank,x\n\na-1,0,,\na-2,7,,\n".encode()
    elif plain.endswith(".json"):
        content = orjson.dumps({"labels": ROWS})
    else:
        content = b"\n".join(orjson.dumps(row) for row in ROWS)
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("labels.csv", 5),  # after the header and an empty line
        ("labels.csv.gz", 5),
        ("labels.json", 3),
        ("labels.jsonl", 3),
        ("labels.ndjson.gz", 3),
        ("labels.parquet", 3),
    ],
)
def test_a_file_is_sent_whatever_its_kind_and_problems_are_told_by_line(
    sink: Sink, tmp_path: Path, name: str, line: int
) -> None:
    record = report(written(tmp_path, name), sink.url, SILENT)
    assert [(row["id"], int(row["label"])) for row in sink.took] == [("a-0", 1), ("a-1", 0), ("a-2", 7)]
    assert [row.get("source") for row in sink.took] == ["bank", None, None]
    assert (record.accepted, record.rejected, record.problems[0].line) == (2, 1, line)
    page = Console(file=io.StringIO(), width=200)
    show_report(record, page)
    assert f"line {line}, label: must be 0 or 1" in page.file.getvalue()  # type: ignore[attr-defined]


def test_a_long_file_goes_in_parts_with_its_lines_kept(sink: Sink, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("id,label\n" + "".join(f"a-{n},{7 if n == 15_000 else 0}\n" for n in range(20_001)))
    record = report(path, sink.url, SILENT)
    assert (record.accepted, record.rejected, record.problems[0].line) == (20_000, 1, 15_002)


def test_times_of_a_parquet_file_are_sent_as_such(sink: Sink, tmp_path: Path) -> None:
    rows = [{"id": "a-0", "label": 1, "at": datetime(2025, 12, 1, tzinfo=UTC)}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "labels.parquet")
    report(tmp_path / "labels.parquet", sink.url, SILENT)
    assert sink.took[0]["at"] == "2025-12-01T00:00:00+00:00"


def test_what_is_temporary_is_tried_again_and_what_is_not_is_said(sink: Sink, tmp_path: Path) -> None:
    path = written(tmp_path, "labels.csv")
    sink.failures = [503]
    assert report(path, sink.url, SILENT).accepted == 2
    sink.failures = [413]
    with pytest.raises(PermanentError, match="answered 413"):
        report(path, sink.url, SILENT)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"id,value\na,1\n"),
        ("a.csv", b"id,label\n\xff,1\n"),
        ("a.csv", b'id,label\n"a,1\n'),
        ("a.csv.gz", b"no gzip"),
        ("a.csv.gz", gzip.compress(b"id,label\na,1\n")[:-4]),
        ("a.json", b"{"),
        ("a.jsonl", b'{"id": "a"'),
        ("a.parquet", b"no parquet"),
    ],
)
def test_a_file_that_is_none_is_wrong_input(sink: Sink, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match="cannot be read"):
        report(tmp_path / name, sink.url, SILENT)


def test_a_file_that_is_not_there_is_wrong_input(sink: Sink, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        report(tmp_path / "none.csv", sink.url, SILENT)
