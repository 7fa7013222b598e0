"""The page that shows what became of a run's model: steps, numbers, verdict, and what people did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from pipelines.controller import Rollout, Tally
from pipelines.launcher.backends import Result
from pipelines.page import page

Section = tuple[str, str, str]


def rollout_page(result: Result, rollout: Rollout | None) -> str:
    """The page.

    Args:
        result: How the run ended.
        rollout: Its roll-out; None where there was none.
    """
    said = f"<p><b>{escape(result.outcome)}</b>, {escape(result.reason)}: {escape(result.message)}</p>\n"
    if rollout is None:
        return page(f"No roll-out of {result.version}", [], said)
    instead = f"instead of {rollout.champion}" if rollout.champion else "as the first model"
    lead = f"{said}<p>{escape(f'{rollout.key}: {rollout.version} {instead}; {rollout.status}')}</p>\n"
    sections = [_steps(rollout), _counts(rollout)]
    return page(f"Roll-out of {rollout.version}", sections + ([_hands(rollout)] if rollout.hands else []), lead)


def _steps(rollout: Rollout) -> Section:
    rows = [
        (
            f"{step.percent} %",
            _time(step.began),
            f"{step.ended - step.began:,.0f}",
            f"{step.requests:,}",
            step.outcome,
            f"{step.reason}: {step.message}",
        )
        for step in rollout.steps
    ]
    heads = ("share", "began", "seconds", "requests of the canary", "outcome", "why")
    caption = "Each step with what was said at its end." if rows else "No step was judged."
    return "Steps", caption, _table(heads, rows)


def _counts(rollout: Rollout) -> Section:
    counts = rollout.counts
    rows = [_side("canary", counts.canary), _side("stable", counts.stable)]
    caption = (
        f"Stable answered {counts.fallbacks:,} requests for the canary. "
        f"Of {counts.skew_rows:,} rows that were scored live and offline, {counts.skew_differing:,} differ."
    )
    return "Requests", caption, _table(("side", "requests", "errors"), rows)


def _hands(rollout: Rollout) -> Section:
    rows = [(_time(hand.at), hand.by, hand.action, hand.reason) for hand in rollout.hands]
    return "By hand", "What people did, and why.", _table(("when", "who", "what", "why"), rows)


def _side(name: str, tally: Tally) -> tuple[str, str, str]:
    requests = tally.before.requests + tally.step.requests
    return name, f"{requests:,}", f"{tally.before.errors + tally.step.errors:,}"


def _time(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"
