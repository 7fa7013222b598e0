"""What the detector knows of transactions and labels where ids clash, labels repeat, and lists grow."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from asgi import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from log_events import HOUR, answer, request, rows_of

from detectors.api.transactions import TransactionsApi
from detectors.app import Detector
from detectors.intake import Intake
from detectors.labels import Label
from detectors.store.database import Database
from detectors.store.labels import LabelStore
from detectors.store.log import Entry, RequestLog
from detectors.store.transactions import Place, TransactionStore, Wanted
from fraudkit.bundle_store import BundleStore
from fraudkit.settings import DetectorSettings, LabelSettings

DAY = 86_400.0
NOW = HOUR + 100 * DAY
VERSION = "0123456789ab"


def client_of(database: Database, now: float = NOW) -> Client:
    store = TransactionStore(database, LabelSettings(review_share=1.0))
    api = TransactionsApi(store, LabelStore(database), BundleStore(Path("no bundles")), lambda: now)
    intake = Intake("replica", RequestLog(database, 60.0, "replica"), "fraud", DetectorSettings())
    return Client(Detector(intake, DetectorSettings(), api.routes()))


@pytest.fixture
def client(database: Database) -> Client:
    return client_of(database)


def answered(name: str, time: float, row_ids: tuple[str, ...] | None = None, alert: int = 0) -> list[Entry]:
    """A request of one row or of as many as have ids, with its answer."""
    count = len(row_ids or "-")
    rows = rows_of(count, int.from_bytes(name.encode(), "little") % 1_000_003)
    levels = (0.1,) * count, (alert,) * count
    return [request(name, time, rows), answer(name, time, *levels, VERSION, row_ids)]


def store(database: Database, *several: list[Entry]) -> None:
    RequestLog(database, 60.0, "replica").store([entry for entries in several for entry in entries], NOW)


def labelled(client: Client, as_of: float) -> dict[str, tuple[int, str]]:
    content = client.get("/v1/labelled", params={"as_of": as_of})
    assert content.status_code == 200
    table = pq.read_table(io.BytesIO(content.content)).to_pydict()
    assert len(set(table["id"])) == len(table["id"])
    return dict(zip(table["id"], zip(table["label"], table["source"], strict=True), strict=True))


def ids_that_clash(database: Database) -> None:
    store(
        database,
        answered("w1", HOUR, ("mine",)),  # an own id in two places
        answered("w2", HOUR, ("mine",)),
        answered("q5", HOUR),  # an own id that is the plain one of another request
        answered("w3", HOUR, ("q5-0",)),
        answered("made", HOUR),  # what the predictor made is the id of another request
        answered("w4", HOUR, ("made-0",)),
        answered("w5", HOUR, ("own",)),
        answered("w6", HOUR, ("w6-0", "named")),  # one of its rows has an id of its own
        [request("unanswered", HOUR)],
    )


@pytest.mark.parametrize("days", [1, 40])
def test_an_id_that_stands_in_several_places_has_no_outcome_not_even_by_silence(
    client: Client, database: Database, days: int
) -> None:
    ids_that_clash(database)
    for name in ("mine", "q5-0", "made-0", "own", "w6-0", "named"):
        client.post("/v1/labels", json={"id": name, "label": 1, "at": HOUR + 9})
    known = dict.fromkeys(("own", "w6-0", "named"), (1, "api"))
    assert labelled(client, HOUR + days * DAY) == known


def test_facts_count_a_transaction_once_and_by_the_ids_that_were_answered(
    client: Client, database: Database
) -> None:
    ids_that_clash(database)
    names = ("mine", "q5-0", "made-0", "own", "w5-0", "w6-0", "w6-1", "named", "unanswered-0")
    client.post("/v1/labels", json=[{"id": name, "label": 1, "at": HOUR + 9} for name in names])
    labels = LabelStore(database)
    assert labels.matured_frauds(HOUR, HOUR + 10) == 4  # with the one whose answer was lost
    assert labels.facts(VERSION, HOUR, HOUR + 10).frauds == 3
    assert labels.facts(VERSION, HOUR, HOUR + 8).frauds == 0
    assert labels.facts(VERSION, HOUR - 9, HOUR + 10, HOUR).frauds == 0
    assert labels.facts("other", HOUR, HOUR + 10).frauds == 0
    assert labels.matured_frauds(HOUR + 1, HOUR + 10) == 0


def test_facts_go_by_the_label_that_counts(client: Client, database: Database) -> None:
    store(database, answered("a", HOUR, alert=1), answered("b", HOUR))
    for at, label in ((30, 0), (10, 1), (20, 1)):
        client.post("/v1/labels", json=[{"id": name, "label": label, "at": HOUR + at} for name in ("a-0", "b-0")])
    labels = LabelStore(database)
    before, after = labels.facts(VERSION, HOUR, HOUR + 25), labels.facts(VERSION, HOUR, HOUR + 35)
    assert (before.frauds, before.caught, before.alerts, before.true_alerts) == (2, 1, 1, 1)
    assert (after.frauds, after.caught, after.alerts, after.true_alerts) == (0, 0, 1, 0)
    assert (labels.matured_frauds(HOUR, HOUR + 25), labels.matured_frauds(HOUR, HOUR + 35)) == (2, 0)


def test_a_label_without_a_time_that_says_nothing_new_is_repeated(database: Database) -> None:
    def told(label: int, seconds: float) -> tuple[int, int]:
        kept = client_of(database, NOW + seconds).post("/v1/labels", json={"id": "a-0", "label": label}).json()
        return kept["accepted"], kept["repeated"]

    assert [told(1, 0), told(1, 1), told(0, 2), told(1, 3), told(1, 4)] == [(1, 0), (0, 1), (1, 0), (1, 0), (0, 1)]


def test_labels_of_which_one_cannot_be_stored_are_none_of_them_stored(database: Database) -> None:
    labels = [Label("a-0", 1, "api", "api", None), Label("b-0", None, "api", "api", None)]  # type: ignore[arg-type]
    adding = LabelStore(database)
    with pytest.raises(Exception, match=r"NOT NULL|not-null"):
        adding.add(labels, NOW)
    assert adding.add(labels[:1], NOW).accepted == 1


def test_too_many_labels_and_a_database_that_is_away_are_said_before_an_answer_begins() -> None:
    client = client_of(Database("postgresql://nobody@127.0.0.1:1/nothing"))
    assert client.post("/v1/labels", json=[{"id": "a-0", "label": 1}] * 100_001).status_code == 413
    away = client.get("/v1/labelled")
    assert (away.status_code, away.headers["retry-after"]) == (503, "5")


def test_evidence_of_past_transactions_takes_labels_that_came_since(client: Client, database: Database) -> None:
    store(database, answered("a", HOUR, alert=1), answered("b", HOUR + 10))
    client.post("/v1/labels", json=[{"id": name, "label": 1, "at": HOUR + 99} for name in ("a-0", "b-0")])
    evidence = client.get(f"/v1/models/fraud/versions/{VERSION}/evidence", params={"until": HOUR + 5}).json()
    assert evidence["rows"] == evidence["labelled"]["frauds"] == 1
    assert evidence["labelled"]["recall"]["value"] == evidence["labelled"]["recall"]["high"] == 1.0


@pytest.mark.parametrize(
    ("alert", "found"), [("normal", "n"), ("review", "r"), ("block", "b"), ("any", "br"), (None, "nbr")]
)
def test_transactions_are_found_by_their_alert(
    client: Client, database: Database, alert: str | None, found: str
) -> None:
    store(database, *(answered(name, HOUR + place, alert=level) for place, (name, level) in enumerate(LEVELS)))
    page = client.get("/v1/transactions", params={"alert": alert} if alert else {}).json()
    assert "".join(one["id"][0] for one in page["transactions"]) == found


LEVELS = (("r", 1), ("b", 2), ("n", 0))


def test_text_that_no_database_takes_is_a_mistake(client: Client) -> None:
    cursor = base64.urlsafe_b64encode(orjson.dumps([HOUR, "a\0", 0])).decode()
    for path in (
        "transactions?version=%00",
        f"transactions?cursor={cursor}",
        "models/fraud/versions/%00/evidence",
    ):
        assert client.get(f"/v1/{path}").status_code == 400


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=12),
    moments=st.integers(1, 5),
    limit=st.integers(1, 9),
    newer=st.lists(st.booleans(), max_size=40),
)
def test_a_list_tells_each_row_once_whatever_the_limit_and_what_comes_meanwhile(
    sizes: list[int], moments: int, limit: int, newer: list[bool], tmp_path_factory: pytest.TempPathFactory
) -> None:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('list') / 'detector.db'}")
    database.migrate()
    names = [tuple(f"q{number}-{row}" for row in range(size)) for number, size in enumerate(sizes)]
    store(database, *(answered(f"q{n}", HOUR + n % moments, own) for n, own in enumerate(names)))
    reading, place, told = TransactionStore(database, LabelSettings()), None, list[Any]()
    while True:
        page, place = reading.newest(Wanted(), place, limit)
        assert len(page) <= limit
        told += page
        if place is None:
            break
        if newer and newer.pop():
            store(database, answered(f"n{len(newer)}", HOUR + 60 + len(newer)))
    database.close()
    assert sorted(one.id for one in told) == sorted(name for own in names for name in own)
    assert [one.time for one in told] == sorted((one.time for one in told), reverse=True)


@settings(max_examples=25)
@given(data=st.data())
def test_weighted_rows_stand_for_all_traffic_whose_ids_are_sure(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('weights') / 'detector.db'}")
    database.migrate()
    alerts = data.draw(st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=1, max_size=30))
    old = data.draw(st.integers(0, len(alerts)))
    clash = answered("x", HOUR + 41 * DAY, ("t0",))
    store(
        database,
        *(
            answered(f"q{n}", HOUR + (40 * DAY if n >= old else n), (f"t{n}",), level)
            for n, level in enumerate(alerts)
        ),
        clash,
    )
    reading = TransactionStore(database, LabelSettings(review_share=0.5))
    young = range(max(old, 1), len(alerts))
    strata = [[n for n in young if alerts[n]], [n for n in young if not alerts[n] and reading.sampled(f"t{n}")]]
    chosen = {n for n in range(len(alerts)) if data.draw(st.booleans())} | {one[0] for one in strata if one}
    labels = [Label(f"t{n}", 1, "bank", "test", HOUR + 42 * DAY) for n in chosen]
    LabelStore(database).add(labels, NOW)
    blocks = list(reading.matured(HOUR, HOUR + 50 * DAY))
    total = sum(block.weights.sum() for block in blocks)
    plain = [n for n in young if not alerts[n]]
    if strata[1] or not set(plain) - chosen:  # else nobody speaks for those without an alert
        assert total == pytest.approx(len(alerts) - 1)
    assert all(weight >= 1 for block in blocks for weight in block.weights)
    assert "t0" not in {name for block in blocks for name in block.ids}
    database.close()


def test_a_list_goes_on_after_a_request_that_is_larger_than_a_page(database: Database) -> None:
    names = tuple(f"large-{row}" for row in range(25_000))
    store(database, answered("before", HOUR), answered("large", HOUR + 1, names), answered("after", HOUR + 2))
    reading, place, told = TransactionStore(database, LabelSettings()), None, 0
    while True:
        page, place = reading.newest(Wanted(), place, 20_000)
        told += len(page)
        if place is None:
            break
    assert told == 25_002
    assert reading.newest(Wanted(), Place(HOUR, "before", 0), 5) == ([], None)
