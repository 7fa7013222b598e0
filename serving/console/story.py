"""What became of a version, told from its roll-out and the run that made it."""

from __future__ import annotations

from dataclasses import dataclass

from serving.console.records import RolloutRecord, RunRecord


@dataclass(frozen=True, slots=True)
class Chapter:
    """A roll-out in the story of versions.

    Attributes:
        rollout: It.
        run: The run that made the version; None where none did, or it is not known.
        origin: Where the version came from, in a sentence.
        ended: What became of it, in a sentence.
    """

    rollout: RolloutRecord
    run: RunRecord | None
    origin: str
    ended: str


def chapter(rollout: RolloutRecord, run: RunRecord | None) -> Chapter:
    """The chapter of a roll-out."""
    return Chapter(rollout, run, _origin(rollout, run), _ended(rollout))


def _origin(rollout: RolloutRecord, run: RunRecord | None) -> str:
    if rollout.version == rollout.champion:
        return "The service was made anew from a changed template, with the same model."
    if run:
        return f"Trained by a run that {run.who} asked for: {run.reason}."
    if rollout.key.startswith("manual-thresholds-"):
        return f"{rollout.by} set other thresholds: {rollout.reason}."
    if rollout.key.startswith("manual-reference-"):
        return f"{rollout.by} accepted a new reference: {rollout.reason}."
    return f"{rollout.by} asked for it: {rollout.reason}."


def _ended(one: RolloutRecord) -> str:
    through = ", ".join(str(step.percent) for step in one.steps if step.outcome == "pass")
    took = f"It took {through} % of the traffic" if through else "It took no step"
    by = one.by_hand or "the policy"
    said = one.said[2] or one.said[1]
    match one.status:
        case "confirmed" if one.champion is None:
            return "The first model: it took all traffic at once."
        case "provisional":
            return f"{took} and was promoted by {by}, provisionally: {said}."
        case "confirmed":
            return f"{took} and was promoted by {by}, for good ({one.said[1].replace('_', ' ')})."
        case "superseded":
            return f"{took} and was promoted by {by}, until a newer one was."
        case "reversed" | "reversing":
            return f"{took} and was promoted by {by}, then taken back: {said}."
        case "rolled_back" | "rolling_back":
            return f"{took}, and was rolled back: {said}."
        case _:
            return f"{took}, and goes on{': ' + said if said else ''}."
