"""The tasks of the Kubeflow pipeline that prepare in shards; many pods run them at once, so they import little."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from fraudkit.errors import InvalidInput
from fraudkit.settings import load_settings
from pipelines.data.recent import Span
from pipelines.data.sources import Shard
from pipelines.following import Artifact
from pipelines.records import Prepared
from pipelines.steps import shards as step
from pipelines.steps.prepare import PROFILE


def prepare_shard(data_uri: str, shard: int, shards: int, settings: str, part: Artifact) -> None:
    """Prepare one of the shards of the data.

    Raises:
        InvalidInput: The data as a whole cannot be right.
    """
    loaded = load_settings(**json.loads(settings))
    step.prepare_shard(data_uri, Shard(shard, shards), loaded, Path(part.path), print_progress)


def merge_shards(
    data_uri: str,
    since: str,
    as_of: str,
    settings: str,
    parts: Sequence[Artifact],
    prepared: Artifact,
    profile: Artifact,
) -> None:
    """Make of all shards what one task makes of the data.

    Raises:
        InvalidInput: The data cannot be right, or only one of `since` and `as_of` is given.
    """
    loaded, folders = load_settings(**json.loads(settings)), [Path(part.path) for part in parts]
    found = step.merge(data_uri, folders, loaded, Path(prepared.path), span_of(since, as_of))
    show(found, prepared, profile)


def span_of(since: str, as_of: str) -> Span | None:
    """Which logged transactions are learned from as well; none where neither is given.

    Raises:
        InvalidInput: Only one of them is given.
    """
    if bool(since) != bool(as_of):
        alone = f"since is {since!r}" if since else f"as_of is {as_of!r}"
        raise InvalidInput(
            f"since and as_of go together: {alone}, and the other one is missing; give both or neither"
        )
    return Span(datetime.fromisoformat(since), datetime.fromisoformat(as_of)) if since else None


def show(found: Prepared, prepared: Artifact, profile: Artifact) -> None:
    """Put what was found onto the artifacts of a task."""
    prepared.metadata.update(data_sha256=found.identity, rows=found.rows, frauds=found.frauds)
    shutil.copyfile(Path(prepared.path) / PROFILE, profile.path)


def print_progress(done: int, total: int | None) -> None:
    """A line of the task's log."""
    print(f"read {done:,} of {total:,} rows" if total else f"read {done:,} rows", flush=True)  # noqa: T201
