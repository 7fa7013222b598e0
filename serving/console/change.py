"""Changes that people ask the other parts for: a role, and a line in the audit whatever comes of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.requests import Request

from fraudkit.errors import FraudError
from serving.console import audit
from serving.console.access import RefusedError, Role, Visitor, may
from serving.console.peers import PeerError

_Made = TypeVar("_Made")


async def change(
    request: Request,
    role: Role,
    action: str,
    target: str,
    ask: Callable[[Visitor], Awaitable[_Made]],
    noted: Callable[[_Made], dict[str, str]] = lambda _: {"outcome": "done"},
    **told: str,
) -> _Made:
    """Ask for a change, as who wants it.

    Args:
        request: Who that is.
        role: What it takes.
        action: What is to be done, in a word or two.
        target: To what.
        ask: Asks for it.
        noted: What the audit says of what came of it, its outcome at the least.
        told: What else the audit says.

    Raises:
        RefusedError: Who asks may not.
        FraudError: The form lacks something.
        PeerError: The part that is asked is away, or refuses.
    """
    visitor: Visitor = request.state.visitor
    try:
        made = await ask(may(request, role, f"to {action}"))
    except (FraudError, PeerError, RefusedError) as error:
        audit.changed(visitor, action, target, str(error), **told)
        raise
    audit.changed(visitor, action, target, **noted(made), **told)
    return made
