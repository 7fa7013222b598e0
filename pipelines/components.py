"""The KFP components: each names its inputs and outputs and calls the step; no logic lives here.

The image must bring this project and kfp: nothing is installed when a task starts.
"""

# No `from __future__ import annotations` here: KFP reads the annotations as objects.
import functools
from typing import Final

from kfp import dsl

IMAGE: Final = "fraud-platform-pipelines:0.1.0"

component = functools.partial(dsl.component, base_image=IMAGE, install_kfp_package=False)


@component
def prepare(
    data_uri: str,
    since: str,
    as_of: str,
    settings: str,
    prepared: dsl.Output[dsl.Dataset],
    profile: dsl.Output[dsl.HTML],
) -> None:
    """Read, validate, look for leaks, profile, hold out and sample the transactions."""
    from pipelines import tasks

    tasks.prepare(data_uri, since, as_of, settings, prepared, profile)


@component
def prepare_shard(data_uri: str, shard: int, shards: int, settings: str, part: dsl.Output[dsl.Artifact]) -> None:
    """Read and validate a shard of the transactions; count, profile and sample it."""
    from pipelines import sharding

    sharding.prepare_shard(data_uri, shard, shards, settings, part)


@component
def merge_shards(
    data_uri: str,
    since: str,
    as_of: str,
    settings: str,
    parts: dsl.Input[list[dsl.Artifact]],
    prepared: dsl.Output[dsl.Dataset],
    profile: dsl.Output[dsl.HTML],
) -> None:
    """Make of all shards what one task makes: look for leaks, profile, hold out and sample."""
    from pipelines import sharding

    sharding.merge_shards(data_uri, since, as_of, settings, parts, prepared, profile)


@component
def train(settings: str, prepared: dsl.Input[dsl.Dataset], candidate: dsl.Output[dsl.Model]) -> None:
    """Fit the logistic regression and fold it into a scorer with its drift reference."""
    from pipelines import tasks

    tasks.train(settings, prepared, candidate)


@component
def evaluate(
    settings: str,
    prepared: dsl.Input[dsl.Dataset],
    candidate: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    classification: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    card: dsl.Output[dsl.Markdown],
) -> bool:
    """Measure the candidate on the frozen holdout; whether the gate lets it pass."""
    from pipelines import tasks

    return tasks.evaluate(settings, prepared, candidate, evaluation, metrics, classification, report, card)


@component
def register(
    run: str,
    trigger: str,
    settings: str,
    prepared: dsl.Input[dsl.Dataset],
    candidate: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    model: dsl.Output[dsl.Model],
) -> None:
    """Seal the candidate as a bundle and register it as challenger."""
    from pipelines import tasks

    tasks.register(run, trigger, settings, prepared, candidate, evaluation, model)


@component
def roll_out(
    trigger: str,
    attempt: int,
    settings: str,
    evaluation: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    rollout: dsl.Output[dsl.HTML],
) -> None:
    """Have the model rolled out, follow that, and tell the launcher how the run ended."""
    from pipelines import following

    following.roll_out(trigger, attempt, settings, evaluation, model, rollout)


@component
def reject(
    run: str,
    trigger: str,
    attempt: int,
    settings: str,
    prepared: dsl.Input[dsl.Dataset],
    candidate: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
) -> None:
    """Log the run, and tell the launcher how it ended; nothing is registered."""
    from pipelines import tasks

    tasks.reject(run, trigger, attempt, settings, prepared, candidate, evaluation)
