"""Uploaded files: kept for a while for who sent them, and scored by the model, a few rows at a time.

The cells and the numbers of a file lie in a folder of its own; only what the model says of it is in memory.
"""

from __future__ import annotations

import asyncio
import atexit
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import structlog
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from fraudkit.errors import FraudError, InvalidInput, Violation
from fraudkit.schema import INPUTS, FloatArray
from fraudkit.scoring import ALERTS
from fraudkit.settings import MODEL_NAME, ConsoleSettings
from serving.console.access import RefusedError, Visitor
from serving.console.peers import Peer, PeerError
from serving.console.records import Read
from serving.console.tables import first_line, pieces

LOT_ROWS: Final = 2_000
"""Rows of a request to the model: others' requests wait for no more than these."""
IN_FLIGHT: Final = 2
KEEP_SECONDS: Final = 3_600.0
KEEP_OWN: Final = 4
"""Files that are kept of one visitor; a new one replaces the oldest."""
KEEP_ALL: Final = 16
AT_WORK: Final = 4
"""Files that are received or scored at a time; beyond, 429."""
MOST_BAD: Final = 100_000
"""Rows of a file that may be wrong; beyond, it is another kind of file."""
SCORE_SECONDS: Final = 30.0
LONGEST_ID: Final = 256
CELLS: Final = "cells.arrow"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Results:
    """What became of the n rows of a file, in its order.

    Attributes:
        rows: The inputs [n, 30], on disk.
        ids: Names [n] under which the model was asked, and its log keeps them.
        probabilities: Of fraud [n]; NaN where a row could not be scored.
        levels: Index into `ALERTS` [n]; -1 where a row could not be scored.
        versions: Versions of the model that answered.
        answered: Index into `versions` [n].
        problems: What is wrong with a row, by its place.
        first: Number of the first row as a reader of the file counts.
    """

    rows: FloatArray
    ids: pa.Array
    probabilities: FloatArray
    levels: NDArray[np.int8]
    versions: list[str]
    answered: NDArray[np.int16]
    problems: dict[int, Violation]
    first: int


@dataclass(slots=True)
class Upload:
    """A file that somebody sent.

    Attributes:
        id: Its unguessable name.
        owner: Who sent it; nobody else sees it.
        name: As it was called there.
        folder: Where it lies.
        at: When it came.
        stage: How far it is.
        done: Rows that this stage has done.
        digest: SHA-256 of its bytes.
        problem: Why it failed.
        results: What became of it, once it is read.
    """

    id: str
    owner: str
    name: str
    folder: Path
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    stage: Literal["receiving", "waiting", "reading", "scoring", "done", "failed"] = "receiving"
    done: int = 0
    digest: str = ""
    problem: str = ""
    results: Results | None = None

    @property
    def file(self) -> Path:
        """The file itself."""
        return self.folder / "file"

    @property
    def over(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.stage in ("done", "failed")


class _Output(Read):
    name: str
    data: list[float] | list[str]


class _Answer(Read):
    model_version: str
    outputs: tuple[_Output, _Output]


class Uploads:
    """The files of all visitors.

    Args:
        model: Who scores.
        settings: How large a file may be.
    """

    def __init__(self, model: Peer, settings: ConsoleSettings) -> None:
        self._model = model
        self._settings = settings
        self._kept: dict[str, Upload] = {}
        self._turn = asyncio.Semaphore(1)
        self._tasks: set[asyncio.Task[None]] = set()

    @cached_property
    def _folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="fraud-console-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def of(self, visitor: Visitor) -> list[Upload]:
        """The files of a visitor, the latest first."""
        return [one for one in reversed(self._kept.values()) if one.owner == visitor.name]

    def get(self, name: str, visitor: Visitor) -> Upload:
        """A file of a visitor.

        Raises:
            RefusedError: It is not kept, or somebody else's.
        """
        found = self._kept.get(name)
        if found is None or found.owner != visitor.name:
            raise RefusedError(404, "this file is not kept any longer, or is not yours; send it again")
        return found

    def begin(self, visitor: Visitor, name: str) -> Upload:
        """A place for a file that is about to come.

        Raises:
            RefusedError: Too many come or are scored already.
        """
        if sum(not one.over for one in self._kept.values()) >= AT_WORK:
            raise RefusedError(429, f"{AT_WORK} files are being scored already; try again when one is done")
        for kept, most in ((self.of(visitor), KEEP_OWN), (list(reversed(self._kept.values())), KEEP_ALL)):
            for old in [one for one in kept if one.over][max(most - 1 - sum(not one.over for one in kept), 0) :]:
                self.forget(old)
        made = Upload(secrets.token_urlsafe(18), visitor.name, name, self._folder / secrets.token_hex(8))
        made.folder.mkdir()
        self._kept[made.id] = made
        return made

    def forget(self, upload: Upload) -> None:
        """Keep a file no longer."""
        self._kept.pop(upload.id, None)
        shutil.rmtree(upload.folder, ignore_errors=True)

    def start(self, upload: Upload) -> None:
        """Score a file that is all here."""
        upload.stage = "waiting"
        task = asyncio.create_task(self._work(upload))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        asyncio.get_running_loop().call_later(KEEP_SECONDS, self.forget, upload)

    async def _work(self, upload: Upload) -> None:
        try:
            async with self._turn:
                upload.stage = "reading"
                upload.results = await run_in_threadpool(self._read, upload)
                upload.stage, upload.done = "scoring", 0
                await self._score(upload, upload.results)
            upload.stage = "done"
        except (FraudError, PeerError) as error:
            upload.problem = str(error)
        except OSError as error:
            upload.problem = f"this machine cannot keep the file: {error}"
        finally:
            if upload.stage != "done":
                upload.stage = "failed"
                upload.problem = upload.problem or "this has failed; the log of this page says how"
                log.warning("file not scored", file=upload.name, by=upload.owner, reason=upload.problem)

    def _read(self, upload: Upload) -> Results:
        """Put cells and numbers where they can be read piece by piece."""
        problems: dict[int, Violation] = {}
        own: list[pa.Array] = []
        numbers, writer = upload.folder / "rows", None
        try:
            with numbers.open("wb") as file:
                for piece in pieces(upload.file, self._settings.upload_rows, self._settings.upload_bytes):
                    if writer is None:
                        writer = pa.ipc.new_file(str(upload.folder / CELLS), piece.cells.schema)
                    writer.write_batch(piece.cells)
                    piece.rows.tofile(file)
                    problems |= {upload.done + place: problem for place, problem in piece.problems.items()}
                    if len(problems) > MOST_BAD:
                        raise InvalidInput(
                            f"more than {MOST_BAD:,} rows are wrong, such as: {next(iter(problems.values()))}"
                        )
                    if "id" in piece.cells.schema.names:
                        own.append(pc.cast(piece.cells.column("id"), pa.string()))
                    upload.done += len(piece.rows)
        finally:
            if writer is not None:
                writer.close()
        if not upload.done:
            raise InvalidInput("the file has no rows")
        count, first = upload.done, first_line(upload.file)
        upload.file.unlink()
        return Results(
            rows=np.memmap(numbers, np.float64, "r", shape=(count, len(INPUTS))),
            ids=row_ids(own, count, upload.digest, first),
            probabilities=np.full(count, np.nan),
            levels=np.full(count, -1, np.int8),
            versions=[],
            answered=np.zeros(count, np.int16),
            problems=problems,
            first=first,
        )

    async def _score(self, upload: Upload, results: Results) -> None:
        """Have the sound rows scored."""
        sound = np.ones(len(results.rows), bool)
        sound[list(results.problems)] = False
        places = np.flatnonzero(sound)
        lots = [places[i : i + LOT_ROWS] for i in range(0, len(places), LOT_ROWS)]
        upload.done = len(results.problems)
        for i in range(0, len(lots), IN_FLIGHT):
            await asyncio.gather(*(self._score_lot(upload, results, lot) for lot in lots[i : i + IN_FLIGHT]))

    async def _score_lot(self, upload: Upload, results: Results, lot: NDArray[np.int64]) -> None:
        rows = np.ascontiguousarray(results.rows[lot], "<f8")
        answer = await self._ask(rows, results.ids.take(pa.array(lot)).to_pylist())
        said = {output.name: output.data for output in answer.outputs}
        results.probabilities[lot] = said["probability"]
        results.levels[lot] = [ALERTS.index(alert) for alert in said["alert"]]
        if answer.model_version not in results.versions:
            results.versions.append(answer.model_version)
        results.answered[lot] = results.versions.index(answer.model_version)
        upload.done += len(lot)

    async def _ask(self, rows: FloatArray, ids: Sequence[str]) -> _Answer:
        """The model's answer about rows [n, 30], asked once more where that may help."""
        matrix = {"name": "rows", "datatype": "FP64", "shape": rows.shape}
        names = {"name": "id", "datatype": "BYTES", "shape": [len(ids)], "data": ids}
        head = orjson.dumps(
            {
                "inputs": [matrix | {"parameters": {"binary_data_size": rows.nbytes}}, names],
                "outputs": [{"name": "probability"}, {"name": "alert"}],
            }
        )
        headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
        body, path = head + rows.tobytes(), f"/v2/models/{MODEL_NAME}/infer"
        try:
            answer = await self._model.send("POST", path, SCORE_SECONDS, content=body, headers=headers)
        except PeerError as error:
            if error.status is not None and error.status != 429 and error.status < 500:
                raise
            await asyncio.sleep(1.0)
            answer = await self._model.send("POST", path, SCORE_SECONDS, content=body, headers=headers)
        return self._model.read(answer, _Answer)


def row_ids(own: Sequence[pa.Array], count: int, digest: str, first: int) -> pa.Array:
    """Names of the rows of a file: its column `id` where that can name them, else from its content and the line.

    The same file has the same names again, so that the log takes nothing twice for two transactions.
    """
    if own:
        ids = pa.concat_arrays(own)
        length = pc.utf8_length(ids)
        sound = pc.and_(
            pc.utf8_is_printable(ids), pc.and_(pc.greater(length, 0), pc.less_equal(length, LONGEST_ID))
        )
        if not ids.null_count and pc.all(sound).as_py() and pc.count_distinct(ids).as_py() == count:
            return ids
    lines = pc.cast(pa.array(np.arange(first, first + count)), pa.string())
    return pc.binary_join_element_wise(f"file-{digest[:10]}", lines, "-")
