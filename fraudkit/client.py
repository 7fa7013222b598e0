"""Asks another part over HTTP: what is temporary is told from what is not, and secrets of proxies are not used."""

from __future__ import annotations

import functools
import json
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import httpx
import structlog

from fraudkit.errors import PermanentError, TemporaryError

log = structlog.get_logger()

SECONDS: Final = 60.0
GIVE_UP_SECONDS: Final = 3_600.0
"""How long another part may be away."""
FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 60.0
_SHOWN: Final = 500
_Answer = TypeVar("_Answer")


class Refused(PermanentError):
    """The answer is a refusal.

    Attributes:
        status: HTTP's.
        said: What the other part says of it.
    """

    def __init__(self, url: str, status: int, said: str) -> None:
        super().__init__(f"{url} answered {status}: {said}")
        self.status = status
        self.said = said


@functools.cache
def trust() -> ssl.SSLContext:
    """Whom HTTPS trusts; made once, because reading the certificates costs more than most requests."""
    return httpx.create_ssl_context(trust_env=False)


def get(url: str, parameters: Mapping[str, str] | None = None, seconds: float = SECONDS) -> bytes:
    """The content at a URL.

    Raises:
        TemporaryError: Nobody answers, or not now.
        Refused: The answer is a refusal, which is told.
    """
    return send("GET", url, None, parameters, seconds)


def send(
    method: str,
    url: str,
    body: Mapping[str, object] | None = None,
    parameters: Mapping[str, str] | None = None,
    seconds: float = SECONDS,
) -> bytes:
    """The content of the answer to a request, whose body is JSON.

    Raises:
        TemporaryError: Nobody answers, or not now.
        Refused: The answer is a refusal, which is told.
    """
    try:
        answer = httpx.request(
            method, url, json=body, params=parameters, timeout=seconds, trust_env=False, verify=trust()
        )
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise PermanentError(f"{url!r} is no URL: {error}") from error
    except httpx.HTTPError as error:
        raise TemporaryError(f"{url} does not answer: {error or type(error).__name__}") from error
    if answer.is_success:
        return answer.content
    said = _said(answer)
    if answer.is_server_error or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        raise TemporaryError(f"{url} answered {answer.status_code}: {said}")
    raise Refused(url, answer.status_code, said)


def patiently(ask: Callable[[], _Answer]) -> _Answer:
    """Ask until there is an answer, ever less often.

    Raises:
        TemporaryError: There was none for `GIVE_UP_SECONDS`.
    """
    end, wait = time.monotonic() + GIVE_UP_SECONDS, FIRST_WAIT
    while True:
        try:
            return ask()
        except TemporaryError as error:
            if time.monotonic() + wait > end:
                raise
            log.warning("waiting for another part", reason=str(error), seconds=wait)
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT)


def _said(answer: httpx.Response) -> str:
    """The error that our own APIs tell, or what the answer holds."""
    try:
        return str(json.loads(answer.content)["error"])[:_SHOWN]
    except (ValueError, LookupError, TypeError):
        return " ".join(answer.text.split())[:_SHOWN]
