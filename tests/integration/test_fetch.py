"""`pipelines.data.fetch` against a stand-in for OpenML: a real HTTP server that can misbehave."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from struct import pack

import numpy as np
import pyarrow.parquet as pq
import pytest

from fraudkit.errors import InvalidInput, PermanentError, TemporaryError
from fraudkit.schema import INPUTS, LABEL
from pipelines.data import fetch as module
from pipelines.data.fetch import download, fetch

ROWS = 1200
TABLE = np.round(np.random.default_rng(7).normal(size=(ROWS, 30)) * 3, 6)
TABLE[:, 0] = np.arange(ROWS) * 100.0
TABLE[:, -1] = np.abs(TABLE[:, -1])
LABELS = (np.arange(ROWS) % 50 == 0).astype(int)

DESCRIPTION = "/api/v1/json/data/1597"
FILE = "/data/v1/download/1673544/creditcard.arff"
TAG = '"v1"'

Reply = Callable[["Handler"], None]


def arff(names: tuple[str, ...] = (*INPUTS, LABEL), quote: str = "'") -> bytes:
    types = ["{'0','1'}" if name == LABEL else "NUMERIC" for name in names]
    header = ["% made for a test", "@RELATION creditcard", ""]
    header += [
        f"@ATTRIBUTE {name if i % 2 else repr(name)} {kind}"
        for i, (name, kind) in enumerate(zip(names, types, strict=True))
    ]
    width = len(names) - 1
    rows = [
        ",".join(f"{value:g}" if value == 100_000 else repr(float(value)) for value in row[30 - width :])
        + f",{quote}{label}{quote}"
        for row, label in zip(TABLE, LABELS, strict=True)
    ]
    return "\n".join([*header, "", "@DATA", *rows, ""]).encode()


BODY = arff()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        with self.server.guard:
            self.server.asked.append((path, self.headers))
            plan = self.server.plans.get(path, [])
            reply = plan.pop(0) if len(plan) > 1 else plan[0] if plan else status(404)
        self.close_connection = True
        reply(self)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Be quiet."""


class Site(ThreadingHTTPServer):
    """Serves `plans`: for each path the replies in order, of which the last is repeated."""

    def __init__(self) -> None:
        self.plans: dict[str, list[Reply]] = {}
        self.asked: list[tuple[str, Message]] = []
        self.guard = threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def ranges(self, path: str = FILE) -> list[str | None]:
        return [headers.get("Range") for asked, headers in self.asked if asked == path]

    def publish(self, *replies: Reply, md5: str | None = None, body: bytes = BODY, **changes: object) -> None:
        description = {
            "id": "1597",
            "name": "creditcard",
            "version": "1",
            "format": "ARFF",
            "url": self.base + FILE,
            "row_id_attribute": "Time",
            "status": "active",
            "md5_checksum": md5 or hashlib.md5(body, usedforsecurity=False).hexdigest(),
        } | changes
        self.plans[DESCRIPTION] = [send(json.dumps({"data_set_description": description}).encode(), tag=None)]
        self.plans[FILE] = list(replies) or [send(body)]


def send(
    body: bytes,
    *,
    tag: str | None = TAG,
    ranged: bool = True,
    cut: int | None = None,
    length: bool = True,
    reset: bool = False,
    shift: int = 0,
) -> Reply:
    """Answer with `body`, or with its rest if asked for that; `cut` after so many bytes."""

    def reply(to: Handler) -> None:
        asked = to.headers.get("Range") if ranged and to.headers.get("If-Range", tag) == tag else None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if asked and start >= len(body):
            return status(416, **{"Content-Range": f"bytes */{len(body)}"})(to)
        start += shift if asked else 0
        to.send_response(206 if asked else 200)
        if asked:
            to.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if tag:
            to.send_header("ETag", tag)
        if length:
            to.send_header("Content-Length", str(len(body) - start))
        to.send_header("Connection", "close")
        to.end_headers()
        to.wfile.write(body[start:] if cut is None else body[start : start + cut])
        if reset:
            to.connection.setsockopt(SOL_SOCKET, SO_LINGER, pack("ii", 1, 0))
        return None

    return reply


def status(code: int, **headers: str) -> Reply:
    def reply(to: Handler) -> None:
        to.send_response(code)
        for name, value in headers.items():
            to.send_header(name.replace("_", "-"), value)
        to.send_header("Content-Length", "0")
        to.end_headers()

    return reply


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that were asked for; none is waited."""
    asked: list[float] = []
    monkeypatch.setattr(module, "sleep", asked.append)
    return asked


def get(site: Site, cache: Path, **options: object) -> Path:
    return fetch(base=site.base, cache=cache, rows=ROWS, **options)  # type: ignore[arg-type]


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_arff_becomes_parquet_with_every_value(site: Site, tmp_path: Path) -> None:
    site.publish()
    seen: list[tuple[int, int | None]] = []

    path = get(site, tmp_path, progress=lambda done, total: seen.append((done, total)))

    table = pq.read_table(path)
    assert table.column_names == [*INPUTS, LABEL]
    assert {str(field.type) for field in table.schema} == {"double", "int8"}
    assert str(table.schema.field(LABEL).type) == "int8"
    np.testing.assert_array_equal(np.column_stack([table[name] for name in INPUTS]), TABLE)
    np.testing.assert_array_equal(table[LABEL], LABELS)
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert left(tmp_path) == ["creditcard.parquet"]


@pytest.mark.parametrize("quote", ["", '"'])
def test_labels_in_other_quotes_or_none(site: Site, tmp_path: Path, quote: str) -> None:
    site.publish(body=arff(quote=quote))
    np.testing.assert_array_equal(pq.read_table(get(site, tmp_path))[LABEL], LABELS)


def test_second_call_uses_the_cache_without_the_network(site: Site, tmp_path: Path) -> None:
    site.publish()
    first = get(site, tmp_path)
    assert fetch(base="http://127.0.0.1:9", cache=tmp_path) == first


def test_force_fetches_again_and_failure_keeps_the_old_file(site: Site, tmp_path: Path) -> None:
    site.publish()
    old = get(site, tmp_path).read_bytes()
    get(site, tmp_path, force=True)
    assert len(site.ranges()) == 2

    site.publish(status(404))
    with pytest.raises(PermanentError, match="404"):
        get(site, tmp_path, force=True)
    assert (tmp_path / "creditcard.parquet").read_bytes() == old


def test_cache_folder_is_the_users(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.publish()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert fetch(base=site.base, rows=ROWS) == tmp_path / "xdg/fraud-platform/creditcard.parquet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch(base=site.base, rows=ROWS) == tmp_path / ".cache/fraud-platform/creditcard.parquet"


def test_two_at_once_fetch_once(site: Site, tmp_path: Path) -> None:
    site.publish()
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: get(site, tmp_path), range(2)))
    assert paths[0] == paths[1]
    assert pq.read_metadata(paths[0]).num_rows == ROWS
    assert len(site.ranges()) == 1


def test_cut_connection_is_continued(site: Site, tmp_path: Path, waits: list[float]) -> None:
    site.publish(send(BODY, cut=100_000), send(BODY, cut=50_000), send(BODY))
    assert pq.read_metadata(get(site, tmp_path)).num_rows == ROWS
    assert site.ranges() == [None, "bytes=100000-", "bytes=150000-"]
    assert site.asked[-1][1]["If-Range"] == TAG
    assert waits == [1, 1]


def test_connection_that_is_reset_is_tried_again(site: Site, tmp_path: Path, waits: list[float]) -> None:
    site.publish(send(BODY, cut=100_000, reset=True), send(BODY))
    assert pq.read_metadata(get(site, tmp_path)).num_rows == ROWS
    assert waits == [1]


def test_progress_between_cuts_resets_the_count(site: Site, tmp_path: Path) -> None:
    site.publish(*[send(BODY, cut=len(BODY) // 12)] * 11, send(BODY))
    assert pq.read_metadata(get(site, tmp_path)).num_rows == ROWS
    assert len(site.ranges()) == 12 > module.ATTEMPTS


def test_server_that_ignores_ranges_starts_anew(site: Site, tmp_path: Path) -> None:
    site.publish(send(BODY, cut=90_000), send(BODY, ranged=False))
    assert pq.read_metadata(get(site, tmp_path)).num_rows == ROWS
    assert site.ranges() == [None, "bytes=90000-"]


def test_file_that_changed_between_attempts_is_not_mixed(site: Site, tmp_path: Path) -> None:
    site.plans["/x"] = [send(b"old " * 50_000, cut=90_000), send(b"new " * 50_000, tag='"v2"')]
    assert download(site.base + "/x", tmp_path / "x").read_bytes() == b"new " * 50_000


@pytest.mark.parametrize("tag", [None, 'W/"weak"'])
def test_without_validator_or_md5_nothing_is_continued(site: Site, tmp_path: Path, tag: str | None) -> None:
    site.plans["/x"] = [send(BODY, tag=tag, cut=90_000), send(BODY, tag=tag)]
    assert download(site.base + "/x", tmp_path / "x").read_bytes() == BODY
    assert site.ranges("/x") == [None, None]


def test_wrong_range_is_not_appended(site: Site, tmp_path: Path) -> None:
    site.publish(send(BODY, cut=90_000), send(BODY, shift=7), send(BODY))
    assert pq.read_metadata(get(site, tmp_path)).num_rows == ROWS
    assert site.ranges() == [None, "bytes=90000-", None]


def test_answer_without_length_that_was_cut_is_found_by_md5(site: Site, tmp_path: Path) -> None:
    site.publish(send(BODY, length=False, cut=90_000), send(BODY, length=False))
    assert pq.read_metadata(get(site, tmp_path)).num_rows == ROWS
    assert site.ranges() == [None, "bytes=90000-"]


def test_next_call_goes_on_where_one_gave_up(site: Site, tmp_path: Path) -> None:
    site.publish(send(BODY, cut=100_000), status(503))
    with pytest.raises(TemporaryError, match=r"503 .*100,000 bytes"):
        get(site, tmp_path)
    site.publish()
    assert pq.read_metadata(get(site, tmp_path)).num_rows == ROWS
    assert site.ranges()[-1] == "bytes=100000-"


def test_stale_part_longer_than_the_file_is_dropped(site: Site, tmp_path: Path) -> None:
    (tmp_path / "creditcard.arff.part").write_bytes(BODY + b"more")
    site.publish()
    assert pq.read_metadata(get(site, tmp_path)).num_rows == ROWS
    assert site.ranges() == [f"bytes={len(BODY) + 4}-", None]


def test_wrong_checksum_deletes_the_file(site: Site, tmp_path: Path) -> None:
    site.publish(md5="0" * 32)
    with pytest.raises(PermanentError, match=r"creditcard\.arff: .* MD5 .*0000.* was deleted"):
        get(site, tmp_path)
    assert left(tmp_path) == []


def test_busy_server_is_asked_again_when_it_says(site: Site, tmp_path: Path, waits: list[float]) -> None:
    site.publish(status(503, Retry_After="0"), status(429, Retry_After="9"), send(BODY))
    get(site, tmp_path)
    assert waits == [1, 9]


def test_busy_server_is_not_asked_for_ever(site: Site, tmp_path: Path, waits: list[float]) -> None:
    site.publish(status(500))
    with pytest.raises(TemporaryError, match=r"HTTP 500 .* try again later"):
        get(site, tmp_path)
    assert len(site.ranges()) == module.ATTEMPTS
    assert waits == [1, 2, 4, 8]


def test_server_that_asks_for_an_hour_is_left_alone(site: Site, tmp_path: Path, waits: list[float]) -> None:
    site.publish(status(429, Retry_After="3600"))
    with pytest.raises(TemporaryError, match="try again in 3,600 s"):
        get(site, tmp_path)
    assert waits == []


def test_no_server_is_temporary(tmp_path: Path) -> None:
    with pytest.raises(TemporaryError, match=r"127\.0\.0\.1:9/api/v1/json/data/1597: no answer"):
        fetch(base="http://127.0.0.1:9", cache=tmp_path)


def test_silent_server_times_out(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.05)
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    done = threading.Event()

    def wait(_: Handler) -> None:
        done.wait(5)

    site.plans["/x"] = [wait]
    with pytest.raises(TemporaryError, match="timed out"):
        download(site.base + "/x", tmp_path / "x")
    done.set()


@pytest.mark.parametrize("code", [401, 403, 404, 410, 412])
def test_refusal_stops_at_once(site: Site, tmp_path: Path, waits: list[float], code: int) -> None:
    site.publish(status(code))
    with pytest.raises(PermanentError, match=rf"creditcard\.arff: HTTP {code} .*check the address"):
        get(site, tmp_path)
    assert waits == []
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "answer", [b"<html>no</html>", b"\xff\xfe", b"[]", b'{"data_set_description": {"name": 1}}']
)
def test_description_that_is_none(site: Site, tmp_path: Path, answer: bytes) -> None:
    site.plans[DESCRIPTION] = [send(answer)]
    with pytest.raises(PermanentError, match="data/1597: not OpenML's description"):
        get(site, tmp_path)
    assert left(tmp_path) == []


def test_description_of_another_set(site: Site, tmp_path: Path) -> None:
    site.publish(name="iris")
    with pytest.raises(PermanentError, match="'iris'"):
        get(site, tmp_path)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"<html>Please log in</html>\n" * 100, "not an ARFF file"),
        (b"", "not an ARFF file"),
        (arff((*INPUTS[1:], LABEL)), "Time: the column is missing"),
        (arff() + b"1,2,3\n", "not the rows"),
        (arff().replace(b"\n0.0,", b"\n?,", 1), "not the rows"),
        (arff().replace(b",'1'\n", b",'fraud'\n", 1), "not the rows"),
        (arff().partition(b"@DATA")[0] + b"@DATA\n", "not the rows"),
        (arff()[: arff().rindex(b"\n", 0, -1) + 1], "has 1,199 rows, must have 1,200"),
    ],
)
def test_file_that_is_not_the_set(site: Site, tmp_path: Path, body: bytes, problem: str) -> None:
    site.publish(body=body)
    with pytest.raises(PermanentError, match=rf"creditcard\.arff: .*{problem}.*--data FILE"):
        get(site, tmp_path)
    assert left(tmp_path) == []


@pytest.mark.parametrize("length", [True, False])
def test_too_large_is_refused_and_not_kept(site: Site, tmp_path: Path, length: bool) -> None:
    site.plans["/x"] = [send(BODY, length=length)]
    with pytest.raises(PermanentError, match="larger than the 100,000 bytes"):
        download(site.base + "/x", tmp_path / "x", limit=100_000)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "x.csv", "http://", "http://a b/", "http://["]
)
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidInput, match="address"):
        download(url, tmp_path / "x")


def test_redirects_are_followed_and_secrets_not_shown(site: Site, tmp_path: Path) -> None:
    site.plans["/old"] = [status(302, Location="/new")]
    site.plans["/new"] = [send(BODY)]
    assert download(site.base + "/old", tmp_path / "x").read_bytes() == BODY
    with pytest.raises(PermanentError) as refused:
        download(f"{site.base}/secret?sig=hush", tmp_path / "y")
    assert "/secret: HTTP 404" in str(refused.value)
    assert "hush" not in str(refused.value)


def test_folder_that_cannot_be_written(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TemporaryError, match="choose another folder"):
        get(site, tmp_path / "file")
