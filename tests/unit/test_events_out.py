"""Events that leave: one id for one thing, and what comes is checked by name."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from fraudkit.errors import InvalidInput
from fraudkit.events import (
    KINDS,
    DriftDetected,
    ModelPromoted,
    RetrainRequested,
    decode,
    drift_key,
    encode,
    event_type,
    schemas,
)

NOW = datetime(2026, 11, 24, 14, 45, tzinfo=UTC)
PROMOTED = ModelPromoted(model="fraud", version="0123456789ab", key="bootstrap", by="fraudctl up")
STRUCTURED = {"content-type": "application/cloudevents+json"}
PUBLISHED = Path(__file__).parents[2] / "docs" / "events"


def test_an_event_is_read_as_it_was_written_in_either_mode() -> None:
    body = encode(PROMOTED, "/here", NOW).encode()
    received, data = decode(ModelPromoted, STRUCTURED, body)
    assert data == PROMOTED
    assert (received.id, received.source, received.time) == ("promoted-0123456789ab-bootstrap", "/here", NOW)
    headers = {
        "ce-specversion": "1.0",
        "ce-id": received.id,
        "ce-source": "/here",
        "ce-type": PROMOTED.type,
        "ce-time": "2026-11-24T14:45:00Z",
    }
    assert decode(ModelPromoted, headers, PROMOTED.model_dump_json().encode()) == (received, data)
    assert event_type(STRUCTURED, body) == event_type(headers, b"") == "io.fraudplatform.model.promoted.v1"


def test_one_thing_has_one_id_whatever_the_zone_and_the_words() -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5)))
    ids = {
        DriftDetected(
            model="fraud", version="0123456789ab", episode_start=at, verdict_id="v", channel="inputs", message=text
        ).id
        for at, text in ((NOW, "one"), (elsewhere, "other"))
    }
    assert ids == {"drift-detected-0123456789ab-20261124T1445Z"}
    assert drift_key("0123456789ab", NOW, 1) == "drift-0123456789ab-20261124T1445Z-1"
    assert drift_key("0123456789ab", NOW + timedelta(seconds=7), 2) == "drift-0123456789ab-20261124T144507Z-2"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"id": ""}, "id"),
        ({"time": "2026-11-24T14:45:00"}, "time"),
        ({"type": "io.fraudplatform.model.rolledback.v1"}, "type is io.fraudplatform.model.rolledback.v1"),
        ({"data": None}, "the event"),
        ({"data": {"model": "fraud", "version": "../../etc", "key": "k", "by": "b"}}, "version"),
        ({"data": {"model": "fraud", "version": "0123456789ab", "key": "k", "by": "b", "more": 1}}, "more"),
    ],
)
def test_what_is_wrong_with_an_event_is_named(change: dict[str, object], said: str) -> None:
    document = json.loads(encode(PROMOTED, "/here", NOW)) | change
    with pytest.raises(InvalidInput, match=said):
        decode(ModelPromoted, STRUCTURED, json.dumps(document).encode())


@pytest.mark.parametrize("body", [b"", b"[", b"[1]", b"\xff", b"[" * 100_000])
def test_what_is_no_event_at_all_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="the event"):
        decode(RetrainRequested, STRUCTURED, body)


def test_the_published_schemas_are_those_of_the_code() -> None:
    assert {path.name: path.read_text() for path in PUBLISHED.glob("*.json")} == schemas()
    assert len(schemas()) == len(KINDS)
