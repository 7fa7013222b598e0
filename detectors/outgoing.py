"""The events of a verdict. Their content and ids depend on the window alone: computed again they are the same."""

from __future__ import annotations

from collections.abc import Sequence

from detectors.channels import Level, Reading, quality
from detectors.episodes import Judged
from detectors.records import moment
from detectors.store.windows import Outgoing
from fraudkit.events import DataQuality, DriftCleared, DriftDetected, EventData, Evidence, encode
from fraudkit.settings import MODEL_NAME


def happenings(
    version: str,
    verdict: str,
    begins: float,
    ends: float,
    readings: Sequence[Reading],
    judged: Judged,
    source: str,
) -> tuple[Outgoing, ...]:
    """What the verdict on a window from `begins` to `ends` [s, UTC] tells the world."""
    events: list[EventData] = []
    speaking = [one for one in readings if one.level in (Level.DRIFT, Level.WARNING)]
    if judged.raised and judged.state.start is not None:
        events.append(
            DriftDetected(
                model=MODEL_NAME,
                version=version,
                episode_start=moment(judged.state.start),
                verdict_id=verdict,
                channel=judged.reason,
                message=judged.message,
                evidence=evidence([one for one in speaking if one.level is Level.DRIFT]),
            )
        )
    if judged.cleared is not None:
        events.append(
            DriftCleared(
                model=MODEL_NAME,
                version=version,
                episode_start=moment(judged.cleared),
                cleared_at=moment(ends),
                verdict_id=verdict,
            )
        )
    if judged.quality:
        bad = [one for one in speaking if one.channel == quality.CHANNEL]
        events.append(
            DataQuality(
                model=MODEL_NAME,
                version=version,
                begins=moment(begins),
                verdict_id=verdict,
                message=bad[0].message,
                evidence=evidence(bad),
            )
        )
    return tuple(outgoing(event, source, ends) for event in events)


def outgoing(event: EventData, source: str, time: float) -> Outgoing:
    """An event of `time` [s, UTC] as it is kept and sent."""
    return Outgoing(event.id, event.type, encode(event, source, moment(time)))


def evidence(readings: Sequence[Reading]) -> tuple[Evidence, ...]:
    """The numbers that are beyond their thresholds, at most ten of a channel."""
    return tuple(
        Evidence(
            channel=reading.channel,
            name=statistic.name,
            subject=statistic.subject,
            value=statistic.value,
            threshold=statistic.threshold,
        )
        for reading in readings
        for statistic in [one for one in reading.statistics if one.beyond][:10]
    )
