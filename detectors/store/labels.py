"""Labels: outcomes of transactions, late, repeated and corrected, joined to what was asked and answered.

The label that was found out last counts; of two at the same time, the one that came last. A request whose id came
with other rows too, and an id of a transaction that stands in several places, are never labelled: which is meant
is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Integer, LargeBinary, Subquery, cast, exists, func, select
from sqlalchemy.sql.elements import ColumnElement

from detectors.channels.labels import LabelFacts
from detectors.labels import Label
from detectors.store.database import Database
from detectors.store.log import ALL_ROWS
from detectors.store.tables import ANSWERS, LABELS, REQUESTS, ROW_IDS

_LOOKED_UP: Final = 500


@dataclass(frozen=True, slots=True)
class Added:
    """What became of labels: new ones, such as were known, and such as name no transaction that is known yet."""

    accepted: int
    repeated: int
    unknown: int


class LabelStore:
    """Stores labels, and counts with them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, labels: Sequence[Label], now: float) -> Added:
        """Store labels in one transaction; an unknown one waits for its transaction."""
        if not labels:
            return Added(0, 0, 0)
        statement = self._database.insert(LABELS).on_conflict_do_nothing()
        rows = [_row(label, now) for label in labels]
        with self._database.write() as connection:
            options = {"preserve_rowcount": True}
            new = connection.execute(statement, rows, execution_options=options).rowcount
            known = self._known(connection, rows)
        unknown = sum(row["row_id"] not in known for row in rows)
        return Added(new, len(rows) - new, unknown)

    def facts(self, version: str, since: float, as_of: float) -> LabelFacts:
        """Counts of the transactions from `since` on that `version` answered, and were reported by `as_of`."""
        latest = _latest(as_of)
        level = func.substr(ANSWERS.c.alerts, cast(latest.c.row + 1, Integer), 1, type_=LargeBinary)
        wanted = (
            select(latest.c.label, level)
            .join(ANSWERS, ANSWERS.c.id == latest.c.id)
            .where(
                ANSWERS.c.version == version, ANSWERS.c.time >= since, latest.c.row < ANSWERS.c.rows, _sure(latest)
            )
        )
        frauds = caught = alerts = 0
        with self._database.read() as connection:
            for label, levels in connection.execute(wanted):
                alert = levels[0] > 0
                frauds += label
                caught += label and alert
                alerts += alert
        return LabelFacts(frauds, caught, alerts, caught)

    def matured_frauds(self, since: float, as_of: float) -> int:
        """Frauds among the transactions from `since` on that were reported by `as_of`."""
        latest = _latest(as_of)
        inside = (REQUESTS.c.id == latest.c.id) & (REQUESTS.c.time >= since) & (latest.c.row < REQUESTS.c.rows)
        wanted = select(func.count()).select_from(latest).join(REQUESTS, inside)
        with self._database.read() as connection:
            counted = wanted.where(latest.c.label == 1, _sure(latest))
            return int(connection.execute(counted).scalar_one())

    def _known(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> set[str]:
        """Which of the ids name a transaction."""
        known: set[str] = set()
        for start in range(0, len(rows), _LOOKED_UP):
            part = rows[start : start + _LOOKED_UP]
            names = {row["row_id"] for row in part} | {row["id"] for row in part}
            named = set(connection.execute(select(ROW_IDS.c.row_id).where(ROW_IDS.c.row_id.in_(names))).scalars())
            known.update(row["row_id"] for row in part if row["row_id"] in named or row["id"] in named)
            sizes = select(REQUESTS.c.id, func.max(REQUESTS.c.rows)).where(
                REQUESTS.c.id.in_([row["id"] for row in part])
            )
            most = {name: int(count) for name, count in connection.execute(sizes.group_by(REQUESTS.c.id))}
            known.update(row["row_id"] for row in part if 0 <= row["row"] < most.get(row["id"], 0))
        return known


def latest_labels(
    connection: Connection, row_ids: Sequence[str], as_of: float
) -> dict[str, tuple[int, str, float]]:
    """Label, source and time of those transactions of which something was reported by `as_of`."""
    found: dict[str, tuple[int, str, float]] = {}
    for start in range(0, len(row_ids), _LOOKED_UP):
        part = row_ids[start : start + _LOOKED_UP]
        wanted = (
            select(LABELS.c.row_id, LABELS.c.label, LABELS.c.source, LABELS.c.at)
            .where(LABELS.c.row_id.in_(part), LABELS.c.at <= as_of)
            .order_by(LABELS.c.at, LABELS.c.seq)  # the one that counts comes last
        )
        found |= {row_id: (label, source, at) for row_id, label, source, at in connection.execute(wanted)}
        doubtful = _several(connection, [*part, *{place_of(row_id)[0] for row_id in part}])
        for row_id in part:
            if row_id in doubtful or place_of(row_id)[0] in doubtful:
                found.pop(row_id, None)
    return found


def _several(connection: Connection, names: Sequence[str]) -> set[str]:
    """Which of the ids, or of what ids begin with, stand in several places."""
    doubtful: set[str] = set()
    for start in range(0, len(names), _LOOKED_UP):
        part = ROW_IDS.c.row_id.in_(names[start : start + _LOOKED_UP])
        wanted = select(ROW_IDS.c.row_id).where(part).group_by(ROW_IDS.c.row_id).having(func.count() > 1)
        doubtful.update(connection.execute(wanted).scalars())
    return doubtful


def place_of(row_id: str) -> tuple[str, int]:
    """The request and the row that an id names: what is before and after its last hyphen."""
    request, _, row = row_id.rpartition("-")
    plain = row.isascii() and row.isdigit() and len(row) <= 9 and (row == "0" or row[0] != "0")
    return (request, int(row)) if plain else (row_id, -1)


def _row(label: Label, now: float) -> dict[str, Any]:
    request, row = place_of(label.id)
    return {
        "row_id": label.id,
        "id": request,
        "row": row,
        "label": label.label,
        "source": label.source,
        "by": label.by,
        "at": label.at,
        "received": now,
    }


def _latest(as_of: float) -> Subquery:
    """The label of each transaction that counts, and where the transaction is: `id` and `row`."""
    order = (LABELS.c.at.desc(), LABELS.c.seq.desc())
    ranked = (
        select(LABELS, func.row_number().over(partition_by=LABELS.c.row_id, order_by=order).label("rank"))
        .where(LABELS.c.at <= as_of)
        .subquery()
    )
    own, begun = _places(ROW_IDS.c.row >= 0), _places(ROW_IDS.c.row == ALL_ROWS)
    row = func.coalesce(own.c.row, ranked.c.row)
    return (
        select(
            ranked.c.row_id,
            ranked.c.label,
            func.coalesce(own.c.id, begun.c.id, ranked.c.id).label("id"),
            row.label("row"),
        )
        .select_from(
            ranked.outerjoin(own, own.c.row_id == ranked.c.row_id).outerjoin(begun, begun.c.row_id == ranked.c.id)
        )
        .where(ranked.c.rank == 1, func.coalesce(own.c.places, begun.c.places, 1) == 1, row >= 0)
        .subquery()
    )


def _places(which: ColumnElement[bool]) -> Subquery:
    """Where each id of `row_ids` is, and in how many places."""
    return (
        select(
            ROW_IDS.c.row_id,
            func.min(ROW_IDS.c.id).label("id"),
            func.min(ROW_IDS.c.row).label("row"),
            func.count().label("places"),
        )
        .where(which)
        .group_by(ROW_IDS.c.row_id)
        .subquery()
    )


def _sure(latest: Subquery) -> ColumnElement[bool]:
    """Whether the request's id came with one content alone."""
    same = REQUESTS.alias()
    several = select(same.c.id).where(same.c.id == latest.c.id).group_by(same.c.id).having(func.count() > 1)
    return ~exists(several)
