"""Alerts of live traffic, and the sample that is put up for review: why, and what became of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl, urlencode

from markupsafe import Markup
from pydantic import Field
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from fraudkit.errors import InvalidInput
from serving.console import charts
from serving.console.access import RefusedError, Role, Visitor
from serving.console.change import change
from serving.console.context import Console
from serving.console.form import fields_of
from serving.console.page import page
from serving.console.peers import PeerError, attempt, together
from serving.console.records import Read, ServingRecord
from serving.console.views.score import ReasonRecord

ROWS: Final = 25
SEARCH_SECONDS: Final = 20.0
"""What is rare is looked for in much of the log."""
SHOWN: Final = 3
"""Reasons that are shown of a transaction; all are in the detector's answer."""
SOURCE: Final = "analyst"
OUTCOMES: Final[Mapping[str, str]] = {"1": "fraud", "0": "legitimate"}


class _Inputs(Read):
    amount: float = Field(alias="Amount")


class TransactionRecord(Read):
    """A transaction as the detector tells of it."""

    id: str
    ce_time: datetime
    version: str
    inputs: _Inputs
    probability: float
    alert: str
    label: int | None
    label_source: str | None
    label_by: str | None = None
    label_at: datetime | None = None
    reasons: tuple[ReasonRecord, ...] | None

    @property
    def why(self) -> Markup | None:
        """Its first reasons as words with bars; None where its model is not to be had."""
        if self.reasons is None:
            return None
        most = sorted(self.reasons, key=lambda one: -abs(one.contribution))[:SHOWN]
        told = [
            charts.Bar(worded(one), one.contribution, f"{one.value:.4g}, typical {one.typical:.4g}")
            for one in most
        ]
        return charts.small_bars(told, f"Why {self.id} has this probability")


class TransactionsRecord(Read):
    """A page of them, and where the next one begins."""

    transactions: tuple[TransactionRecord, ...]
    cursor: str | None


class AddedRecord(Read):
    """What became of labels."""

    accepted: int
    repeated: int
    unknown: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which transactions, as the page's address has it; what is empty is not asked for.

    Attributes:
        show: `review` for the review sample; else the alerts.
        alert: `any` (review or block), `review`, `block`, or `all`, with those that are normal.
        version: Of a model.
        id: Of one transaction.
        since: From this time on, UTC.
        until: Before this time, UTC.
        cursor: Where the list goes on.
    """

    show: str = ""
    alert: str = "any"
    version: str = ""
    id: str = ""
    since: str = ""
    until: str = ""
    cursor: str = ""

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Wanted:
        """What an address, or a form, asks for."""
        known = {one.name: given[one.name].strip() for one in fields(cls) if given.get(one.name, "").strip()}
        return cls(**known)

    def query(self, **more: str | None) -> str:
        """The query of an address of this list, or of one that differs."""
        own = {one.name: getattr(self, one.name) for one in fields(self)} | more
        return urlencode({name: value for name, value in own.items() if value})

    def parameters(self) -> dict[str, str | int | None]:
        """What the detector is asked."""
        asked: dict[str, str | int | None] = {"limit": ROWS, "cursor": self.cursor or None}
        if self.show == "review":
            return asked
        # Whoever looks for one transaction finds it whatever its alert is.
        alert = None if self.id or self.alert == "all" else self.alert
        named = {name: getattr(self, name) or None for name in ("version", "id", "since", "until")}
        return asked | named | {"alert": alert}

    @property
    def is_live(self) -> bool:
        """Whether new transactions may come to this list at any moment; those for review are few, and costly."""
        return not (self.cursor or self.id or self.until or self.show == "review")


def routes(console: Console) -> list[BaseRoute]:
    """The routes."""
    detector = console.peers.detector

    async def found(wanted: Wanted) -> TransactionsRecord:
        path = "/v1/review" if wanted.show == "review" else "/v1/transactions"
        return await detector.get(path, TransactionsRecord, SEARCH_SECONDS, **wanted.parameters())

    async def shown(request: Request, wanted: Wanted, problem: str = "", status: int = 200) -> Response:
        listed, models = await together(found(wanted), console.peers.controller.get("/v1/models", ServingRecord))
        if isinstance(listed, PeerError) and listed.status in (400, 422):
            problem, listed = problem or str(listed), TransactionsRecord(transactions=(), cursor=None)
            status = max(status, 422)
        versions = () if isinstance(models, PeerError) else [one.version for one in reversed(models.models)]
        marked = (request.query_params.get("marked"), request.query_params.get("as"))
        rows = () if isinstance(listed, PeerError) else listed.transactions
        doubtful = any(one.id == marked[0] and one.label is None for one in rows)
        context = _listed(request, wanted, listed) | {"problem": problem, "versions": versions}
        context |= {"marked": marked, "doubtful": doubtful}
        return page(request, "alerts.html", status, **context)

    async def show(request: Request) -> Response:
        return await shown(request, Wanted.of(request.query_params))

    async def part(request: Request) -> Response:
        wanted = Wanted.of(request.query_params)
        return page(request, "alerts_list.html", **_listed(request, wanted, await attempt(found(wanted))))

    async def label(request: Request) -> Response:
        wanted = Wanted()
        try:
            given = await fields_of(request)
            wanted = Wanted.of(dict(parse_qsl(given.get("list", ""))))
            became = await _label(console, request, given)
        except (RefusedError, InvalidInput, PeerError) as error:
            return await shown(request, wanted, str(error), getattr(error, "status", 422) or 502)
        return RedirectResponse(f"/alerts?{wanted.query(marked=given['id'], **{'as': became})}", 303)

    return [
        Route("/alerts", show),
        Route("/alerts/part", part),
        Route("/alerts/label", label, methods=["POST"]),
    ]


def worded(reason: ReasonRecord) -> str:
    """An input beside the typical one in a word: `V14 low`, or the hour for the time."""
    if reason.feature == "Time":
        return f"hour {int(reason.value // 3600) % 24}"
    return f"{reason.feature} {'high' if reason.value >= reason.typical else 'low'}"


def _listed(request: Request, wanted: Wanted, listed: TransactionsRecord | PeerError) -> dict[str, object]:
    """What the list shows."""
    visitor: Visitor = request.state.visitor
    goes_on = None if isinstance(listed, PeerError) else listed.cursor
    return {
        "wanted": wanted,
        "listed": listed,
        "older": wanted.query(cursor=goes_on) if goes_on else None,
        "may_label": visitor.role >= Role.ANALYST,
        "now": datetime.now(UTC),
        "outcomes": OUTCOMES,
    }


async def _label(console: Console, request: Request, given: Mapping[str, str]) -> str:
    """Mark a transaction; what it was marked as, or why that is not all of it.

    Raises:
        RefusedError: Who asks may not.
        InvalidInput: The form lacks something.
        PeerError: The detector is away, or refuses.
    """
    name, label = given.get("id", ""), given.get("label", "")

    async def ask(visitor: Visitor) -> AddedRecord:
        if not name or label not in OUTCOMES:
            raise InvalidInput("a transaction is marked by its id, as fraud (1) or legitimate (0)")
        body = {"id": name, "label": int(label), "source": SOURCE, "by": visitor.name}
        detector = console.peers.detector
        return detector.read(await detector.send("POST", "/v1/labels", json=body), AddedRecord)

    def noted(added: AddedRecord) -> dict[str, str]:
        return {"outcome": "unknown id" if added.unknown else "done"}

    added = await change(request, Role.ANALYST, "label", name, ask, noted, label=label)
    return "unknown" if added.unknown else OUTCOMES[label]
