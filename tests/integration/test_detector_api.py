"""The detector's API on both databases: labels, transactions, labelled rows, evidence, drift."""

from __future__ import annotations

import io
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from asgi import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_events import HOUR, answer, request, rows_of
from watched import START, Detector, bind, events_of, settings_of, traffic, watched_bundle

from detectors.api.drift import DriftApi
from detectors.api.transactions import TransactionsApi
from detectors.app import Detector as App
from detectors.intake import Intake
from detectors.store.database import Database
from detectors.store.labels import LabelStore
from detectors.store.log import Entry, RequestLog
from detectors.store.retention import expire
from detectors.store.transactions import TransactionStore
from detectors.store.verdicts import VerdictStore
from fraudkit.bundle import Bundle
from fraudkit.bundle_store import BundleStore
from fraudkit.schema import INPUTS
from fraudkit.settings import LabelSettings, Settings

DAY = 86_400.0
NOW = HOUR + 100 * DAY


@pytest.fixture(scope="module")
def watched(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return watched_bundle(bundle.scorer, tmp_path_factory.mktemp("watched"))


def client_of(database: Database, configured: Settings, now: float = NOW) -> Client:
    log = RequestLog(database, configured.detector.bucket_seconds, "replica")
    bundles = BundleStore.of(configured)
    drift = DriftApi(VerdictStore(database), configured.detector, configured.drift, bundles, lambda: now)
    store = TransactionStore(database, configured.labels)
    transactions = TransactionsApi(store, LabelStore(database), bundles, lambda: now)
    intake = Intake("replica", log, "fraud", configured.detector)
    return Client(App(intake, configured.detector, [*drift.routes(), *transactions.routes()]))


@pytest.fixture
def configured(watched: Bundle) -> Settings:
    return settings_of(watched, labels={"silence_days": 30, "review_share": 0.2})


@pytest.fixture
def client(database: Database, configured: Settings) -> Client:
    return client_of(database, configured)


def fill(
    database: Database, version: str, count: int = 40, alerts: tuple[int, ...] = (0, 0, 0, 1, 2)
) -> list[str]:
    """Requests of one to three rows, a minute apart; returns the ids of their rows."""
    log, names, events = RequestLog(database, 60.0, "replica"), [], []
    for number in range(count):
        rows = rows_of(1 + number % 3, number)
        levels = [alerts[(number + n) % len(alerts)] for n in range(len(rows))]
        events += [
            request(f"q{number}", HOUR + 60 * number, rows),
            answer(f"q{number}", HOUR + 60 * number + 0.1, [0.1 * level for level in levels], levels, version),
        ]
        names += [f"q{number}-{n}" for n in range(len(rows))]
    log.store(events, NOW)
    return names


def labelled(client: Client, **parameters: Any) -> dict[str, list[Any]]:
    content = client.get("/v1/labelled", params=parameters)
    assert content.status_code == 200, content.text
    return pq.read_table(io.BytesIO(content.content)).to_pydict()


def test_labels_come_as_json_or_csv_and_what_is_wrong_is_named(
    client: Client, database: Database, watched: Bundle
) -> None:
    fill(database, watched.version)
    one = client.post("/v1/labels", json={"id": "q0-0", "label": 1, "source": "chargeback", "by": "bank"})
    assert one.json() == {"accepted": 1, "repeated": 0, "unknown": 0, "rejected": 0, "mistakes": []}
    several = client.post(
        "/v1/labels", json=[{"id": "q1-0", "label": 0}, {"id": "q1-9", "label": 1}, {"id": 3, "label": 1}]
    )
    assert several.json()["mistakes"] == [
        {"row": 2, "field": "id", "problem": "must be a text of 1 to 300 printable characters"}
    ]
    assert (several.json()["accepted"], several.json()["unknown"]) == (2, 1)
    csv = "id,label,source,by,at\n" + 2 * "q2-0,fraud,review,ana,2025-12-01T00:00:00Z\n"
    table = client.post("/v1/labels", content=csv, headers={"content-type": "text/csv"})
    assert (table.json()["accepted"], table.json()["repeated"]) == (1, 1)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "not JSON"),
        ("3", "must be an object"),
        ('{"id": "a", "label": 2}', "label: must be 0 or 1"),
        ('{"id": "a", "label": 1, "when": 3}', "when: is not one of"),
        ('{"id": "a", "label": 1, "at": "soon"}', "at: must be a time"),
        ('{"id": "", "label": 1}', "id: must be a text"),
    ],
)
def test_labels_that_cannot_be_read_are_refused(client: Client, body: str, said: str) -> None:
    answered = client.post("/v1/labels", content=body)
    assert answered.status_code == 400
    assert said in answered.json()["error"]


def test_the_last_found_label_counts_however_late_it_comes(
    client: Client, database: Database, watched: Bundle
) -> None:
    for at, label in ((300.0, 1), (100.0, 0), (200.0, 0)):
        client.post("/v1/labels", json={"id": "q0-0", "label": label, "at": HOUR + at, "source": f"at {at:g}"})
    fill(database, watched.version)  # the transaction comes after its labels
    young = labelled(client, as_of=HOUR + 10_000)
    assert (young["id"], young["label"], young["source"]) == (["q0-0"], [1], ["at 300"])
    assert labelled(client, as_of=HOUR + 250)["source"] == ["at 200"]


def test_silence_matures_and_comes_after_its_days(client: Client, database: Database, watched: Bundle) -> None:
    names = fill(database, watched.version)
    client.post("/v1/labels", json={"id": names[3], "label": 1, "at": HOUR + 1_000})
    assert len(labelled(client, as_of=HOUR + 29 * DAY)["id"]) == 1
    table = labelled(client, as_of=HOUR + 31 * DAY)
    assert table["id"] == names
    assert sum(table["label"]) == 1
    assert table["source"].count("silence") == len(names) - 1
    assert set(table["inclusion_weight"]) == {1.0}
    assert list(table)[:4] == ["id", "ce_time", "Time", "V1"]
    stored = np.column_stack([table[name] for name in INPUTS])
    np.testing.assert_array_equal(stored[0], rows_of(1, 0)[0])


def test_ids_that_came_with_other_rows_are_never_labelled(
    client: Client, database: Database, watched: Bundle
) -> None:
    fill(database, watched.version, 3)
    RequestLog(database, 60.0, "other").store([request("q0", HOUR + 1, rows_of(1, 99))], NOW)
    own: list[Entry] = [
        request("w1", HOUR, rows_of(1, 1), ("mine",)),
        answer("w1", HOUR, version=watched.version, row_ids=("mine",)),
        request("w2", HOUR, rows_of(1, 2), ("mine",)),
        answer("w2", HOUR, version=watched.version, row_ids=("mine",)),
        request("w3", HOUR, rows_of(1, 3), ("yours-7",)),
        answer("w3", HOUR, version=watched.version, row_ids=("yours-7",)),
    ]
    RequestLog(database, 60.0, "other").store(own, NOW)
    for name, ids in (("u1", ("twice-0",)), ("u2", ("twice-0",)), ("u3", ("made-0", "made-1"))):
        rows = rows_of(len(ids), len(name))
        levels = (0.1,) * len(ids), (0,) * len(ids)
        entries: list[Entry] = [request(name, HOUR, rows), answer(name, HOUR, *levels, watched.version, ids)]
        RequestLog(database, 60.0, "other").store(entries, NOW)
    known = ("q1-1", "yours-7", "made-1")
    reported = ("q0-0", "mine", "twice-0", "made-2", *known)
    answered = client.post("/v1/labels", json=[{"id": name, "label": 1, "at": HOUR + 9} for name in reported])
    assert answered.json()["accepted"] == len(reported)
    assert sorted(labelled(client, as_of=HOUR + 1_000)["id"]) == sorted(known)
    assert LabelStore(database).matured_frauds(HOUR, HOUR + 1_000) == 3
    assert LabelStore(database).facts(watched.version, HOUR, HOUR + 1_000).frauds == 3


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_weighted_totals_are_those_of_the_traffic(
    data: st.DataObject, watched: Bundle, tmp_path_factory: Any
) -> None:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('weights') / 'detector.db'}")
    database.migrate()
    names = fill(database, watched.version)
    store = TransactionStore(database, LabelSettings(review_share=0.3))
    reported = [name for name in names if data.draw(st.booleans())]
    # At least one of each stratum, else its transactions stand for nothing.
    alerts = {one.id: one.alert for one in store.newest(_all(), None, 1_000)[0]}
    reported += [next(n for n in names if alerts[n]), next(n for n in names if not alerts[n] and store.sampled(n))]
    from detectors.labels import Label

    LabelStore(database).add([Label(name, 0, "api", "api", HOUR + 5_000) for name in reported], NOW)
    blocks = list(store.matured(HOUR, HOUR + 6_000))
    assert sum(block.weights.sum() for block in blocks) == pytest.approx(len(names))
    assert {name for block in blocks for name in block.ids} == set(reported)
    database.close()


def _all() -> Any:
    from detectors.store.transactions import Wanted

    return Wanted()


def test_with_everything_labelled_every_weight_is_one(client: Client, database: Database, watched: Bundle) -> None:
    names = fill(database, watched.version)
    client.post("/v1/labels", json=[{"id": name, "label": 0, "at": HOUR + 9_000} for name in names])
    assert set(labelled(client, as_of=HOUR + 10_000)["inclusion_weight"]) == {1.0}


@pytest.mark.parametrize("limit", [1, 7, 1_000])
def test_a_list_goes_on_where_it_ended_whatever_comes_in_between(
    client: Client, database: Database, watched: Bundle, limit: int
) -> None:
    names = fill(database, watched.version)
    seen: list[dict[str, Any]] = []
    cursor: str | None = None
    late = 0
    while True:
        parameters = {"limit": limit} | ({"cursor": cursor} if cursor else {})
        page = client.get("/v1/transactions", params=parameters).json()
        seen += page["transactions"]
        cursor = page["cursor"]
        if cursor is None:
            break
        late += 1
        newer: list[Entry] = [request(f"n{late}", HOUR + 9_000 + late), answer(f"n{late}", HOUR + 9_000 + late)]
        RequestLog(database, 60.0, "replica").store(newer, NOW)
    ids = [one["id"] for one in seen]
    assert sorted(ids) == sorted(names)
    times = [one["ce_time"] for one in seen]
    assert times == sorted(times, reverse=True)


def test_a_transaction_is_told_with_its_reasons(client: Client, database: Database, watched: Bundle) -> None:
    fill(database, watched.version)
    fill_other: list[Entry] = [request("z", HOUR + 9_999), answer("z", HOUR + 9_999, version="../../../etc")]
    RequestLog(database, 60.0, "replica").store(fill_other, NOW)
    newest, *rest = client.get("/v1/transactions").json()["transactions"]
    assert (newest["id"], newest["reasons"]) == ("z-0", None)
    assert set(rest[0]["inputs"]) == set(INPUTS)
    assert len(rest[0]["reasons"]) == 30
    blocked = client.get("/v1/transactions", params={"alert": "block"}).json()["transactions"]
    assert {one["alert"] for one in blocked} == {"block"}


def test_a_transaction_is_found_by_its_id_and_told_with_who_labelled_it_and_when(
    client: Client, database: Database, watched: Bundle
) -> None:
    name = fill(database, watched.version)[3]
    client.post("/v1/labels", json={"id": name, "label": 1, "source": "analyst", "by": "ada", "at": HOUR + 9_000})
    (found,) = client.get("/v1/transactions", params={"id": name}).json()["transactions"]
    told = ("id", "label", "label_source", "label_by")
    assert [found[key] for key in told] == [name, 1, "analyst", "ada"]
    assert datetime.fromisoformat(found["label_at"]).timestamp() == HOUR + 9_000
    own: list[Entry] = [
        request("o", HOUR, rows_of(2, 1), ("card-7", "card-8")),
        answer(
            "o",
            HOUR,
            version=watched.version,
            probabilities=[0.1, 0.2],
            alerts=[0, 1],
            row_ids=("card-7", "card-8"),
        ),
    ]
    RequestLog(database, 60.0, "replica").store(own, NOW)
    (found,) = client.get("/v1/transactions", params={"id": "card-8"}).json()["transactions"]
    assert (found["id"], found["probability"]) == ("card-8", 0.2)
    for other in ("nobody-0", "nobody", name.rpartition("-")[0]):
        assert client.get("/v1/transactions", params={"id": other}).json() == {"transactions": [], "cursor": None}


def test_the_review_sample_has_no_alert_and_no_label(client: Client, database: Database, watched: Bundle) -> None:
    names = fill(database, watched.version)
    sample = client.get("/v1/review", params={"limit": 1_000}).json()["transactions"]
    assert 0 < len(sample) < len(names) / 2
    assert {one["alert"] for one in sample} == {"normal"}
    client.post("/v1/labels", json=[{"id": one["id"], "label": 0, "source": "review"} for one in sample])
    assert client.get("/v1/review").json() == {"transactions": [], "cursor": None}


def test_evidence_of_a_version(client: Client, database: Database, watched: Bundle) -> None:
    names = fill(database, watched.version)
    client.post("/v1/labels", json=[{"id": name, "label": int(n % 5 == 3)} for n, name in enumerate(names)])
    evidence = client.get(f"/v1/models/fraud/versions/{watched.version}/evidence").json()
    assert (evidence["requests"], evidence["rows"]) == (40, len(names))
    assert sum(evidence["score_histogram"]["counts"]) == len(names)
    assert evidence["alert_rate"]["low"] < evidence["alert_rate"]["value"] < evidence["alert_rate"]["high"]
    assert evidence["labelled"]["frauds"] == sum(n % 5 == 3 for n in range(len(names)))
    quick = client.get(f"/v1/models/fraud/versions/{watched.version}/evidence", params={"labelled": "no"}).json()
    assert quick == evidence | {"labelled": None}
    nothing = client.get("/v1/models/fraud/versions/none/evidence").json()
    assert (nothing["rows"], nothing["alert_rate"]) == (0, None)


def test_drift_now_its_history_and_a_window(database: Database, configured: Settings, watched: Bundle) -> None:
    detector = Detector(database, configured)
    client = client_of(database, configured, START)
    assert client.get("/v1/models/fraud/drift").json()["status"] == "stale"
    detector.store([bind(watched.version), *events_of(traffic(8_000, 31, 0.0, 10_000.0))])
    detector.run()
    now = client.get("/v1/models/fraud/drift").json()
    assert (now["status"], now["version"]) == ("stable", watched.version)
    assert [one["channel"] for one in now["window"]["verdict"]["channels"]] == [
        "data_quality",
        "inputs",
        "alert_rate",
        "distance",
    ]
    history = client.get("/v1/models/fraud/drift/history", params={"limit": 3}).json()
    assert len(history["windows"]) == 3
    evidence = client.get(f"/v1/windows/{history['windows'][0]['id']}").json()
    assert len(evidence["histograms"]) == 30
    for histogram in evidence["histograms"]:
        assert sum(histogram["observed"]) == pytest.approx(1)
        assert sum(histogram["expected"]) == pytest.approx(1)
        assert len(histogram["edges"]) == 51
    assert 0 < len(evidence["traces"][0]["values"]) <= 200
    assert client.get("/v1/windows/none").status_code == 404
    client = client_of(database, configured, START + 1e6)
    assert client.get("/v1/models/fraud/drift").json()["status"] == "stale"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/transactions?limit=0", "limit"),
        ("/v1/transactions?limit=many", "limit"),
        ("/v1/transactions?since=yesterday", "since"),
        ("/v1/transactions?alert=red", "alert"),
        ("/v1/transactions?cursor=x", "cursor"),
        ("/v1/labelled?as_off=3", "as_off is not a parameter"),
        ("/v1/models/fraud/drift?x=1", "x is not a parameter; there are none"),
        ("/v1/models/fraud/drift/history?until=inf", "until"),
    ],
)
def test_a_parameter_that_is_wrong_is_named(client: Client, path: str, said: str) -> None:
    answered = client.get(path)
    assert answered.status_code == 400
    assert said in answered.json()["error"]


def test_a_database_that_is_away_is_a_503(configured: Settings) -> None:
    client = client_of(Database("postgresql://nobody@127.0.0.1:1/nothing"), configured)
    for path in ("/v1/transactions", "/v1/models/fraud/drift"):
        answered = client.get(path)
        assert answered.status_code == 503
        assert answered.headers["retry-after"] == "5"
    assert client.post("/v1/labels", json={"id": "a-0", "label": 1}).status_code == 503


def test_what_is_older_than_the_retention_goes(database: Database, client: Client, watched: Bundle) -> None:
    names = fill(database, watched.version)
    client.post("/v1/labels", json=[{"id": name, "label": 0, "at": HOUR} for name in names])
    assert expire(database, HOUR - 1) == 0
    assert expire(database, HOUR + 60 * 20) > 60
    left = client.get("/v1/transactions", params={"limit": 1_000}).json()["transactions"]
    assert {one["id"].split("-")[0] for one in left} == {f"q{number}" for number in range(20, 40)}


def test_large_requests_are_read_a_few_at_a_time(database: Database, watched: Bundle) -> None:
    log, total = RequestLog(database, 60.0, "replica"), 0
    for number, count in enumerate((9_000, 9_000, 9_000, 1, 9_000, 25_000, 2)):
        rows, total = rows_of(count, number), total + count
        levels = (0.01,) * count, (0,) * count
        entries: list[Entry] = [
            request(f"large{number}", HOUR + number, rows),
            answer(f"large{number}", HOUR + number, *levels, watched.version),
        ]
        log.store(entries, NOW)
    store = TransactionStore(database, LabelSettings())
    sizes = [len(block.ids) for block in store.matured(HOUR, NOW)]
    assert sum(sizes) == total
    assert sizes == [18_000, 18_001, 25_000, 2]
    assert LabelStore(database).facts(watched.version, HOUR, NOW).alerts == 0
