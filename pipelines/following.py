"""The task of the Kubeflow pipeline that follows a roll-out; its pod lives as long, so it imports little."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from fraudkit.settings import load_settings
from pipelines.controller import Rollout
from pipelines.outcome import result_of, rolled_out, tell
from pipelines.rollout_page import rollout_page


class Artifact(Protocol):
    """A KFP artifact."""

    path: str
    metadata: dict[str, Any]


class Registered(BaseModel):
    """What is read of the conclusion of a run that registered its model."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: str
    aliases: tuple[str, ...]
    offer: str = ""


def roll_out(
    trigger: str, attempt: int, settings: str, evaluation: Artifact, model: Artifact, rollout: Artifact
) -> None:
    """Have the model rolled out where there is a controller, follow and show that, and tell the launcher."""
    loaded = load_settings(**json.loads(settings))
    registered = Registered.model_validate_json(Path(model.path).read_bytes())
    verdict = evaluation.metadata
    result = result_of(verdict["reason"], verdict["message"], registered.version, registered)
    result, followed = rolled_out(result, trigger, loaded, print_rollout)
    rollout.metadata.update(outcome=result.outcome, reason=result.reason, message=result.message)
    Path(rollout.path).write_text(rollout_page(result, followed), encoding="utf-8")
    tell(result, trigger, attempt, loaded)


def print_rollout(rollout: Rollout) -> None:
    """A line of the task's log."""
    canary, (_, reason, message) = rollout.counts.canary.step, rollout.said
    seen = f"step {rollout.step + 1}, {canary.requests:,} requests of the canary, {canary.errors:,} errors"
    print(f"roll-out {rollout.key}: {rollout.status}, {seen}; {reason}: {message}", flush=True)  # noqa: T201
