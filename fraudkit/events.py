"""Events that leave the platform, or pass between its parts: CloudEvents 1.0 with data of a published form.

Ids are made of what an event is about, so that one that is sent again has the same id, and a receiver that keeps
ids does everything once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Final, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from fraudkit.errors import InvalidInput

PREFIX: Final = "io.fraudplatform."
CONTENT_TYPE: Final = "application/cloudevents+json"

Version = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
Text = Annotated[str, Field(min_length=1, max_length=1_000)]


class EventData(BaseModel):
    """What an event is about. Times are UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: ClassVar[str]

    @property
    def id(self) -> str:
        """The id of the event, made of what it is about."""
        raise NotImplementedError


class Evidence(BaseModel):
    """A number beside its threshold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channel: Text
    name: Text
    subject: str
    value: float
    threshold: float


class DriftDetected(EventData):
    """Live traffic is no longer what the model was made for. It informs; `retrain.requested` starts a run."""

    type: ClassVar[str] = "io.fraudplatform.drift.detected.v1"

    model: Text
    version: Version
    episode_start: AwareDatetime
    verdict_id: Text
    channel: Text
    message: Text
    evidence: tuple[Evidence, ...] = ()

    @property
    def id(self) -> str:
        """One for each episode of a version."""
        return f"drift-detected-{self.version}-{compact(self.episode_start)}"


class DriftCleared(EventData):
    """Live traffic is again what the model was made for."""

    type: ClassVar[str] = "io.fraudplatform.drift.cleared.v1"

    model: Text
    version: Version
    episode_start: AwareDatetime
    cleared_at: AwareDatetime
    verdict_id: Text

    @property
    def id(self) -> str:
        """One for each episode of a version."""
        return f"drift-cleared-{self.version}-{compact(self.episode_start)}"


class DataQuality(EventData):
    """Something is wrong with the data themselves: a matter for who sends them, not for a new model."""

    type: ClassVar[str] = "io.fraudplatform.dataquality.v1"

    model: Text
    version: Version
    begins: AwareDatetime
    verdict_id: Text
    message: Text
    evidence: tuple[Evidence, ...] = ()

    @property
    def id(self) -> str:
        """One for each time that it begins."""
        return f"dataquality-{self.version}-{compact(self.begins)}"


class RetrainRequested(EventData):
    """A run is to be started under `key`; the same key again starts none."""

    type: ClassVar[str] = "io.fraudplatform.retrain.requested.v1"

    key: Text
    version: Version
    episode_start: AwareDatetime
    as_of: AwareDatetime
    reason: Text
    verdict_id: Text

    @property
    def id(self) -> str:
        """One for each key."""
        return f"retrain-{self.key}"


class ModelPromoted(EventData):
    """A model takes all traffic from now on; sent for the first one too."""

    type: ClassVar[str] = "io.fraudplatform.model.promoted.v1"

    model: Text
    version: Version
    key: Text
    by: Text

    @property
    def id(self) -> str:
        """One for each promotion."""
        return f"promoted-{self.version}-{self.key}"


class ModelRolledBack(EventData):
    """A challenger was taken out of traffic; `champion` serves all of it."""

    type: ClassVar[str] = "io.fraudplatform.model.rolledback.v1"

    model: Text
    version: Version
    champion: Version
    key: Text
    reason: Text
    by: Text

    @property
    def id(self) -> str:
        """One for each roll-out."""
        return f"rolledback-{self.version}-{self.key}"


KINDS: Final = (DriftDetected, DriftCleared, DataQuality, RetrainRequested, ModelPromoted, ModelRolledBack)
_Data = TypeVar("_Data", bound=EventData)


class _Envelope(BaseModel):
    """What this platform reads of a CloudEvent; other attributes may be there."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    specversion: Literal["1.0"]
    id: Text
    source: Text
    type: Text
    time: AwareDatetime


class Received(BaseModel):
    """The frame of an event that has come."""

    model_config = ConfigDict(frozen=True)

    id: str
    source: str
    type: str
    time: datetime


def encode(data: EventData, source: str, time: datetime) -> str:
    """The event in structured mode: JSON of content type `CONTENT_TYPE`, the same for the same arguments."""
    event = {
        "specversion": "1.0",
        "id": data.id,
        "source": source,
        "type": data.type,
        "time": rfc3339(time),
        "datacontenttype": "application/json",
        "data": json.loads(data.model_dump_json()),
    }
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False)


def event_type(headers: Mapping[str, str], body: bytes) -> str | None:
    """The type of an event in either mode, if it says one; `headers` by lower-case name."""
    if "ce-type" in headers:
        return headers["ce-type"]
    document = _document(body)
    kind = document.get("type")
    return kind if isinstance(kind, str) else None


def decode(kind: type[_Data], headers: Mapping[str, str], body: bytes) -> tuple[Received, _Data]:
    """The frame and the data of an event of `kind` in binary or structured mode; `headers` by lower-case name.

    Raises:
        InvalidInput: Naming the attribute, or the member of the data, that is missing or wrong.
    """
    if "ce-type" in headers:
        frame: object = {name[3:]: value for name, value in headers.items() if name.startswith("ce-")}
        data: object = _document(body)
    else:
        document = _document(body)
        frame, data = document, document.get("data")
    try:
        envelope = _Envelope.model_validate(frame)
        if envelope.type != kind.type:
            raise InvalidInput(f"the event's type is {envelope.type}, not {kind.type}")
        read = kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the event"
        raise InvalidInput(f"{where}: {first['msg']}") from error
    return Received(id=envelope.id, source=envelope.source, type=envelope.type, time=envelope.time), read


def drift_key(version: str, episode_start: datetime, attempt: int) -> str:
    """The key of a run that a drift asks for."""
    return f"drift-{version}-{compact(episode_start)}-{attempt}"


def compact(time: datetime) -> str:
    """A time as it stands in keys and ids: to the minute, and to the second where it has seconds."""
    utc = time.astimezone(UTC)
    return f"{utc:%Y%m%dT%H%M%SZ}" if utc.second else f"{utc:%Y%m%dT%H%MZ}"


def rfc3339(time: datetime) -> str:
    """A time in UTC, with a Z."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def schemas() -> dict[str, str]:
    """The JSON schema of each event's data, by the name of its file."""
    return {
        f"{kind.type.removeprefix(PREFIX)}.json": json.dumps(
            {"$schema": "https://json-schema.org/draft/2020-12/schema", **kind.model_json_schema()}, indent=1
        )
        + "\n"
        for kind in KINDS
    }


def _document(body: bytes) -> dict[str, object]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the event is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidInput("the event must be a JSON object")
    return document
