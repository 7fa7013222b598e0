"""Who answers a request: stable or canary, by a share that may change at any time."""

from __future__ import annotations

import random
import re
from enum import StrEnum
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

_ORIGIN: Final = re.compile(r"http://(?:[\w.-]+|\[[\da-f:.]+\])(?::(\d{1,5}))?/?", re.ASCII | re.IGNORECASE)


class Target(StrEnum):
    """One of the two servers of a model."""

    STABLE = "stable"
    CANARY = "canary"


def origin(url: str) -> str:
    """The URL of a server without a path.

    Raises:
        ValueError: It is not one.
    """
    found = _ORIGIN.fullmatch(url)
    if found is None or int(found[1] or 80) > 65_535:
        raise ValueError("must be like http://127.0.0.1:8081")
    return url.rstrip("/")


Origin = Annotated[str, AfterValidator(origin)]


class Traffic(BaseModel):
    """Where the servers are, and how many percent of the requests the canary gets."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    stable: Origin
    canary: Origin | None = None
    percent: Annotated[float, Field(ge=0, le=100)] = 0.0

    @model_validator(mode="after")
    def _somebody_answers(self) -> Traffic:
        if self.percent and self.canary is None:
            raise ValueError("a canary must be named to get a share of the traffic")
        return self

    def url(self, target: Target) -> str:
        """Where a target is."""
        return self.canary if target is Target.CANARY and self.canary else self.stable


class Split:
    """Chooses for each request by itself, as Knative does.

    Args:
        traffic: The traffic to begin with.
        seed: Makes the choices the same again; None makes them new ones.
    """

    def __init__(self, traffic: Traffic, seed: int | None = None) -> None:
        self.traffic = traffic
        self._random = random.Random(seed)  # noqa: S311  # chooses a server, keeps no secret

    def choose(self) -> tuple[Target, str]:
        """The target of the next request, and where it is."""
        traffic = self.traffic
        canary = traffic.percent > 0 and self._random.random() * 100.0 < traffic.percent
        target = Target.CANARY if canary else Target.STABLE
        return target, traffic.url(target)
