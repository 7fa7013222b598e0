"""The frozen holdout: chosen with the first run on a data set, hashed, and reused by every later one.

It lives at `{bundles}/holdouts/{data id}/`: `holdout.parquet` with the rows, `record.json` with the rule.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from fraudkit.bundle import move
from fraudkit.errors import BundleError, InvalidInput
from fraudkit.schema import FloatArray
from pipelines.data.rowhash import Hashes, below, keyed
from pipelines.data.sources import BLOCK, COLUMNS, Block, parquet_file

FEWEST_FRAUDS: Final = 50
RATE_FACTOR: Final = 3.0
RECORD: Final = "record.json"
ROWS: Final = "holdout.parquet"


class Rule(BaseModel):
    """Which rows are held out.

    Attributes:
        kind: `time`: rows after `cut`; `hash`: by a keyed hash of each row's content, class by class.
        why: Why this kind.
        share: Share that was asked for.
        cut: Time [s] after which rows are held out.
        seed: Key of the hash.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["time", "hash"]
    why: str
    share: float
    cut: float | None = None
    seed: int = 0

    def held_out(self, block: Block, content: Hashes) -> NDArray[np.bool_]:
        """Which rows [n] of `block` are held out."""
        if self.cut is not None:
            held: NDArray[np.bool_] = block.columns[0] > self.cut
            return held
        return below(keyed(content, "holdout", self.seed), self.share)

    def same(self, other: Rule) -> bool:
        """Whether both hold out the same rows."""
        return self == other.model_copy(update={"why": self.why})


class Record(BaseModel):
    """What is frozen: the rule, the data it was applied to, and the hash of the rows.

    Attributes:
        data: Identity of the data set.
        rule: Which rows are held out.
        rows: How many they are.
        frauds: How many of them are frauds.
        sha256: Of `holdout.parquet`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    rule: Rule
    rows: int
    frauds: int
    sha256: str


@dataclass(slots=True)
class Sides:
    """Rows and frauds on both sides of a split."""

    train_rows: int = 0
    train_frauds: int = 0
    held_rows: int = 0
    held_frauds: int = 0

    def add(self, labels: FloatArray, held: NDArray[np.bool_]) -> None:
        """Count the rows of a block."""
        frauds = labels == 1.0
        self.held_rows += int(held.sum())
        self.held_frauds += int((frauds & held).sum())
        self.train_rows += int(held.size - held.sum())
        self.train_frauds += int((frauds & ~held).sum())

    def __add__(self, other: Sides) -> Sides:
        """Both counted together."""
        return Sides(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def time_rule(span: tuple[float, float], share: float) -> Rule | None:
    """The rule that holds out the last `share` of the time span, or None where there is no span."""
    start, end = span
    if end <= start:
        return None
    return Rule(
        kind="time",
        why=f"the last {share:.0%} of the time span",
        share=share,
        cut=end - share * (end - start),
    )


def hash_rule(why: str, share: float, seed: int) -> Rule:
    """The rule that holds out `share` of each class by keyed hash."""
    return Rule(kind="hash", why=f"{why}: split by keyed hash within each class", share=share, seed=seed)


def objection(sides: Sides) -> str | None:
    """Why a split by time does not serve, or None where it does."""
    fewest = min(sides.train_frauds, sides.held_frauds)
    if fewest < FEWEST_FRAUDS:
        return f"a split by time leaves {fewest} frauds on one side, fewer than {FEWEST_FRAUDS}"
    rates = sides.train_frauds / sides.train_rows, sides.held_frauds / sides.held_rows
    if max(rates) > RATE_FACTOR * min(rates):
        return (
            f"a split by time has fraud rates of {rates[0]:.2%} before and {rates[1]:.2%} after, "
            f"more than {RATE_FACTOR:g}-fold apart"
        )
    return None


def choose(outline: Callable[[], Iterable[FloatArray]], share: float, key: int) -> Rule:
    """The rule for new data: by time, or by hash where that does not serve.

    Args:
        outline: Gives Time and label [2, n] of all rows, part by part, each time it is called.
        share: Share to hold out.
        key: Of the hash.
    """
    ends = np.array([(part[0].min(), part[0].max()) for part in outline() if part.size])
    rule = time_rule((float(ends[:, 0].min()), float(ends[:, 1].max())), share)
    if rule is None:
        return hash_rule("the data have no time span", share, key)
    sides = Sides()
    for time, labels in outline():
        sides.add(labels, time > rule.cut)
    why = objection(sides)
    return rule if why is None else hash_rule(why, share, key)


class Writer:
    """Writes a holdout beside its final place; `freeze` gives it its name."""

    def __init__(self, holdouts: Path, data: str, publish: Callable[[Path, Path], None] = move) -> None:
        self._made = [folder for folder in (holdouts, *holdouts.parents) if not folder.exists()]
        holdouts.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix=f".{data[:12]}-", dir=holdouts)
        self._target = holdouts / data
        self._publish = publish
        self._data = data
        self._path = Path(self._folder.name) / data / ROWS
        self._path.parent.mkdir()
        schema = pa.schema([(name, pa.float64()) for name in COLUMNS])
        self._writer = pq.ParquetWriter(self._path, schema, compression="none", use_dictionary=False)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        self._folder.cleanup()
        with contextlib.suppress(OSError):  # what holds a frozen holdout is not empty and stays
            for folder in self._made:
                folder.rmdir()

    def add(self, columns: FloatArray) -> None:
        """Append rows [31, n]."""
        if columns.shape[1]:
            self._writer.write_table(pa.table(list(columns), schema=self._writer.schema))

    def freeze(self, rule: Rule, sides: Sides) -> Record:
        """Close the file and put it in its place; a holdout that is there already stays as it is."""
        self._writer.close()
        record = Record(
            data=self._data,
            rule=rule,
            rows=sides.held_rows,
            frauds=sides.held_frauds,
            sha256=_sha256(self._path),
        )
        (self._path.parent / RECORD).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        self._publish(self._path.parent, self._target)
        return load_record(self._target)


def load_record(folder: Path) -> Record:
    """The record of the frozen holdout in `folder`, with its hash verified.

    Raises:
        BundleError: The holdout is incomplete or was changed.
    """
    try:
        record = Record.model_validate_json((folder / RECORD).read_bytes())
        actual = _sha256(folder / ROWS)
    except OSError as error:
        raise BundleError(f"the frozen holdout in {folder} cannot be read: {error}") from error
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise BundleError(f"the frozen holdout in {folder}: {RECORD} cannot be read: {problem}") from error
    if actual != record.sha256:
        raise BundleError(f"{folder / ROWS} is not what was frozen; every comparison with it would be void")
    return record


def read_blocks(folder: Path) -> Iterator[Block]:
    """The rows of the frozen holdout in `folder`, block by block."""
    first_row = 1
    with parquet_file(folder / ROWS) as parquet:
        for batch in parquet.iter_batches(BLOCK):
            columns = np.stack([column.to_numpy() for column in batch.columns])
            yield Block(columns, first_row)
            first_row += batch.num_rows


def require_same(record: Record, sides: Sides, folder: Path) -> None:
    """Raise BundleError unless the rule of the record holds out as many rows and frauds as were frozen."""
    if (sides.held_rows, sides.held_frauds) != (record.rows, record.frauds):
        raise BundleError(
            f"the rule in {folder / RECORD} is not the one that chose {ROWS}; do not train beside it"
        )


def require_both_classes(sides: Sides, uri: str) -> None:
    """Raise InvalidInput when one side of the split has a class missing."""
    counts = (
        sides.train_frauds,
        sides.held_frauds,
        sides.train_rows - sides.train_frauds,
        sides.held_rows - sides.held_frauds,
    )
    if min(counts) < 1:
        raise InvalidInput(f"{uri}: too few rows of one class to train on some and hold others out")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
