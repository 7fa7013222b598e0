"""Changes that engineers ask the other parts for: role, reason, and a line in the audit whatever comes of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request

from fraudkit.errors import InvalidInput
from serving.console import audit
from serving.console.access import RefusedError, Role, Visitor, may
from serving.console.form import reason_of
from serving.console.peers import PeerError


async def change(
    request: Request,
    fields: Mapping[str, str],
    action: str,
    target: str,
    ask: Callable[[Visitor, str], Awaitable[object]],
) -> str:
    """Ask for a change, with who wants it and why; empty, or why it was not made, for who can mend it.

    Raises:
        RefusedError: It takes the role engineer.
    """
    visitor: Visitor = request.state.visitor
    reason = ""
    try:
        may(request, Role.ENGINEER, f"to {action}")
        reason = reason_of(fields)
        await ask(visitor, reason)
    except (InvalidInput, PeerError, RefusedError) as error:
        audit.changed(visitor, action, target, str(error), reason=reason)
        if isinstance(error, RefusedError):
            raise
        return str(error)
    audit.changed(visitor, action, target, "done", reason=reason)
    return ""
