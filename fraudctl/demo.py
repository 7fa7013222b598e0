"""The demo: the whole platform on this machine goes through a drift, and through models that must not stay."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape

from fraudctl import show
from fraudctl.launch import RunRecord
from fraudctl.model import story
from fraudctl.platform import Platform, require_ports
from fraudctl.records import (
    AuprcRecord,
    DemoRecord,
    DetectionRecord,
    RequestsRecord,
    RolledOutRecord,
    RunEndRecord,
    StepEndRecord,
    TrainRecord,
    TriggerRecord,
    VersionRecord,
    WatchedRecord,
    train_record,
)
from fraudctl.rollout import RolloutRecord, begin, wait_for_champion
from fraudctl.runs import find_bundle, synthesized, train_here
from fraudctl.story import Compared, Detection, Story, Watched
from fraudctl.traffic import Callers, Resampled, Synthesized
from fraudctl.up import stay
from fraudkit.bundle import Bundle
from fraudkit.errors import InvalidInput, PermanentError
from fraudkit.processes import READY_SECONDS
from fraudkit.settings import MODEL_NAME, Settings, load_settings

RUSHED: Final[Mapping[str, str]] = {
    # A day of `Time` passes in 20 s, so buckets are a second, and what waits for hours or days waits for seconds.
    "FRAUD__DETECTOR__BUCKET_SECONDS": "1",
    "FRAUD__DETECTOR__LATENESS_SECONDS": "1",
    "FRAUD__DETECTOR__IDLE_SECONDS": "5",
    "FRAUD__RETRAIN__COOLDOWN_HOURS": "0",
    "FRAUD__RETRAIN__HOUR_ROWS": "50",
    "FRAUD__LAUNCHER__POLL_SECONDS": "0.2",
    "FRAUD__ROLLOUT__POLL_SECONDS": "0.3",
    "FRAUD__ROLLOUT__LABEL_SECONDS": "1.5",
    "FRAUD__ROLLOUT__RULES__SKEW_ROWS": "100",
    "FRAUD__ROLLOUT__RULES__STEPS": json.dumps(
        [
            {"percent": percent, "requests": 160, "bake_seconds": 2, "limit_seconds": 60}
            for percent in (10, 25, 50, 100)
        ]
    ),
}
"""Settings of the demo beside the defaults; whoever sets one of these in the environment has it."""


SHOWN: Final = 5
"""Failed requests that are shown."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the acts saw."""

    clean: Watched
    detection: Detection
    after: Watched
    compared: Compared | None
    refused: RunRecord
    bad: RolloutRecord
    monthly: RunRecord
    promotion: RolloutRecord | None


def tell(
    data: str | None,
    settings: Settings,
    port: int,
    out: Console,
    errors: Console,
    *,
    leave: bool,
    record: Path | None,
) -> bool:
    """Tell the story; stay and serve unless `leave`; write the record to a file if asked for.

    Returns:
        Whether it went as it must.

    Raises:
        InvalidInput: A port is taken, or another demo runs in the state folder.
        PermanentError: The gate passed no first model, or a part failed.
    """
    began = time.monotonic()
    require_ports(settings, port)
    if record and not record.absolute().parent.is_dir():
        raise InvalidInput(f"there is no folder {record.absolute().parent} to write {record.name} to")
    uri = data or str(synthesized(settings, errors))
    seed = settings.sampling.seed
    world = Resampled(uri, seed) if data else Synthesized(seed)
    with _state(settings.state) as state:
        settings = _rushed(state)
        finished = train_here(uri, settings, errors)
        show.training(finished, out)
        if finished.conclusion.version is None:
            raise PermanentError(f"the gate passed no model: {finished.evaluation.verdict.message}")
        first = find_bundle(finished.conclusion.version, settings)
        with Platform(settings, port, uri, errors) as platform:
            begin(platform.controller, first.version, "bootstrap", "fraudctl demo", "the first model")
            wait_for_champion(platform.controller, READY_SECONDS)
            platform.wait_for_model()
            out.print(f"\n[bold cyan]Serves[/] {first.version} at {platform.url}/v1/models/{MODEL_NAME}:predict")
            with Callers(platform.url, platform.detector, world) as callers, errors.status("") as status:
                acts = Story(platform, callers, settings, uri, out, status.update, began)
                told = _told(acts, first, settings)
                requests = RequestsRecord(sent=callers.sent, failed=len(callers.failed))
            seconds = round(time.monotonic() - began, 1)
            ended = _record(told, acts, settings, train_record(finished), requests, seconds, owed=data is None)
            _conclude(ended, callers.failed, out)
            if record:
                record.write_text(ended.model_dump_json(indent=1) + "\n", encoding="utf-8")
            if not leave:
                out.print("\nAll parts go on until Ctrl-C.")
                stay(platform)
    return not ended.unmet


def _told(acts: Story, first: Bundle, settings: Settings) -> Told:
    clean = acts.clean()
    detection, drifted = acts.drift()
    run = acts.retrain(drifted)
    champion = first
    if run and run.version and run.outcome == "promoted":
        champion = find_bundle(run.version, settings)
    after, compared = acts.after(first, champion)
    # The monthly run comes before the outcomes by which the weak model is found out: they would be news to it.
    refused, monthly, bad = acts.refused(), acts.monthly(), acts.past_the_gate(champion)
    promotion = acts.labels(run)
    return Told(clean, detection, after, compared, refused, bad, monthly, promotion)


def _record(
    told: Told,
    acts: Story,
    settings: Settings,
    train: TrainRecord,
    requests: RequestsRecord,
    seconds: float,
    *,
    owed: bool,
) -> DemoRecord:
    runs, rollouts = acts.runs(), acts.rollouts()
    compared = told.compared
    return DemoRecord(
        seconds=seconds,
        versions=[
            VersionRecord(version=one.version, story=story(one.version, settings).summary) for one in rollouts
        ],
        train=train,
        clean=WatchedRecord(rows=told.clean.rows, verdicts=told.clean.verdicts),
        detection=DetectionRecord(
            rows=told.detection.rows, verdict=told.detection.verdict, channels=list(told.detection.channels)
        ),
        runs=[_run(run) for run in runs],
        rollouts=[_rollout(one) for one in rollouts if one.champion],
        auprc=None
        if compared is None
        else AuprcRecord(before=compared.before, after=compared.after, difference=compared.difference),
        after=WatchedRecord(rows=told.after.rows, verdicts=told.after.verdicts),
        requests=requests,
        triggers=[TriggerRecord(key=run.key, state=run.state, runs=run.attempt) for run in runs],
        unmet=[what for what, held in _promises(told, runs, requests, owed=owed) if not held],
    )


def _promises(
    told: Told, runs: tuple[RunRecord, ...], requests: RequestsRecord, *, owed: bool
) -> list[tuple[str, bool]]:
    """What must hold of the story, and whether it does; of a file's transactions less is known beforehand."""
    promises = [
        ("no request fails", requests.failed == 0),
        ("no trigger starts two runs", all(run.attempt <= 1 for run in runs)),
        ("the model of shuffled labels is refused by the gate", told.refused.outcome == "rejected"),
        ("the weak model is rolled back", told.bad.status == "rolled_back"),
    ]
    if owed:
        promises += [
            ("clean traffic is stable", _stable(told.clean)),
            ("the drift is seen", told.detection.verdict == "drift"),
            ("the model of the changed world is promoted", told.compared is not None),
            ("it is better there", told.compared is not None and told.compared.difference.low > 0),
            ("the changed world is stable under it", _stable(told.after)),
            ("the monthly run has no gain", told.monthly.outcome == "no_gain"),
            ("labels confirm the promotion", told.promotion is not None and told.promotion.status == "confirmed"),
        ]
    return promises


def _stable(watched: Watched) -> bool:
    """Whether no window said drift; some warn by chance, and the first ones of a model say nothing yet."""
    return "stable" in watched.verdicts and watched.verdicts.keys() <= {"stable", "warming_up", "warning"}


def _run(run: RunRecord) -> RunEndRecord:
    return RunEndRecord(
        key=run.key,
        by=run.by,
        version=run.version,
        outcome=run.outcome or run.status,
        reason=run.outcome_reason or "",
        message=run.message or "",
    )


def _rollout(one: RolloutRecord) -> RolledOutRecord:
    steps = [
        StepEndRecord(percent=step.percent, requests=step.requests, outcome=step.outcome) for step in one.steps
    ]
    return RolledOutRecord(version=one.version, outcome=one.status, reason=one.said[1], steps=steps)


def _conclude(ended: DemoRecord, failed: list[str], out: Console) -> None:
    doubled = sum(trigger.runs > 1 for trigger in ended.triggers)
    out.print(
        f"\n[bold]In {ended.seconds:.0f} s[/]: {ended.requests.sent:,} requests, {ended.requests.failed:,} failed",
        f"drift after {ended.detection.rows:,} transactions; {len(ended.triggers)} triggers, {doubled} doubled",
        sep="; ",
        highlight=False,
    )
    if ended.auprc:
        out.print(f"AUPRC in the changed world: {ended.auprc.before} → {ended.auprc.after}", highlight=False)
    for what in ended.unmet:
        out.print(f"[bold red]Not so[/]: {what}", highlight=False)
    for what in failed[:SHOWN]:
        out.print(f"  failed: {escape(what)}", highlight=False)


def _rushed(state: Path) -> Settings:
    """The settings of the demo: what waits for hours waits for seconds, and nothing leaves its folder.

    Raises:
        InvalidInput: A setting leads out of it.
    """
    for name, value in RUSHED.items():
        os.environ.setdefault(name, value)
    settings = load_settings(state=state)
    elsewhere = {
        "bundles": settings.bundles,
        "tracking.uri": settings.tracking.uri,
        "detector.database": settings.detector.database,
        "launcher.database": settings.launcher.database,
        "launcher.backend": settings.launcher.backend != "local",
        "rollout.target": settings.rollout.target != "local",
    }
    if led := [name for name, value in elsewhere.items() if value]:
        raise InvalidInput(
            f"the demo keeps to its own folder, and these settings lead out of it: {', '.join(led)}"
        )
    return settings


@contextmanager
def _state(outer: Path) -> Iterator[Path]:
    """A state folder of the demo's own, begun anew: each demo is the first one."""
    outer.mkdir(parents=True, exist_ok=True)
    with (outer / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidInput(f"another demo runs in {outer}; FRAUD_STATE names another folder") from None
        folder = (outer / "demo").absolute()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
