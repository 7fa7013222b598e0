"""Prepare: read, validate, look for leaks, profile, hold out, and keep what training will draw from."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from fraudkit.settings import Settings
from pipelines.data import holdout, recent
from pipelines.data.fetch import download
from pipelines.data.leakage import refuse_leaks, separation
from pipelines.data.profile import write_profile
from pipelines.data.rowhash import Hashes, content_hash, keyed
from pipelines.data.sampling import BottomK
from pipelines.data.scan import Scan
from pipelines.data.sources import COLUMNS, Block, Source, open_source
from pipelines.records import KEPT, PREPARED, Prepared

KEPT_LEGITIMATE: Final = 300_000
"""Legitimate training rows kept: enough for 30 per fraud at 10,000 frauds, and all of a ULB-sized set."""
KEPT_FRAUDS: Final = 200_000
HOLDOUT_KEY: Final = 0
"""Key of every split by hash, whatever the seed: a row is on the same side in every data set that has it, so that
no champion is measured on what it was trained on."""
PROFILE: Final = "profile.html"

Progress = Callable[[int, int | None], None]
"""Called with rows done and rows in all, where that is known."""


def prepare(
    uri: str,
    settings: Settings,
    output: Path,
    progress: Progress = lambda *_: None,
    span: recent.Span | None = None,
) -> Prepared:
    """Prepare the data at `uri` for training, into the folder `output`; nothing is written for bad data.

    Args:
        uri: The base data.
        settings: The settings.
        output: The folder.
        progress: Hears of rows that were read.
        span: Which logged transactions are learned from as well.

    Raises:
        InvalidInput: The data cannot be right; the message names what and where.
        FraudError: The detector does not give what it logged.
    """
    seed = settings.sampling.seed
    with open_source(uri, download) as source, _twice(source) as (first, again):
        scan = _scan(first, seed, source.total_rows, progress)
        scan.require_both_classes(source.uri)
        separations = separation(*(sample.result()[1].T[:-1] for sample in scan.samples))
        refuse_leaks(separations, settings.data.leak_auc, scan.counts, source.uri)
        split = _split(again, scan, settings, source.uri)
    output.mkdir(parents=True, exist_ok=True)
    write_profile(scan, source.uri, output / PROFILE)
    live = recent.gather(span, settings, output) if span else None
    training = split.sides.train_rows - split.sides.train_frauds, split.sides.train_frauds
    prepared = Prepared(
        uri=source.uri,
        data=scan.identity(),
        rows=scan.rows,
        frauds=scan.counts[1],
        duplicates=scan.duplicates.count(),
        training=training,
        kept=_write_kept(split.kept, output),
        natural_rate=settings.data.natural_rate or (live.natural_rate if live else training[1] / sum(training)),
        separations=separations,
        holdout=split.record,
        seed=seed,
        recent=live,
    )
    (output / PREPARED).write_text(prepared.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return prepared


def profile_alone(uri: str, page: Path, progress: Progress = lambda *_: None) -> None:
    """Write the profile of the data at `uri` to the file `page`, and nothing else.

    Raises:
        InvalidInput: The data cannot be right.
    """
    with open_source(uri, download) as source:
        scan = _scan(_hashed(source.blocks()), 0, source.total_rows, progress)
    scan.require_both_classes(source.uri)
    write_profile(scan, source.uri, page)


@dataclass(frozen=True, slots=True)
class _Split:
    record: holdout.Record
    sides: holdout.Sides
    kept: tuple[BottomK, BottomK]


Blocks = Iterator[tuple[Block, Hashes]]


@contextmanager
def _twice(source: Source) -> Iterator[tuple[Blocks, Callable[[], Blocks]]]:
    """The blocks of `source` with their content hashes, and a way to have them again without parsing."""
    with tempfile.TemporaryDirectory(prefix="fraud-spool-") as folder:
        if source.kind == "parquet":
            yield _hashed(source.blocks()), lambda: _hashed(source.blocks())
        else:
            spool = Path(folder) / "rows.arrow"
            yield _hashed(_spooling(source.blocks(), spool)), lambda: _hashed(_spooled(spool))


def _hashed(blocks: Iterator[Block]) -> Blocks:
    return ((block, content_hash(block.columns)) for block in blocks)


def _spooling(blocks: Iterator[Block], spool: Path) -> Iterator[Block]:
    schema = pa.schema([(name, pa.float64()) for name in COLUMNS])
    with pa.ipc.new_file(str(spool), schema) as writer:
        for block in blocks:
            writer.write_batch(pa.record_batch(list(block.columns), schema=schema))
            yield block


def _spooled(spool: Path) -> Iterator[Block]:
    first_row = 1
    with pa.memory_map(str(spool)) as mapped, pa.ipc.open_file(mapped) as reader:
        for i in range(reader.num_record_batches):
            batch = reader.get_batch(i)
            yield Block(np.stack([column.to_numpy() for column in batch.columns]), first_row)
            first_row += batch.num_rows


def _scan(blocks: Blocks, seed: int, total: int | None, progress: Progress) -> Scan:
    scan = Scan(seed)
    done = 0
    for block, content in blocks:
        scan.add(block, content)
        done += content.size
        progress(done, total)
    return scan


def _split(again: Callable[[], Blocks], scan: Scan, settings: Settings, uri: str) -> _Split:
    """Split by the rule that is frozen with this data set, else by time, else by hash; freeze what is new."""
    holdouts = settings.bundle_folder / "holdouts"
    folder = holdouts / scan.identity()
    if folder.is_dir():
        record = holdout.load_record(folder)
        sides, kept = _divide(again(), record.rule, settings, None)
        holdout.require_same(record, sides, folder)
        return _Split(record, sides, kept)
    rule = holdout.time_rule(scan.time_span(), settings.data.holdout)
    if rule:
        with holdout.Writer(holdouts, scan.identity()) as writer:
            sides, kept = _divide(again(), rule, settings, writer)
            why = holdout.objection(sides)
            if why is None:
                holdout.require_both_classes(sides, uri)
                return _Split(writer.freeze(rule, sides), sides, kept)
    else:
        why = "the data have no time span"
    rule = holdout.hash_rule(why, settings.data.holdout, HOLDOUT_KEY)
    with holdout.Writer(holdouts, scan.identity()) as writer:
        sides, kept = _divide(again(), rule, settings, writer)
        holdout.require_both_classes(sides, uri)
        return _Split(writer.freeze(rule, sides), sides, kept)


def _divide(
    blocks: Blocks, rule: holdout.Rule, settings: Settings, writer: holdout.Writer | None
) -> tuple[holdout.Sides, tuple[BottomK, BottomK]]:
    """One pass: held-out rows to the writer, a sample by class of the others."""
    sides = holdout.Sides()
    per_class = settings.sampling.per_class
    kept = (
        BottomK(max(KEPT_LEGITIMATE, per_class), len(COLUMNS)),
        BottomK(max(KEPT_FRAUDS, per_class), len(COLUMNS)),
    )
    for block, content in blocks:
        held = rule.held_out(block, content)
        sides.add(block.labels, held)
        if writer:
            writer.add(block.columns[:, held])
        order = keyed(content, "sample", settings.sampling.seed)
        for label in (0, 1):
            chosen = ~held & (block.labels == label)
            kept[label].add(order[chosen], block.columns[:, chosen])
    return sides, kept


def _write_kept(kept: tuple[BottomK, BottomK], folder: Path) -> tuple[int, int]:
    """Write the inputs of the kept rows, a plain array a class; how many rows there are of each."""
    counts = []
    for sample, name in zip(kept, KEPT, strict=True):
        rows = sample.result()[1][:, :-1]
        np.save(folder / name, rows)
        counts.append(len(rows))
    return counts[0], counts[1]
