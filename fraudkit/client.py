"""Asks another part over HTTP: what is temporary is told from what is not, and secrets of proxies are not used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import httpx

from fraudkit.errors import PermanentError, TemporaryError

SECONDS: Final = 60.0
_SHOWN: Final = 300


def get(url: str, parameters: Mapping[str, str] | None = None, seconds: float = SECONDS) -> bytes:
    """The content at a URL.

    Raises:
        TemporaryError: Nobody answers, or not now.
        PermanentError: The answer is a refusal, which is told.
    """
    try:
        answer = httpx.get(url, params=parameters, timeout=seconds, trust_env=False)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise PermanentError(f"{url!r} is no URL: {error}") from error
    except httpx.HTTPError as error:
        raise TemporaryError(f"{url} does not answer: {error or type(error).__name__}") from error
    if answer.is_success:
        return answer.content
    said = f"{url} answered {answer.status_code}: {' '.join(answer.text.split())[:_SHOWN]}"
    if answer.is_server_error or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        raise TemporaryError(said)
    raise PermanentError(said)
