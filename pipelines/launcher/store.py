"""The records of runs: a key has one record, and one run goes on at a time, because the table admits no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import delete, func, select, update
from sqlalchemy.engine import RowMapping

from fraudkit.database import Database
from pipelines.launcher.backends import Result
from pipelines.launcher.moves import Move
from pipelines.launcher.tables import MOVES, RUNS, SCHEDULE
from pipelines.launcher.triggers import Trigger

MIGRATIONS: Final = Path(__file__).parent / "migrations"
ACTIVE: Final = 1
Told = Literal["run", "coalesced", "duplicate"]


class RunRecord(BaseModel):
    """What is known of a key. Times are seconds UTC.

    Attributes:
        key: The key.
        trigger: `drift`, `schedule`, `manual` or `bootstrap`.
        state: `run`, or `coalesced`: another one went on when it was asked for.
        into: Key of that other one.
        status: `waiting`, `running` or `ended`.
        asked: When it was asked for first.
        by: Who asked.
        reason: Why.
        evidence: What led to it, by name.
        data_uri: The base data.
        since: From when on logged transactions are learned from.
        as_of: What matured later is not known to it.
        attempt: How often it was started.
        not_before: When it may be started next.
        handle: What the backend finds it by.
        started: When it was started first.
        ended: When it ended.
        outcome: `promoted`, `challenger`, `no_gain`, `rejected`, `rolled_back` or `failed`.
        outcome_reason: Name of the check that decided.
        message: One sentence on how it ended, or on what holds it up.
        version: The model that it trained.
        reported: How the attempt ended, as its last task told.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    trigger: str
    state: Literal["run", "coalesced"]
    into: str | None
    status: Literal["waiting", "running", "ended"]
    asked: float
    by: str
    reason: str
    evidence: dict[str, str]
    data_uri: str
    since: float | None
    as_of: float
    attempt: int
    not_before: float
    handle: str | None
    started: float | None
    ended: float | None
    outcome: str | None
    outcome_reason: str | None
    message: str | None
    version: str | None
    reported: Result | None


class RunStore:
    """The records.

    Args:
        database: Where they are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(self, trigger: Trigger, data_uri: str, since: float | None, as_of: float, now: float) -> Told:
        """Record that a run is asked for; what became of that.

        Args:
            trigger: Who asks, and why.
            data_uri: The base data.
            since: From when on logged transactions are learned from [s, UTC].
            as_of: What matured later is not known to the run [s, UTC].
            now: The time [s, UTC].
        """
        row = {
            "key": trigger.key,
            "trigger": str(trigger.kind),
            "asked": now,
            "by": trigger.by,
            "reason": trigger.reason,
            "evidence": json.dumps(dict(trigger.evidence)),
            "data_uri": data_uri,
            "since": since,
            "as_of": as_of,
            "attempt": 0,
            "not_before": now,
        }
        run = row | {"slot": ACTIVE, "state": "run", "status": "waiting"}
        other = row | {"state": "coalesced", "status": "ended", "ended": now, "outcome": "coalesced"}
        insert = self._database.insert(RUNS).on_conflict_do_nothing().returning(RUNS.c.key)
        with self._database.write() as connection:
            if connection.execute(insert.values(run)).first():
                return "run"
            going_on = select(RUNS.c.key).where(RUNS.c.slot == ACTIVE)
            into = connection.execute(going_on).scalar()
            if connection.execute(insert.values(other | {"into": into})).first():
                return "coalesced"
            return "duplicate"

    def active(self) -> RunRecord | None:
        """The run that goes on, or waits to be started."""
        found = self._select(RUNS.c.slot == ACTIVE, limit=1)
        return found[0] if found else None

    def get(self, key: str) -> RunRecord | None:
        """The record of a key."""
        found = self._select(RUNS.c.key == key, limit=1)
        return found[0] if found else None

    def last(self, limit: int, trigger: str | None = None, *, ended: bool = False) -> tuple[RunRecord, ...]:
        """The last that were asked for, newest first.

        Args:
            limit: How many at most.
            trigger: Only those of one kind.
            ended: Only runs that came to an end, by when they did; what was coalesced was none.
        """
        conditions = [RUNS.c.trigger == trigger] if trigger else []
        if ended:
            conditions += [RUNS.c.state == "run", RUNS.c.status == "ended"]
        return self._select(*conditions, limit=limit, order=RUNS.c.ended if ended else RUNS.c.asked)

    def answered(self) -> float | None:
        """When the drift began whose run's model was promoted last [s, UTC]: the world is as it is since then."""
        conditions = RUNS.c.trigger == "drift", RUNS.c.outcome == "promoted"
        found = self._select(*conditions, limit=1, order=RUNS.c.ended)
        return found[0].since if found else None

    def begin(self, key: str, attempt: int, now: float) -> bool:
        """Note an attempt before it is made; False when somebody else did."""
        values = {"attempt": attempt, "status": "running", "handle": None, "reported": None}
        with self._database.write() as connection:
            statement = (
                update(RUNS)
                .where(RUNS.c.key == key, RUNS.c.status == "waiting", RUNS.c.attempt == attempt - 1)
                .values(values | {"started": func.coalesce(RUNS.c.started, now)})
            )
            return connection.execute(statement).rowcount == 1

    def found(self, key: str, handle: str) -> None:
        """Note what the backend finds the run by."""
        self._change(key, {"handle": handle})

    def wait(self, key: str, message: str, not_before: float) -> None:
        """The attempt failed, and there is to be another one."""
        self._change(key, {"status": "waiting", "message": message, "not_before": not_before})

    def interrupted(self, key: str, attempt: int) -> None:
        """The attempt was stopped with the launcher, and does not count."""
        self._change(key, {"status": "waiting", "attempt": attempt - 1, "handle": None, "reported": None})

    def report(self, key: str, attempt: int, result: Result) -> bool:
        """Keep what an attempt that goes on tells of its end; False when there is no such attempt."""
        with self._database.write() as connection:
            statement = (
                update(RUNS)
                .where(RUNS.c.key == key, RUNS.c.status == "running", RUNS.c.attempt == attempt)
                .values(reported=result.model_dump_json())
            )
            return connection.execute(statement).rowcount == 1

    def end(self, key: str, result: Result, now: float) -> None:
        """The run has ended; the next one may begin."""
        self._change(
            key,
            {
                "status": "ended",
                "slot": None,
                "ended": now,
                "outcome": result.outcome,
                "outcome_reason": result.reason,
                "message": result.message,
                "version": result.version,
            },
        )

    def month(self, month: str) -> str:
        """The last month whose run was asked for; at the first start that is `month`: none was missed."""
        with self._database.write() as connection:
            insert = self._database.insert(SCHEDULE).on_conflict_do_nothing()
            connection.execute(insert.values(id=1, month=month))
            return str(connection.execute(select(SCHEDULE.c.month)).scalar_one())

    def asked_for_month(self, month: str) -> None:
        """Note that the run of a month was asked for."""
        with self._database.write() as connection:
            connection.execute(update(SCHEDULE).values(month=month))

    def moved(self, move: Move) -> None:
        """Keep a move of a model until MLflow shows it."""
        with self._database.write() as connection:
            insert = self._database.insert(MOVES).on_conflict_do_nothing()
            connection.execute(insert.values(id=move.id, move=move.model_dump_json()))

    def moves(self, limit: int) -> tuple[Move, ...]:
        """Moves that MLflow does not show yet."""
        with self._database.read() as connection:
            found = connection.execute(select(MOVES.c.move).order_by(MOVES.c.id).limit(limit)).scalars()
            return tuple(Move.model_validate_json(one) for one in found)

    def shown(self, moves: tuple[Move, ...]) -> None:
        """Forget moves that MLflow shows."""
        with self._database.write() as connection:
            connection.execute(delete(MOVES).where(MOVES.c.id.in_([move.id for move in moves])))

    def _change(self, key: str, values: dict[str, Any]) -> None:
        going_on = (RUNS.c.key == key) & (RUNS.c.slot == ACTIVE)
        with self._database.write() as connection:
            connection.execute(update(RUNS).where(going_on).values(values))

    def _select(self, *conditions: Any, limit: int, order: Any = RUNS.c.asked) -> tuple[RunRecord, ...]:
        statement = select(RUNS).where(*conditions).order_by(order.desc(), RUNS.c.key.desc()).limit(limit)
        with self._database.read() as connection:
            return tuple(_record(row) for row in connection.execute(statement).mappings())


def _record(row: RowMapping) -> RunRecord:
    known = {name: value for name, value in row.items() if name != "slot"}
    reported = None if row["reported"] is None else Result.model_validate_json(row["reported"])
    return RunRecord(**known | {"evidence": json.loads(row["evidence"]), "reported": reported})
