"""Labels: outcomes of transactions, late, repeated and corrected, joined to what was asked and answered.

The label that was found out last counts; of two at the same time, the one that came last. A request whose id came
with other rows too, and an id of a transaction that stands in several places, are never labelled: which is meant
is not known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from sqlalchemy import (
    Connection,
    FromClause,
    Integer,
    LargeBinary,
    ScalarSelect,
    Subquery,
    case,
    cast,
    exists,
    func,
    or_,
    select,
)
from sqlalchemy.sql.elements import ColumnElement

from detectors.channels.labels import LabelFacts
from detectors.labels import Label, Outcome
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


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of some transactions.

    Attributes:
        reported: The labels that count, by id.
        doubtful: Ids that stand in several places; none of them is in `reported`.
    """

    reported: dict[str, Outcome]
    doubtful: set[str]


class LabelStore:
    """Stores labels, and counts with them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, labels: Sequence[Label], now: float) -> Added:
        """Store labels in one transaction; an unknown one waits for its transaction.

        One that does not say when it was found out was now, unless it repeats the label that counts.
        """
        if not labels:
            return Added(0, 0, 0)
        statement = self._database.insert(LABELS).on_conflict_do_nothing()
        rows = [_row(label, now) for label in labels]
        with self._database.write() as connection:
            fresh = _fresh(connection, labels, rows)
            options = {"preserve_rowcount": True}
            new = connection.execute(statement, fresh, execution_options=options).rowcount if fresh else 0
            known = self._known(connection, rows)
        unknown = sum(row["row_id"] not in known for row in rows)
        return Added(new, len(rows) - new, unknown)

    def facts(self, version: str, since: float, as_of: float, until: float | None = None) -> LabelFacts:
        """Counts of the transactions that `version` answered, as they were reported by `as_of`.

        Args:
            version: Of the model.
            since: From this time on [s, UTC].
            as_of: What was found out later does not count [s, UTC].
            until: Transactions before this time [s, UTC]; all if left out.
        """
        last = _last(LABELS.c.at <= as_of, as_of)
        inside = REQUESTS.c.time >= since
        if until is not None:
            inside &= REQUESTS.c.time < until
        level = func.substr(ANSWERS.c.alerts, cast(last.c.row + 1, Integer), 1, type_=LargeBinary)
        same = (ANSWERS.c.id == REQUESTS.c.id) & (ANSWERS.c.rows == REQUESTS.c.rows)
        answered = REQUESTS.join(ANSWERS, same & (ANSWERS.c.version == version))
        wanted = select(last.c.label, _of(last, answered, case((inside, level))))
        frauds = caught = alerts = 0
        with self._database.read() as connection:
            for label, levels in connection.execute(wanted):
                if levels is None:
                    continue
                alert = levels[0] > 0
                frauds += label
                caught += label and alert
                alerts += alert
        return LabelFacts(frauds, caught, alerts, caught)

    def matured_frauds(self, since: float, as_of: float) -> int:
        """Frauds that were reported by `as_of`, among the transactions from `since` on, answered or not."""
        last = _last((LABELS.c.at <= as_of) & (LABELS.c.label == 1), as_of)
        asked = _of(last, REQUESTS, func.count(case((REQUESTS.c.time >= since, 1))))
        counted = select(func.count()).select_from(last).where(asked > 0)
        with self._database.read() as connection:
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


def known_of(connection: Connection, row_ids: Sequence[str], as_of: float) -> Known:
    """What was reported of transactions by `as_of`."""
    doubtful = _doubtful(connection, row_ids)
    reported: dict[str, Outcome] = {}
    for part in _parts(row_ids):
        wanted = (
            select(LABELS.c.row_id, LABELS.c.label, LABELS.c.source, LABELS.c.at, LABELS.c.by)
            .where(LABELS.c.row_id.in_(part), LABELS.c.at <= as_of)
            .order_by(LABELS.c.at, LABELS.c.seq)  # the one that counts comes last
        )
        for row_id, label, source, at, by in connection.execute(wanted):
            if row_id not in doubtful:
                reported[row_id] = Outcome(label, source, at, by)
    return Known(reported, doubtful)


def came_once(requests: FromClause) -> ColumnElement[bool]:
    """Whether the id of a row of `requests` came with one content alone."""
    same = REQUESTS.alias()
    return select(func.count()).where(same.c.id == requests.c.id).scalar_subquery() == 1


def place_of(row_id: str) -> tuple[str, int]:
    """The request and the row that an id names: what is before and after its last hyphen."""
    request, _, row = row_id.rpartition("-")
    plain = row.isascii() and row.isdigit() and len(row) <= 9 and (row == "0" or row[0] != "0")
    return (request, int(row)) if plain else (row_id, -1)


def _parts(names: Iterable[str]) -> Iterator[list[str]]:
    several = list(names)
    return (several[start : start + _LOOKED_UP] for start in range(0, len(several), _LOOKED_UP))


def _fresh(connection: Connection, labels: Sequence[Label], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without those that say nothing new: of no time of their own, and the same as what counts."""
    counts: dict[str, tuple[int, str, str]] = {}
    for part in _parts({label.id for label in labels if label.at is None}):
        wanted = select(LABELS.c.row_id, LABELS.c.label, LABELS.c.source, LABELS.c.by)
        ordered = wanted.where(LABELS.c.row_id.in_(part)).order_by(LABELS.c.at, LABELS.c.seq)
        counts |= {row_id: (label, source, by) for row_id, label, source, by in connection.execute(ordered)}
    fresh = []
    for label, row in zip(labels, rows, strict=True):
        said = (label.label, label.source, label.by)
        if label.at is None and counts.get(label.id) == said:
            continue
        counts[label.id] = said
        fresh.append(row)
    return fresh


def _row(label: Label, now: float) -> dict[str, Any]:
    request, row = place_of(label.id)
    return {
        "row_id": label.id,
        "id": request,
        "row": row,
        "label": label.label,
        "source": label.source,
        "by": label.by,
        "at": now if label.at is None else label.at,
        "received": now,
    }


# An id is that of a row of `row_ids`, or begins like one, or is `<request id>-<row>` of an answer that says so.
# What stands in several of these places is in doubt.


def _doubtful(connection: Connection, names: Sequence[str]) -> set[str]:
    """Which of the ids of answered rows stand in several places."""
    own, begun = Counter[str](), Counter[str]()
    for part in _parts({*names, *(place_of(name)[0] for name in names)}):
        wanted = select(ROW_IDS.c.row_id, ROW_IDS.c.row).where(ROW_IDS.c.row_id.in_(part))
        for name, row in connection.execute(wanted):
            (begun if row == ALL_ROWS else own)[name] += 1
    places: dict[str, int] = {}
    for name in names:
        request, row = place_of(name)
        places[name] = own[name] + (begun[request] if row >= 0 else 0)
    plain = _plain(connection, [name for name, count in places.items() if count == 1])
    return {name for name, count in places.items() if count + (name in plain) > 1}


def _plain(connection: Connection, names: Sequence[str]) -> set[str]:
    """Which of the ids are `<request id>-<row>` of an answered row."""
    plain: set[str] = set()
    for part in _parts(names):
        placed = {name: place_of(name) for name in part}
        requests = {request for request, row in placed.values() if row >= 0}
        answers: dict[str, list[Any]] = {}
        wanted = select(ANSWERS.c.id, ANSWERS.c.rows, ANSWERS.c.row_ids).where(ANSWERS.c.id.in_(requests))
        for answer in connection.execute(wanted):
            answers.setdefault(answer.id, []).append(answer)
        for name, (request, row) in placed.items():
            if any(0 <= row < one.rows and _says(one.row_ids, name) for one in answers.get(request, ())):
                plain.add(name)
    return plain


def _says(row_ids: str | None, name: str) -> bool:
    """Whether an answer with these `row_ids` may name a row `name`, which is `<request id>-<row>`."""
    if row_ids is None:
        return True
    names = orjson.loads(row_ids)
    return isinstance(names, list) and name in names


def _last(which: ColumnElement[bool], as_of: float) -> Subquery:
    """The labels that count at `as_of` of those that are wanted, each with its transaction's `id` and `row`.

    Each is looked up by itself, by primary keys: a planner that knows nothing of the tables cannot go wrong.
    """
    other = LABELS.alias()
    last = (
        select(other.c.seq)
        .where(other.c.row_id == LABELS.c.row_id, other.c.at <= as_of)
        .order_by(other.c.at.desc(), other.c.seq.desc())
        .limit(1)
        .scalar_subquery()
    )
    own = (ROW_IDS.c.row_id == LABELS.c.row_id) & (ROW_IDS.c.row >= 0)
    begun = (ROW_IDS.c.row_id == LABELS.c.id) & (ROW_IDS.c.row == ALL_ROWS) & (LABELS.c.row >= 0)
    quoted = '"' + LABELS.c.row_id + '"'
    listed = func.replace(ANSWERS.c.row_ids, quoted, "") != ANSWERS.c.row_ids
    plain = exists().where(
        ANSWERS.c.id == LABELS.c.id,
        LABELS.c.row >= 0,
        ANSWERS.c.rows > LABELS.c.row,
        or_(ANSWERS.c.row_ids.is_(None), listed),
    )
    places = _of_row_ids(func.count(), own) + _of_row_ids(func.count(), begun) + case((plain, 1), else_=0)
    unanswered = (LABELS.c.row >= 0) & ~exists().where(ANSWERS.c.id == LABELS.c.id)
    identity = func.coalesce(
        _of_row_ids(func.min(ROW_IDS.c.id), own), _of_row_ids(func.min(ROW_IDS.c.id), begun), LABELS.c.id
    )
    row = func.coalesce(_of_row_ids(func.min(ROW_IDS.c.row), own), LABELS.c.row)
    return (
        select(LABELS.c.label, identity.label("id"), row.label("row"))
        .where(which, LABELS.c.seq == last, or_(places == 1, unanswered & (places == 0)))
        .subquery()
    )


def _of_row_ids(value: ColumnElement[Any], where: ColumnElement[bool]) -> ScalarSelect[Any]:
    return select(value).select_from(ROW_IDS).where(where).correlate(LABELS).scalar_subquery()


def _of(last: Subquery, table: FromClause, value: ColumnElement[Any]) -> ScalarSelect[Any]:
    """Of the request that a label is of; `value` has the bounds of time.

    As a condition they would tempt a planner to walk through all that is younger, for each label.
    """
    of = select(value).select_from(table).correlate(last)
    return of.where(
        REQUESTS.c.id == last.c.id, REQUESTS.c.rows > last.c.row, came_once(REQUESTS)
    ).scalar_subquery()
