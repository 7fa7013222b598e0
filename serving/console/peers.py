"""The other parts, asked over HTTP; one that is away is said, and the rest of a page works."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from fraudkit.client import trust
from fraudkit.settings import Settings

SECONDS: Final = 5.0
_Read = TypeVar("_Read", bound=BaseModel)
_Value = TypeVar("_Value")


class PeerError(Exception):
    """A part did not answer as asked; the text is for a person.

    Attributes:
        part: Its name.
        status: HTTP's where it refused; None where it is away.
    """

    def __init__(self, part: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.part = part
        self.status = status


@dataclass(frozen=True, slots=True)
class Peer:
    """A part.

    Attributes:
        name: What it is called.
        url: Where it is.
        client: Who asks.
    """

    name: str
    url: str
    client: httpx.AsyncClient

    async def get(
        self, path: str, kind: type[_Read], seconds: float = SECONDS, **parameters: str | int | None
    ) -> _Read:
        """What it says at a path.

        Raises:
            PeerError: It is away, refuses, or says something else.
        """
        given = {key: value for key, value in parameters.items() if value is not None}
        answer = await self.send("GET", path, seconds, params=given)
        return self.read(answer, kind)

    def read(self, answer: httpx.Response, kind: type[_Read]) -> _Read:
        """What it says in an answer.

        Raises:
            PeerError: It says something else.
        """
        try:
            return kind.model_validate_json(answer.content)
        except ValidationError as error:
            said = error.errors(include_url=False)[0]
            where = ".".join(map(str, said["loc"]))
            raise PeerError(
                self.name, f"the {self.name} does not answer as expected: {where}: {said['msg']}"
            ) from error

    async def send(self, method: str, path: str, seconds: float = SECONDS, **content: Any) -> httpx.Response:
        """Its answer to a request.

        Raises:
            PeerError: It is away, or refuses.
        """
        try:
            answer = await self.client.request(method, f"{self.url}{path}", timeout=seconds, **content)
        except httpx.HTTPError as error:
            said = str(error) or type(error).__name__
            raise PeerError(self.name, f"the {self.name} does not answer at {self.url}: {said}") from error
        if not answer.is_success:
            raise PeerError(
                self.name, f"the {self.name} answers {answer.status_code}: {_said(answer)}", answer.status_code
            )
        return answer


@dataclass(frozen=True, slots=True)
class Peers:
    """All parts.

    Attributes:
        model: Where transactions are scored.
        detector: Windows, verdicts, transactions, labels.
        launcher: Runs.
        controller: Roll-outs.
        client: Who asks them.
    """

    model: Peer
    detector: Peer
    launcher: Peer
    controller: Peer
    client: httpx.AsyncClient

    @classmethod
    def of(cls, settings: Settings) -> Peers:
        """Those of the settings."""
        client = httpx.AsyncClient(trust_env=False, verify=trust())
        rollout = settings.rollout.url or f"http://127.0.0.1:{settings.rollout.port}"

        def peer(name: str, url: str) -> Peer:
            return Peer(name, url.rstrip("/"), client)

        return cls(
            model=peer("model", settings.console.model),
            detector=peer("detector", settings.detector.url),
            launcher=peer("launcher", settings.launcher.url),
            controller=peer("roll-out controller", rollout),
            client=client,
        )


async def attempt(asked: Awaitable[_Value]) -> _Value | PeerError:
    """What is asked for, or why it is not to be had; a page shows either."""
    try:
        return await asked
    except PeerError as error:
        return error


async def together(*asked: Awaitable[Any]) -> list[Any]:
    """All that is asked for at once, each as `attempt` has it."""
    return list(await asyncio.gather(*map(attempt, asked)))


def _said(answer: httpx.Response) -> str:
    try:
        told = answer.json()
    except ValueError:
        return answer.text[:300]
    return (
        str(told.get("error") or told.get("detail") or told)[:500] if isinstance(told, dict) else str(told)[:300]
    )
