"""Where a model came from, as a story: its bundle tells by itself; launcher and controller add what they know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from rich.markup import escape

from fraudctl import launch, rollout
from fraudctl.asking import ask
from fraudctl.runs import find_bundle
from fraudkit.bundle import REFERENCE, Bundle, Learned, Manifest
from fraudkit.bundle_store import BundleStore
from fraudkit.errors import FraudError, InvalidInput
from fraudkit.settings import Settings

POLICY: Final = "the policy"
_OWN: Final = {"thresholds": "other thresholds", "reference": "another reference"}
_Told = TypeVar("_Told")


class RunRecord(launch.RunRecord):
    """What asked for a run, as the launcher has it. Times are seconds UTC."""

    trigger: str
    evidence: dict[str, str]
    data_uri: str
    since: float | None
    as_of: float


class RolloutRecord(rollout.RolloutRecord):
    """A roll-out, as the controller has it. Times are seconds UTC."""

    promoted_at: float | None
    ended: float | None


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ChapterRecord(_Record):
    """What is known of a version.

    Attributes:
        version: The version.
        bundle: Its folder.
        manifest: Run, trigger, data, code, libraries, parent, what it learned from and what the gate said.
        natural_rate: Share of frauds that its probabilities assume.
        review: Probability from which transactions are reviewed.
        block: Probability from which they are blocked.
        own: What a child has of its own: `thresholds`, `reference`; empty too where its parent's bundle is gone.
        asked: The launcher's record of the trigger; null where it has none, or is away.
        rollouts: Its roll-outs, newest first; none where the controller has none, or is away.
    """

    version: str
    bundle: str
    manifest: Manifest
    natural_rate: float
    review: float
    block: float
    own: tuple[str, ...]
    asked: RunRecord | None
    rollouts: tuple[RolloutRecord, ...]


class StoryRecord(ChapterRecord):
    """What `fraudctl model --json` prints.

    Attributes:
        summary: The story in a sentence or two.
        serves: Whether it is the champion; null where the controller is away.
        ancestors: Its parent, the parent's parent, and so on, as far as their bundles are here.
        away: What could not be asked, in words.
    """

    summary: str
    serves: bool | None
    ancestors: tuple[ChapterRecord, ...]
    away: tuple[str, ...]


class _Rollouts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    rollouts: tuple[RolloutRecord, ...]


class _Parts:
    """Asks launcher and controller; one that is away is not asked again."""

    def __init__(self, settings: Settings) -> None:
        self._launcher = settings.launcher.url.rstrip("/")
        self._controller = _controller(settings)
        self.away: dict[str, str] = {}

    def run(self, key: str) -> RunRecord | None:
        """The record of a trigger."""

        def get() -> RunRecord | None:
            try:
                found = ask(launch.PART, "GET", f"{self._launcher}/v1/runs/{quote(key, safe='')}")
            except InvalidInput:  # nobody asked it for that one
                return None
            return RunRecord.model_validate_json(found)

        return self._told(launch.PART, get)

    def champion(self) -> str | None:
        """Who serves."""
        found = self._told(rollout.PART, lambda: rollout.models(self._controller))
        return found.champion if found else None

    def rollouts(self) -> tuple[RolloutRecord, ...]:
        """All roll-outs, newest first."""

        def get() -> tuple[RolloutRecord, ...]:
            found = ask(rollout.PART, "GET", f"{self._controller}/v1/rollouts")
            return _Rollouts.model_validate_json(found).rollouts

        return self._told(rollout.PART, get) or ()

    def _told(self, part: str, get: Callable[[], _Told]) -> _Told | None:
        if part in self.away:
            return None
        try:
            return get()
        except (FraudError, ValidationError) as error:
            self.away[part] = f"the {part} is away: {str(error).splitlines()[0].removeprefix(f'the {part} at ')}"
            return None


def find(version: str | None, settings: Settings) -> Bundle:
    """The verified bundle of a version; of the one that serves, else of MLflow's champion, where none is named.

    Raises:
        InvalidInput: There is no such version, or no model yet.
    """
    served = None if version else _Parts(settings).champion()
    if served and BundleStore.of(settings).has(served):
        version = served
    return find_bundle(version, settings)


def story(version: str | None, settings: Settings) -> StoryRecord:
    """All that is known of a version; of the champion where none is named.

    Raises:
        InvalidInput: There is no such version.
        BundleError: Its bundle is damaged.
    """
    bundle, parts = find(version, settings), _Parts(settings)
    rollouts, champion = parts.rollouts(), parts.champion()
    line = _lineage(bundle, settings)
    runs = {key: parts.run(key) for key in dict.fromkeys(one.manifest.trigger for one in line)}
    chapters = [
        ChapterRecord(
            version=one.version,
            bundle=str(one.path),
            manifest=one.manifest,
            natural_rate=one.scorer.natural_rate,
            review=one.scorer.thresholds.review,
            block=one.scorer.thresholds.block,
            own=_own(one, parent),
            asked=runs[one.manifest.trigger],
            rollouts=tuple(found for found in rollouts if found.version == one.version),
        )
        for one, parent in zip(line, [*line[1:], None], strict=True)
    ]
    serves = None if rollout.PART in parts.away else champion == bundle.version
    return StoryRecord(
        **dict(chapters[0]),
        summary=_summary(chapters[0], serves),
        serves=serves,
        ancestors=tuple(chapters[1:]),
        away=tuple(parts.away.values()),
    )


def show(told: StoryRecord, console: Console) -> None:
    """For a person."""
    console.print(f"[bold]{told.version}[/]\n{escape(told.summary)}\n", highlight=False, soft_wrap=True)
    _chapter(told, bool(told.ancestors), console)
    for number, ancestor in enumerate(told.ancestors, start=1):
        console.print(f"\n[bold]{'Its' if number == 1 else 'Whose'} parent {ancestor.version}[/]", highlight=False)
        _chapter(ancestor, number < len(told.ancestors), console)
    for said in told.away:
        _print(console, "", f"{said[:1].upper()}{said[1:]}")


def _lineage(bundle: Bundle, settings: Settings) -> list[Bundle]:
    """A bundle, its parent, the parent's parent, and so on, as far as they are here."""
    line = [bundle]
    while (parent := line[-1].manifest.parent) and BundleStore.of(settings).has(parent):
        if any(one.version == parent for one in line):  # sealed again after it was deleted, as a child of its own
            break
        line.append(find_bundle(parent, settings))
    return line


def _own(bundle: Bundle, parent: Bundle | None) -> tuple[str, ...]:
    if parent is None:
        return ()
    own = ("thresholds",) if bundle.scorer.thresholds != parent.scorer.thresholds else ()
    changed = dict(bundle.manifest.files.items() ^ parent.manifest.files.items())
    return (*own, "reference") if any(name.startswith(f"{REFERENCE}/") for name in changed) else own


def _summary(chapter: ChapterRecord, serves: bool | None) -> str:
    origin, asked = chapter.manifest, chapter.asked
    if origin.parent:
        own = " and ".join(_OWN[name] for name in chapter.own) or "changes of its own"
        first = f"A child of {origin.parent} with {own}, made by {origin.by}: {origin.reason}"
    else:
        why = f"{asked.by} asked for it ({asked.reason})" if asked else f"it was asked for as {origin.trigger}"
        learned = f" on {_learned(origin.learned)}" if origin.learned else ""
        first = f"Trained{learned} by the run {origin.run}: {why}"
        if origin.gate:
            first += f"; the gate: {origin.gate.reason}, {origin.gate.message}"
    return f"{first.rstrip('.')}. {_became(chapter, serves)}"


def _became(chapter: ChapterRecord, serves: bool | None) -> str:
    """A sentence on what its newest roll-out came to."""
    if serves is None:
        return "Whether it serves is not known here."
    now = "it serves now" if serves else "it does not serve now"
    # What is made anew from another template has itself for a champion: that is no news of the model.
    own = next((one for one in chapter.rollouts if one.champion != one.version), None)
    return f"{_ended(own) if own else 'No roll-out of it is on record'}; {now}."


def _ended(one: RolloutRecord) -> str:
    """How a roll-out ended, or how far it is."""
    at = f" at {one.steps[-1].percent} %" if one.steps else ""
    through = ", ".join(str(step.percent) for step in one.steps if step.outcome == "pass")
    before = f"It took {through} % of the traffic and was" if through else "It was"
    match one.status:
        case "confirmed" if one.champion is None:
            return "It was the first model and took all traffic at once"
        case "provisional" | "confirmed" | "superseded" | "reversing" | "reversed":
            later = {
                "provisional": "provisionally, until labels confirm it",
                "confirmed": f"for good ({one.said[1]})",
                "superseded": "until a newer one was",
                "reversing": f"and is being taken back ({one.said[1]}: {one.said[2]})",
                "reversed": f"and taken back ({one.said[1]}: {one.said[2]})",
            }[one.status]
            return f"{before} promoted by {promoted_by(one)}, {later}"
        case "rolled_back" | "rolling_back":
            return f"It was rolled back{at} by {_hand(one, 'rollback') or POLICY} ({one.said[1]}: {one.said[2]})"
        case _:
            return f"Its roll-out goes on ({one.status}); {len(one.steps)} steps are over"


def promoted_by(one: RolloutRecord) -> str:
    """The name of the person who promoted a challenger, or the policy."""
    return _hand(one, "promote", one.promoted_at) or POLICY


def _hand(one: RolloutRecord, action: str, until: float | None = None) -> str | None:
    """Who did that last, until a moment [s, UTC]."""
    names = [hand.by for hand in one.hands if hand.action == action and (until is None or hand.at <= until)]
    return names[-1] if names else None


def _chapter(chapter: ChapterRecord, inherits: bool, console: Console) -> None:
    """Print what is known of a version; what it inherits is told with its parent, where that is told."""
    for name, text in (*_origin(chapter, inherits), *_service(chapter)):
        _print(console, name, text)


def _origin(chapter: ChapterRecord, inherits: bool) -> Iterator[tuple[str, str]]:
    origin, asked = chapter.manifest, chapter.asked
    if origin.parent:
        own = " and ".join(chapter.own) or "what cannot be told, because that bundle is not here"
        yield (
            "Child",
            f"of {origin.parent}; its own: {own}. Made {origin.created:%Y-%m-%d %H:%M} UTC by {origin.by}",
        )
        yield "Why", str(origin.reason)
    if not inherits or "reference" in chapter.own:
        yield "Run", f"{origin.run}, {origin.created:%Y-%m-%d %H:%M} UTC"
        yield "Key", origin.trigger
        if asked:
            yield "Asked", f"{_time(asked.asked)} by {asked.by}: {asked.reason}"
            evidence = ", ".join(f"{name} {value}" for name, value in asked.evidence.items())
            if evidence:
                yield "Evidence", evidence
            if asked.outcome:
                yield "Ended", f"{asked.outcome} ({asked.outcome_reason}): {asked.message}"
    if inherits:
        return
    if origin.learned:
        yield "Learned", f"{_learned(origin.learned)}; base data {origin.learned.uri}"
    yield "Data", origin.data
    yield "Code", f"{origin.code}; {', '.join(f'{name} {version}' for name, version in origin.libraries.items())}"
    if origin.gate:
        yield "Gate", f"{origin.gate.outcome} ({origin.gate.reason}): {origin.gate.message}"


def _service(chapter: ChapterRecord) -> Iterator[tuple[str, str]]:
    rates = f"probabilities at a fraud rate of {chapter.natural_rate:.4%}"
    yield "Alerts", f"review from {chapter.review:.3g}, block from {chapter.block:.3g}; {rates}"
    for one in reversed(chapter.rollouts):
        stable = f" instead of {one.champion}" if one.champion else ""
        yield "Roll-out", f"{one.key}{stable}, asked {_time(one.asked)} by {one.by}: {one.reason}"
        for step in one.steps:
            said = f"{step.outcome} ({step.reason}): {step.message}"
            yield "", f"{step.percent:>3} %, {step.requests:,} requests: {said}"
        for hand in one.hands:
            yield "", f"{_time(hand.at)} {hand.by}: {hand.action} ({hand.reason})"
        if one.promoted_at and one.champion:
            yield "", f"{_time(one.promoted_at)} promoted by {promoted_by(one)}"
        said = f": {one.said[1]}, {one.said[2]}" if one.said[1] else ""
        yield "", f"{_time(one.ended) + ' ' if one.ended else ''}{one.status}{said}"
    yield "Bundle", f"{chapter.bundle}; card.md there has its metrics"


def _learned(learned: Learned) -> str:
    (legitimate, frauds), (recent, recent_frauds) = learned.base, learned.recent
    text = f"{frauds:,} frauds and {legitimate:,} legitimate rows"
    if not learned.since or not learned.as_of:
        return text
    span = f"{learned.since:%Y-%m-%d %H:%M} to {learned.as_of:%Y-%m-%d %H:%M} UTC"
    return f"{text}, and {recent_frauds:,} frauds and {recent:,} legitimate ones of live traffic ({span})"


def _controller(settings: Settings) -> str:
    return (settings.rollout.url or f"http://127.0.0.1:{settings.rollout.port}").rstrip("/")


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _print(console: Console, name: str, text: str) -> None:
    console.print(f"[bold]{escape(name):<10}[/] {escape(text)}", highlight=False, soft_wrap=True)
