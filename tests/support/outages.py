"""An app that is away now and then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.responses import PlainTextResponse


@dataclass
class Outage:
    """An app that is away for the next requests, as what stands before it says."""

    app: Any
    requests: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.requests > 0:
            self.requests -= 1
            await PlainTextResponse("no healthy upstream", 503)(scope, receive, send)
        else:
            await self.app(scope, receive, send)
