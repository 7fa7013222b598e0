"""A source gone through more than once, though text is parsed only once: its numbers go to a temporary file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from fraudkit.schema import LABEL, FloatArray
from pipelines.data.rowhash import Hashes, content_hash
from pipelines.data.sources import COLUMNS, ONLY, Block, Complaints, Shard, Source

Blocks = Iterator[tuple[Block, Hashes]]


@dataclass(frozen=True, slots=True)
class Passes:
    """The passes over a shard.

    Attributes:
        first: Its blocks with the hashes of their rows; to be read to the end before anything else is.
        again: Gives them once more.
        outline: Gives Time and label [2, n] of all rows of the source, unchecked.
    """

    first: Blocks
    again: Callable[[], Blocks]
    outline: Callable[[], Iterator[FloatArray]]


class Spool:
    """Columns in an Arrow file, batch by batch: written first, and read once that is closed."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._schema = pa.schema([(name, pa.float64()) for name in names])
        self._writer = pa.ipc.new_file(str(path), self._schema)
        self._closed = False

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, columns: FloatArray) -> None:
        """Append a batch [m, n]; n may be 0."""
        self._writer.write_batch(pa.record_batch(list(columns), schema=self._schema))

    def close(self) -> None:
        """Make the file whole."""
        if not self._closed:
            self._closed = True
            self._writer.close()


def spooled(path: Path) -> Iterator[FloatArray]:
    """The batches [m, n] of a spool, in order and one at a time."""
    with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as reader:
        for i in range(reader.num_record_batches):
            yield np.stack([column.to_numpy() for column in reader.get_batch(i).columns])


@contextmanager
def passes(source: Source, complaints: Complaints, shard: Shard = ONLY) -> Iterator[Passes]:
    """The passes over a shard of `source`; `complaints` hears of what is wrong with its rows."""
    if source.kind == "parquet":

        def read() -> Blocks:
            return hashed(block for _, block in source.shard(shard, complaints) if block)

        yield Passes(read(), read, source.outline)
        return
    with tempfile.TemporaryDirectory(prefix="fraud-spool-") as folder:
        rows, outline = Path(folder) / "rows.arrow", Path(folder) / "outline.arrow"
        numbers: list[int] = []
        with Spool(rows, COLUMNS) as of_rows, Spool(outline, ("Time", LABEL)) as of_outline:

            def first() -> Iterator[Block]:
                for part, block in source.shard(shard, complaints):
                    of_outline.add(part)
                    if block:
                        of_rows.add(block.columns)
                        numbers.append(block.first_row)
                        yield block
                of_rows.close()
                of_outline.close()

            yield Passes(
                hashed(first()),
                lambda: hashed(map(Block, spooled(rows), numbers)),
                lambda: spooled(outline),
            )


def hashed(blocks: Iterator[Block]) -> Blocks:
    """Blocks with the content hashes [n] of their rows."""
    return ((block, content_hash(block.columns)) for block in blocks)
