"""The demo's callers: worlds as they were and as they are anew, and whose outcome is reported under which id."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import numpy as np
import pytest

from fraudctl.traffic import DAY_ROWS, MOVED, NEW_SHARE, ROWS, Callers, Resampled, Synthesized, World
from fraudkit.schema import INPUTS, hour_of_day

V4 = INPUTS.index("V4")


@pytest.fixture(scope="module", params=["synthesized", "resampled"])
def world(request: pytest.FixtureRequest, real_sample: Path) -> World:
    return Synthesized(3) if request.param == "synthesized" else Resampled(str(real_sample), 3)


def test_a_day_goes_through_its_hours_no_transaction_comes_twice_and_the_seed_decides(world: World) -> None:
    day = world.day(1, new=False)
    hours = hour_of_day(day.rows[:, 0])
    assert len(day.labels) == len(day.rows) == DAY_ROWS
    assert (np.diff(hours) >= 0).all()
    assert len(np.unique(hours)) == 24
    assert len(np.unique(day.rows, axis=0)) == DAY_ROWS
    assert (day.rows[:, [0, -1]] >= 0).all()
    assert (world.day(1, new=False).rows == day.rows).all()
    assert not (world.day(2, new=False).rows == day.rows).all()


def test_the_new_world_has_its_inputs_moved_and_one_fraud_more_in_a_hundred(world: World) -> None:
    was, now = world.day(1, new=False), world.day(1, new=True)
    sigma = was.rows[was.labels == 0, V4].std()
    moved = np.median(now.rows[:, V4]) - np.median(was.rows[:, V4])
    assert moved == pytest.approx(MOVED * sigma, rel=0.1)
    assert now.labels.sum() - was.labels.sum() == pytest.approx(NEW_SHARE * DAY_ROWS, abs=5)


def test_a_file_keeps_its_own_fraud_rate(real_sample: Path) -> None:
    day = Resampled(str(real_sample), 0).day(0, new=False)
    assert day.labels.mean() == pytest.approx(492 / 10_118, abs=0.005)


class Recorder(BaseHTTPRequestHandler):
    """A predictor and a detector that remember what they were sent; every third request fails."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[dict[str, list[list[float]]]] = {}
    labels: ClassVar[list[dict[str, object]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path.endswith("labels"):
            self.labels.extend(body)
            self.send_response(200)
        else:
            name = self.headers["ce-id"]
            self.asked[name] = body["instances"]
            self.send_response(500 if int(name[1:]) % 3 == 0 else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def recorder() -> Iterator[str]:
    Recorder.asked.clear()
    Recorder.labels.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_outcomes_are_reported_under_the_ids_of_the_transactions_they_are_of(
    recorder: str,
) -> None:
    world = Synthesized(5)
    with Callers(recorder, recorder, world) as callers:
        first = callers.flow(new=False, over=lambda sent: sent.rows >= 1_000)
        assert Recorder.labels == []
        assert callers.report(first) == 1_000
        second = callers.flow(new=True, over=lambda sent: sent.rows >= 1_000, labels=400)
        assert len(callers.failed) == sum(i % 3 == 0 for i in range(400))
    assert callers.sent == len(Recorder.asked) == 400
    assert len(first.times) == len(second.times) == 200
    told = {label["id"]: label["label"] for label in Recorder.labels}
    assert len(told) == 1_400
    of = {
        tuple(row): int(label)
        for day in (world.day(0, new=False), world.day(1, new=True))
        for row, label in zip(day.rows.tolist(), day.labels, strict=True)
    }
    for name, instances in Recorder.asked.items():
        for i, row in enumerate(instances):
            assert told.get(f"{name}-{i}", of[tuple(row)]) == of[tuple(row)]
    assert sum(len(rows) for rows in Recorder.asked.values()) == 400 * ROWS
    assert first.transactions().rows.tolist() == world.day(0, new=False).rows[:1_000].tolist()


def test_nobody_who_answers_is_a_failed_request_each(tmp_path: Path) -> None:
    with Callers("http://127.0.0.1:9", "http://127.0.0.1:9", Synthesized(1)) as callers:
        callers.flow(new=False, over=lambda _: True)
    assert len(callers.failed) == callers.sent == 100
