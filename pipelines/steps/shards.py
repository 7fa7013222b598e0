"""Prepare in shards: each counts, profiles and keeps its own least hashes; one merge makes what one pass makes.

A shard alone cannot know which rows are held out. That depends on Time and label alone, so each shard looks at
these two of all rows, and all come to the same rule. The merge takes the shards one at a time and in any order.
"""

from __future__ import annotations

import heapq
from operator import itemgetter
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from fraudkit.errors import PermanentError, TemporaryError, Violation
from fraudkit.settings import Settings
from pipelines.data import holdout
from pipelines.data.fetch import download
from pipelines.data.passes import Spool, hashed, passes, spooled
from pipelines.data.recent import Span
from pipelines.data.rowhash import content_hash
from pipelines.data.scan import Scan
from pipelines.data.sources import BLOCK, COLUMNS, Complaints, Shard, open_source, without_secrets
from pipelines.records import Prepared
from pipelines.steps.prepare import (
    HOLDOUT_KEY,
    Divided,
    Progress,
    Sink,
    divide,
    empty_samples,
    finish,
    scan_blocks,
)

RECORD: Final = "shard.json"
HELD: Final = "held.arrow"
KEPT: Final = ("kept-legitimate.npz", "kept-fraud.npz")


class Record(BaseModel):
    """What a shard says of itself, beside its files.

    Attributes:
        index: Which one it is, from 0.
        of: How many there are.
        outline: Sum of the hashes of Time and label of all rows of the data: in each shard the same.
        rule: Which rows it held out; None where rows of it are not valid.
        sides: Its rows on both sides.
        blocks: First rows of its blocks, rising; `held.arrow` has a batch for each.
        violations: What is wrong with its rows, the first of it.
        total: How much is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    of: int
    outline: int = 0
    rule: holdout.Rule | None = None
    sides: holdout.Sides = holdout.Sides()
    blocks: tuple[int, ...] = ()
    violations: tuple[Violation, ...] = ()
    total: int = 0


def prepare_shard(
    uri: str, shard: Shard, settings: Settings, output: Path, progress: Progress = lambda *_: None
) -> None:
    """Prepare a shard of the data at `uri`, into the folder `output`, for `merge`.

    Rows of it that are not valid are noted, for `merge` to refuse them together with those of the other shards.

    Raises:
        InvalidInput: The data as a whole cannot be right; each shard says the same.
    """
    with open_source(uri, download) as source:
        complaints = Complaints(source.uri)
        with passes(source, complaints, shard) as data:
            scan = scan_blocks(data.first, settings.sampling.seed, None, progress)
            output.mkdir(parents=True, exist_ok=True)
            record = Record(
                index=shard.index, of=shard.of, violations=tuple(complaints.violations), total=complaints.total
            )
            if not complaints.total:
                rule = holdout.choose(data.outline, settings.data.holdout, HOLDOUT_KEY)
                with Spool(output / HELD, COLUMNS) as held:
                    divided = divide(data.again(), rule, settings, held)
                scan.save(output)
                for sample, name in zip(divided.kept, KEPT, strict=True):
                    sample.save(output / name)
                outline = sum(int(content_hash(part).sum(dtype=np.uint64)) for part in data.outline())
                found = {"outline": outline, "rule": rule, "sides": divided.sides, "blocks": tuple(scan.blocks)}
                record = record.model_copy(update=found)
    (output / RECORD).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


def merge(uri: str, shards: list[Path], settings: Settings, output: Path, span: Span | None = None) -> Prepared:
    """Make of all shards' folders, in any order, what `prepare` makes of the data at `uri`.

    A holdout that was frozen by another rule than that of the shards (another `data.holdout`) has all rows read
    once more, here.

    Raises:
        InvalidInput: The data cannot be right; what is wrong with rows of any shard is said together.
        TemporaryError: The data changed while the shards were at them.
        FraudError: A shard is missing, or as in `prepare`.
    """
    name = without_secrets(uri)
    records = [Record.model_validate_json((folder / RECORD).read_bytes()) for folder in shards]
    rule = _agreed(name, records)
    scan = Scan(settings.sampling.seed)
    for folder in shards:
        scan.merge_saved(folder)

    def split(wanted: holdout.Rule, sink: Sink | None) -> Divided:
        if wanted.same(rule):
            return _divided(shards, records, settings, sink)
        with open_source(uri, download) as source:
            return divide(hashed(source.blocks()), wanted, settings, sink)

    return finish(scan, name, settings, output, span, lambda: rule, split)


def _agreed(uri: str, records: list[Record]) -> holdout.Rule:
    """The rule of all shards, once it is sure that each is there, has valid rows, and saw the same data."""
    given = sorted(record.index for record in records)
    if any(given != list(range(record.of)) for record in records) or not records:
        raise PermanentError(f"of {records[0].of if records else 'all'} shards these are given: {given}")
    complaints = Complaints(uri)
    for record in records:
        complaints.add(list(record.violations), record.total)
    complaints.raise_any()
    rule, blocks = records[0].rule, sorted(number for record in records for number in record.blocks)
    seen = {(record.rule, record.outline) for record in records}
    if rule is None or len(seen) > 1 or blocks != list(range(1, blocks[-1] + 1, BLOCK)):
        raise TemporaryError(f"{uri} changed while its shards were prepared; start again")
    return rule


def _divided(folders: list[Path], records: list[Record], settings: Settings, sink: Sink | None) -> Divided:
    """What one pass over all rows would have divided."""
    sides, kept = holdout.Sides(), empty_samples(settings)
    pairs = list(zip(folders, records, strict=True))
    for folder, record in pairs:
        sides += record.sides
        for sample, name in zip(kept, KEPT, strict=True):
            sample.merge_saved(folder / name)
    if sink:
        batches = (zip(record.blocks, spooled(folder / HELD), strict=True) for folder, record in pairs)
        for _, columns in heapq.merge(*batches, key=itemgetter(0)):
            sink.add(columns)
    return Divided(sides, kept)
