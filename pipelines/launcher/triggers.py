"""What asks for a run: an event, a schedule, a person. All of it comes to one `Trigger`, under one key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from fraudkit.errors import InvalidInput
from fraudkit.events import RetrainRequested, decode, rfc3339

MANUAL: Final = "manual-"
_KEY: Final = re.compile(r"(drift|schedule|manual)-[A-Za-z0-9][A-Za-z0-9._-]{0,150}|bootstrap")
_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,150}$"
_Text = Annotated[str, Field(min_length=1, max_length=1_000)]


class Kind(StrEnum):
    """What asks."""

    DRIFT = "drift"
    SCHEDULE = "schedule"
    MANUAL = "manual"
    BOOTSTRAP = "bootstrap"


@dataclass(frozen=True, slots=True)
class Trigger:
    """A run is asked for.

    Attributes:
        key: The same key starts one run, however often it comes.
        by: Who or what asks.
        reason: Why.
        as_of: What matured later is not known to the run; None is the time at which it is asked for.
        since: From when on logged transactions are learned from; None leaves it to the settings.
        data_uri: The base data; None are those of the settings.
        evidence: What a reader of the record needs, by name.
    """

    key: str
    by: str
    reason: str
    as_of: datetime | None = None
    since: datetime | None = None
    data_uri: str | None = None
    evidence: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """What asks."""
        return Kind(self.key.partition("-")[0])


class LaunchRequest(BaseModel):
    """The body of `POST /v1/runs`: a key of one's own, or a trigger with the time that it was scheduled for.

    Attributes:
        key: `bootstrap`, `schedule-<YYYY-MM>` or `manual-<name>`.
        trigger: `schedule`, whose key is made of the month.
        scheduled_time: When it was due.
        data_uri: The base data; those of the settings if left out.
        by: Who asks.
        reason: Why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Annotated[str | None, Field(max_length=200)] = None
    trigger: Literal["schedule"] | None = None
    scheduled_time: AwareDatetime | None = None
    data_uri: _Text | None = None
    by: _Text
    reason: _Text

    @model_validator(mode="after")
    def _one_key(self) -> LaunchRequest:
        if (self.key is None) == (self.trigger is None):
            raise ValueError("give either a key, or a trigger with its scheduled_time")
        if (self.trigger is None) != (self.scheduled_time is None):
            raise ValueError("a trigger goes with its scheduled_time")
        if self.key is not None:
            check_key(self.key)
            if self.key.startswith("drift-"):
                raise ValueError("a drift asks by its event; take a key like manual-name")
        return self

    def to_trigger(self) -> Trigger:
        """What is asked for."""
        key = self.key or schedule_key(self.scheduled_time or datetime.now(UTC))
        evidence = {"scheduled_time": rfc3339(self.scheduled_time)} if self.scheduled_time else {}
        return Trigger(key, self.by, self.reason, data_uri=self.data_uri, evidence=evidence)


def of_event(headers: Mapping[str, str], body: bytes) -> Trigger:
    """What a `retrain.requested` event asks for; `headers` by lower-case name.

    Raises:
        InvalidInput: It is not one, or its key is none of a drift.
    """
    received, asked = decode(RetrainRequested, headers, body)
    check_key(asked.key)
    if not asked.key.startswith("drift-"):
        raise InvalidInput(f"key: {asked.key!r} is not that of a drift")
    evidence = {
        "event": received.id,
        "source": received.source,
        "champion": asked.version,
        "episode_start": rfc3339(asked.episode_start),
        "verdict": asked.verdict_id,
    }
    return Trigger(asked.key, received.source, asked.reason, asked.as_of, asked.episode_start, evidence=evidence)


def check_key(key: str) -> None:
    """Raise InvalidInput for what is no key."""
    if not _KEY.fullmatch(key):
        known = "bootstrap, schedule-<YYYY-MM>, manual-<name> and drift-<…>"
        raise InvalidInput(f"key: {key!r} is none; keys are {known}, of letters, digits, dots, - and _")


def manual_key(given: str) -> str:
    """The key of a name that a person gave; a whole key stays as it is."""
    if _KEY.fullmatch(given):
        return given
    if not re.match(_NAME, given):
        raise InvalidInput(f"--key: {given!r} may have letters, digits, dots, - and _, 150 at most")
    return MANUAL + given


def schedule_key(due: datetime) -> str:
    """The key of the month in which a scheduled run was due."""
    return f"schedule-{due.astimezone(UTC):%Y-%m}"


def since_of(
    trigger: Trigger, as_of: datetime, recent_days: float, answered: datetime | None = None
) -> datetime | None:
    """From when on logged transactions are learned from; a first model has none to learn from.

    Args:
        trigger: What asks.
        as_of: What matured later is not known.
        recent_days: How far back a run goes that no drift asked for, …
        answered: … but not beyond the last drift that was answered: what was before it is another world, and a
            reference with rows of both would alarm.
    """
    if trigger.kind is Kind.BOOTSTRAP:
        return None
    back = as_of - timedelta(days=recent_days)
    return trigger.since or (back if answered is None else max(back, answered))
