"""What was changed, by whom: a line in the log for each, whatever came of it."""

from __future__ import annotations

import structlog

from serving.console.access import Visitor

log = structlog.get_logger("audit")


def changed(visitor: Visitor, action: str, target: str, outcome: str, **more: str | int | float) -> None:
    """Say what somebody did, or tried to.

    Args:
        visitor: Who.
        action: What, such as `label` or `rollback`.
        target: To what.
        outcome: `done`, or why not.
        more: Reason and details.
    """
    log.info(
        "audit", by=visitor.name, role=visitor.role.title, action=action, target=target, outcome=outcome, **more
    )
