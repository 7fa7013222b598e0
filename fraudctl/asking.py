"""Asks a part of the platform over HTTP, in the name of who is at the command line."""

from __future__ import annotations

import getpass
from typing import Any, Final

import httpx

from fraudkit.client import trust
from fraudkit.errors import InvalidInput, PermanentError

SECONDS: Final = 30.0
_REFUSED: Final = (httpx.codes.BAD_REQUEST, httpx.codes.NOT_FOUND, httpx.codes.CONFLICT)


def ask(part: str, method: str, url: str, body: dict[str, Any] | None = None) -> bytes:
    """The answer of a part.

    Raises:
        InvalidInput: It refuses, and says why.
        PermanentError: It cannot be reached, or fails.
    """
    try:
        answer = httpx.request(method, url, json=body, timeout=SECONDS, verify=trust())
    except httpx.HTTPError as error:
        where = f"the {part} at {url} cannot be reached: {error}"
        raise PermanentError(f"{where}; `fraudctl up` starts one") from error
    if answer.status_code in _REFUSED:
        try:
            raise InvalidInput(str(answer.json()["error"]))
        except (ValueError, LookupError, TypeError):
            raise InvalidInput(f"{url} answered {answer.status_code}: {answer.text[:500]}") from None
    if not answer.is_success:
        raise PermanentError(f"{url} answered {answer.status_code}: {answer.text[:500]}")
    return answer.content


def who() -> str:
    """Who is at the command line."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "somebody at the command line"
