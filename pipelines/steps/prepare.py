"""Prepare: read, validate, look for leaks, profile, hold out, and keep what training will draw from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from fraudkit.bundle_store import HOLDOUTS, BundleStore
from fraudkit.schema import FloatArray
from fraudkit.settings import Settings
from pipelines.data import holdout, recent
from pipelines.data.fetch import download
from pipelines.data.leakage import refuse_leaks, separation
from pipelines.data.passes import Blocks, hashed, passes
from pipelines.data.profile import write_profile
from pipelines.data.rowhash import keyed
from pipelines.data.sampling import BottomK
from pipelines.data.scan import Scan
from pipelines.data.sources import COLUMNS, Complaints, open_source
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
    with open_source(uri, download) as source:
        complaints = Complaints(source.uri)
        with passes(source, complaints) as data:
            scan = scan_blocks(data.first, settings.sampling.seed, source.total_rows, progress)
            complaints.raise_any()

            def choose() -> holdout.Rule:
                return holdout.choose(data.outline, settings.data.holdout, HOLDOUT_KEY)

            def split(rule: holdout.Rule, sink: Sink | None) -> Divided:
                return divide(data.again(), rule, settings, sink)

            return finish(scan, source.uri, settings, output, span, choose, split)


def finish(
    scan: Scan,
    uri: str,
    settings: Settings,
    output: Path,
    span: recent.Span | None,
    choose: Callable[[], holdout.Rule],
    split: Callable[[holdout.Rule, Sink | None], Divided],
) -> Prepared:
    """Check what was scanned, hold out, and write what the other steps need to `output`.

    Args:
        scan: Of all rows.
        uri: What the data are called.
        settings: The settings.
        output: The folder.
        span: Which logged transactions are learned from as well.
        choose: Gives the rule for data without a frozen holdout.
        split: Divides the rows by a rule; held-out ones go to the sink, in the order of the rows.

    Raises:
        InvalidInput: The data cannot be right.
        FraudError: The frozen holdout is not what it was, or the detector does not give what it logged.
    """
    scan.require_both_classes(uri)
    separations = separation(*(sample.result()[1].T[:-1] for sample in scan.samples))
    refuse_leaks(separations, settings.data.leak_auc, scan.counts, uri)
    record, divided = _freeze(scan.identity(), uri, settings, choose, split)
    output.mkdir(parents=True, exist_ok=True)
    write_profile(scan, uri, output / PROFILE)
    live = recent.gather(span, settings, output) if span else None
    sides = divided.sides
    training = sides.train_rows - sides.train_frauds, sides.train_frauds
    prepared = Prepared(
        uri=uri,
        data=scan.identity(),
        rows=scan.rows,
        frauds=scan.counts[1],
        duplicates=scan.duplicates.count(),
        training=training,
        kept=_write_kept(divided.kept, output),
        natural_rate=settings.data.natural_rate or (live.natural_rate if live else training[1] / sum(training)),
        separations=separations,
        holdout=record,
        seed=settings.sampling.seed,
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
        scan = scan_blocks(hashed(source.blocks()), 0, source.total_rows, progress)
    scan.require_both_classes(source.uri)
    write_profile(scan, source.uri, page)


class Sink(Protocol):
    """What takes rows that are held out."""

    def add(self, columns: FloatArray) -> None:
        """Take rows [31, n]."""


@dataclass(frozen=True, slots=True)
class Divided:
    """Rows divided by a rule.

    Attributes:
        sides: How many are on each side.
        kept: A sample of each class of those that are not held out, legitimate first.
    """

    sides: holdout.Sides
    kept: tuple[BottomK, BottomK]


def scan_blocks(blocks: Blocks, seed: int, total: int | None, progress: Progress) -> Scan:
    """One pass: what is learned before rows are divided."""
    scan = Scan(seed)
    done = 0
    for block, content in blocks:
        scan.add(block, content)
        done += content.size
        progress(done, total)
    return scan


def divide(blocks: Blocks, rule: holdout.Rule, settings: Settings, sink: Sink | None) -> Divided:
    """One pass: held-out rows to the sink, a batch for each block; a sample by class of the others."""
    sides, kept = holdout.Sides(), empty_samples(settings)
    for block, content in blocks:
        held = rule.held_out(block, content)
        sides.add(block.labels, held)
        if sink:
            sink.add(block.columns[:, held])
        order = keyed(content, "sample", settings.sampling.seed)
        for label in (0, 1):
            chosen = ~held & (block.labels == label)
            kept[label].add(order[chosen], block.columns[:, chosen])
    return Divided(sides, kept)


def empty_samples(settings: Settings) -> tuple[BottomK, BottomK]:
    """What training rows are kept in, by class."""
    per_class = settings.sampling.per_class
    return (
        BottomK(max(KEPT_LEGITIMATE, per_class), len(COLUMNS)),
        BottomK(max(KEPT_FRAUDS, per_class), len(COLUMNS)),
    )


def _freeze(
    data: str,
    uri: str,
    settings: Settings,
    choose: Callable[[], holdout.Rule],
    split: Callable[[holdout.Rule, Sink | None], Divided],
) -> tuple[holdout.Record, Divided]:
    """Split by the rule that is frozen with this data set, else by a new one, which is then frozen."""
    store = BundleStore.of(settings)
    folder = store.find(f"{HOLDOUTS}/{data}", holdout.RECORD)
    if folder:
        record = holdout.load_record(folder)
        divided = split(record.rule, None)
        holdout.require_same(record, divided.sides, folder)
        return record, divided
    rule = choose()
    publish = partial(store.publish, last=holdout.RECORD)
    with holdout.Writer(store.folder / HOLDOUTS, data, publish) as writer:
        divided = split(rule, writer)
        holdout.require_both_classes(divided.sides, uri)
        return writer.freeze(rule, divided.sides), divided


def _write_kept(kept: tuple[BottomK, BottomK], folder: Path) -> tuple[int, int]:
    """Write the inputs of the kept rows, a plain array a class; how many rows there are of each."""
    counts = []
    for sample, name in zip(kept, KEPT, strict=True):
        rows = sample.result()[1][:, :-1]
        np.save(folder / name, rows)
        counts.append(len(rows))
    return counts[0], counts[1]
