"""The gateway's small parts: times as Go writes them, fields that end at a connection, where servers may be."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serving.gateway.payloads import rfc3339
from serving.gateway.traffic import Split, Target, Traffic
from serving.gateway.upstream import asked, end_to_end

STABLE, CANARY = "http://127.0.0.1:1", "http://127.0.0.1:2"


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_764_091_575_000_000_000, "2025-11-25T17:26:15Z"),
        (1_764_091_575_120_000_000, "2025-11-25T17:26:15.12Z"),
        (1_764_091_575_000_000_001, "2025-11-25T17:26:15.000000001Z"),
    ],
)
def test_a_time_is_written_as_go_writes_it(nanoseconds: int, text: str) -> None:
    assert rfc3339(nanoseconds) == text


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_a_time_is_read_back_as_it_was(nanoseconds: int) -> None:
    moment = datetime.fromisoformat(rfc3339(nanoseconds))
    assert moment.tzinfo == UTC
    assert moment == datetime.fromtimestamp(nanoseconds // 10**9, UTC).replace(
        microsecond=nanoseconds % 10**9 // 1_000
    )


def test_fields_of_one_connection_end_with_it() -> None:
    fields = [
        (b"A", b"1"),
        (b"Connection", b"close, X-Mine"),
        (b"x-mine", b"2"),
        (b"TE", b"trailers"),
        (b"A", b"3"),
    ]
    assert end_to_end(fields) == [(b"A", b"1"), (b"A", b"3")]


def test_a_request_is_asked_as_it_came() -> None:
    headers = [(b"host", b"x"), (b"content-length", b"2"), (b"expect", b"100-continue"), (b"ce-id", "é".encode())]
    scope = {"method": "POST", "raw_path": b"/v1/a%2F..", "query_string": b"x=%41", "headers": headers}
    request = asked(scope, b"{}")
    assert request[:2] == ("POST", "/v1/a%2F..?x=%41")
    assert dict(request.headers) == {"ce-id": "é"}
    with pytest.raises(ValueError, match="ce-id: must be UTF-8"):
        asked(scope | {"headers": [(b"ce-id", b"\xe9")]}, b"")


@pytest.mark.parametrize(
    "url",
    [
        "x",
        "https://a",
        "http://",
        "http://a/b",
        "http://a?b",
        "http://u@a",
        "http://a:65536",
        "http://[::",
        "http://a b",
    ],
)
def test_a_server_that_cannot_be_one_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="must be like http://127"):
        Traffic(stable=url)


@pytest.mark.parametrize("url", ["http://a", "http://a:65535", "http://[::1]:8080", "http://a.b-c:1/"])
def test_a_server_is_taken_without_a_path(url: str) -> None:
    assert Traffic(stable=url).stable == url.rstrip("/")


@given(st.integers(0, 2**32), st.floats(0, 100))
def test_the_same_seed_makes_the_same_choices(seed: int, percent: float) -> None:
    traffic = Traffic(stable=STABLE, canary=CANARY, percent=percent)
    first, second = Split(traffic, seed), Split(traffic, seed)
    chosen = [first.choose() for _ in range(20)]
    assert chosen == [second.choose() for _ in range(20)]
    if percent in (0, 100):
        assert {target for target, _ in chosen} == {Target.CANARY if percent else Target.STABLE}
    assert set(chosen) <= {(Target.STABLE, STABLE), (Target.CANARY, CANARY)}
