"""Files over HTTP, resumed and verified, and the public ULB credit-card set from OpenML.

OpenML describes data set 1597 in JSON: where its ARFF file is and the MD5 of that file, which has all 31
columns. OpenML marks Time as the row identifier, so readers that honour the mark (`fetch_openml`) lose it;
hence the file itself is read here: a header, then comma-separated rows with Class in quotes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse, InvalidURL
from io import BufferedRandom, BufferedReader
from pathlib import Path
from time import sleep
from typing import Final, cast
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from fraudkit.errors import InvalidInput, PermanentError, TemporaryError
from fraudkit.schema import INPUTS, LABEL, check_columns
from pipelines.data.sources import without_secrets

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and, where the server says so, how many there will be."""

OPENML: Final = "https://www.openml.org"
ROWS: Final = 284_807
LIMIT: Final = 1 << 30
"""Largest download [bytes], so that a bad server cannot fill the disk."""
ATTEMPTS: Final = 5
PATIENCE: Final = 120
"""Longest wait [s] that a server may ask for between two attempts."""
_TIMEOUT: Final = 30.0
_TYPES: Final = {**dict.fromkeys(INPUTS, pa.float64()), LABEL: pa.string()}
_SCHEMA: Final = pa.schema({**_TYPES, LABEL: pa.int8()})
_OWN: Final = "give your own copy as --data FILE"


def ignore(done: int, total: int | None) -> None:
    """Show no progress."""


def fetch(
    *,
    base: str = OPENML,
    cache: Path | None = None,
    force: bool = False,
    progress: Progress = ignore,
    rows: int = ROWS,
) -> Path:
    """The ULB credit-card set as Parquet: Time [s], V1 … V28, Amount as float64, Class as int8.

    Args:
        base: Address of the OpenML server.
        cache: Folder to keep the file in; by default `fraud-platform` in the user's cache folder.
        force: Fetch again though the file is there.
        progress: Told of the bytes of the ARFF file (about 150 MB).
        rows: How many rows the set must have.

    Returns:
        Path of `creditcard.parquet`. Where it is there already the network is not touched.

    Raises:
        TemporaryError: Server or disk did not serve, after retries; what has come is kept.
        PermanentError: The server refuses, or what it sends is not this data set.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fraud-platform"
    target = (cache or home) / "creditcard.parquet"
    if target.is_file() and not force:
        return target
    with _alone(target):
        if target.is_file() and not force:  # another process fetched it while this one waited
            return target
        url, md5 = _describe(f"{base.rstrip('/')}/api/v1/json/data/1597", target)
        arff = download(url, target.with_suffix(".arff"), md5=md5, progress=progress)
        draft = target.with_suffix(".tmp")
        try:
            _convert(arff, draft, url, rows)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
            arff.unlink()
    return target


def download(
    url: str, target: Path, *, md5: str | None = None, progress: Progress = ignore, limit: int = LIMIT
) -> Path:
    """Save what is at an http(s) address as `target`, which is then whole, or else as it was before.

    What was cut is continued where the server says that the file is still the same, or `md5` will tell; with
    `md5` a later call goes on from `target`.part as well. One process at a time writes a target.

    Args:
        url: The address. Messages show it without its query, which may be a signature.
        target: The file to write; its folder is made.
        md5: Hexadecimal MD5 of the file, against damage on the way.
        progress: Told of the bytes as they come.
        limit: Largest size that is accepted [bytes].

    Returns:
        `target`.

    Raises:
        InvalidInput: Not an http(s) address.
        TemporaryError: `ATTEMPTS` running (no answer, cut, 408, 425, 429, 5xx) brought nothing new, the server
            asks for more than `PATIENCE`, or the disk refuses.
        PermanentError: Any other HTTP error; larger than `limit`; not what `md5` says. Nothing is left then.
    """
    if not re.match(r"https?://[^/]", url):  # the opener would take file: and ftp: as well
        raise InvalidInput(f"{without_secrets(url)}: not an http:// or https:// address")
    part = target.with_name(f"{target.name}.part")
    with _alone(target):
        try:
            with part.open("a+b") as file:
                _fill(file, url, md5, progress, limit)
                _verify(file, url, md5)
        except (InvalidInput, PermanentError):
            part.unlink()
            raise
        part.replace(target)
    return target


class _AttemptError(Exception):
    """An attempt failed and another may not; `wait` is how long the server asks for [s]."""

    def __init__(self, problem: str, wait: int = 0) -> None:
        self.wait = wait
        super().__init__(problem)


def _fill(file: BufferedRandom, url: str, md5: str | None, progress: Progress, limit: int) -> None:
    """Try until the file is whole. Some servers cut every long answer, so only standstill counts."""
    failures, most, validator = 0, file.tell(), ""
    while True:
        try:
            if not validator and not md5:
                _empty(file)
            with _ask(url, file, validator) as answer:
                tag = answer.headers.get("ETag", "W/")
                validator = answer.headers.get("Last-Modified", "") if tag.startswith("W/") else tag
                _save(answer, file, md5, progress, limit)
        except _AttemptError as error:
            failures = 1 if file.tell() > most else failures + 1
            most = max(most, file.tell())
            if failures == ATTEMPTS or error.wait > PATIENCE:
                when = f"in {error.wait:,} s" if error.wait else "later"
                text = f"{without_secrets(url)}: {error}, with {file.tell():,} bytes here; try again {when}"
                raise TemporaryError(text) from error
            sleep(max(error.wait, 2 ** (failures - 1)))
        else:
            return


def _ask(url: str, file: BufferedRandom, validator: str) -> HTTPResponse:
    """Ask for what comes after the bytes in `file`; where the answer is another, `file` is empty."""
    headers = {"User-Agent": "fraud-platform", "Accept-Encoding": "identity"}
    if start := file.tell():
        headers |= {"Range": f"bytes={start}-"} | ({"If-Range": validator} if validator else {})
    try:
        answer = cast("HTTPResponse", urlopen(Request(url, headers=headers), timeout=_TIMEOUT))  # noqa: S310
    except HTTPError as error:
        with error:
            if error.code == 416:  # the file there is not longer than what is here
                _empty(file)
            raise _refusal(error, url) from error
    except (InvalidURL, ValueError) as error:
        raise InvalidInput(f"{without_secrets(url)}: not an address: {error}") from error
    except (OSError, HTTPException) as error:
        raise _AttemptError(f"no answer ({getattr(error, 'reason', error)})") from error
    if answer.status != 206:
        _empty(file)
    elif not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        answer.close()
        _empty(file)
        raise _AttemptError("the server sent another range than asked for")
    return answer


def _refusal(error: HTTPError, url: str) -> Exception:
    problem, wait = f"HTTP {error.code} {error.reason}", error.headers.get("Retry-After", "")
    if error.code in (408, 416, 425, 429) or error.code >= 500:
        return _AttemptError(problem, int(wait) if wait.isdecimal() else 0)
    return PermanentError(f"{without_secrets(url)}: {problem}; check the address, and whether you may read it")


def _save(answer: HTTPResponse, file: BufferedRandom, md5: str | None, progress: Progress, limit: int) -> None:
    total = None if answer.length is None else file.tell() + answer.length
    for chunk in _chunks(answer):
        if max(total or 0, file.tell() + len(chunk)) > limit:
            raise PermanentError(
                f"{without_secrets(answer.url)}: larger than the {limit:,} bytes accepted; {_OWN}"
            )
        file.write(chunk)
        progress(file.tell(), total)
    if answer.length or (total is None and not _genuine(file, md5)):  # without a length only the MD5 tells
        raise _AttemptError("the answer was cut")


def _chunks(answer: HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := answer.read1(1 << 16):
            yield chunk
    except (OSError, HTTPException) as error:
        raise _AttemptError(f"cut ({error})") from error


def _empty(file: BufferedRandom) -> None:
    file.seek(0)
    file.truncate()


def _genuine(file: BufferedRandom, md5: str | None) -> bool:
    """Whether the file has its MD5; without one, what came is taken."""
    if md5 is None:
        return True
    file.seek(0)
    found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return found.hexdigest() == md5.lower()


def _verify(file: BufferedRandom, url: str, md5: str | None) -> None:
    if not _genuine(file, md5):
        raise PermanentError(
            f"{without_secrets(url)}: the file does not have the MD5 published for it ({md5}) and was deleted; "
            "fetch it again, and if that says the same do not use it"
        )


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Make the folder and let one process at a time write `target`, with the disk's errors translated."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_name(f".{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise TemporaryError(f"{target}: {error}; make room, or choose another folder") from error


def _describe(url: str, target: Path) -> tuple[str, str]:
    """Address and MD5 of the ARFF file, from the description of the data set at `url`."""
    answer = download(url, target.with_suffix(".json"), limit=1 << 20)
    try:
        description = json.loads(answer.read_bytes())["data_set_description"]
        name, source, md5 = (str(description[key]) for key in ("name", "url", "md5_checksum"))
    except (ValueError, LookupError, TypeError) as error:
        raise PermanentError(f"{url}: not OpenML's description of a data set ({error!r}); {_OWN}") from error
    finally:
        answer.unlink()
    if name != "creditcard":
        raise PermanentError(f"{url}: describes the data set {name!r}, not 'creditcard'; {_OWN}")
    return source, md5


def _convert(arff: Path, draft: Path, url: str, rows: int) -> None:
    """Write the ARFF file that came from `url` as Parquet, block by block."""
    found = 0
    parse = pacsv.ParseOptions(quote_char=False)  # ARFF quotes with ' or "; both are taken off below
    convert = pacsv.ConvertOptions(column_types=_TYPES, include_columns=list(_TYPES), null_values=[])
    with arff.open("rb") as file, pq.ParquetWriter(draft, _SCHEMA) as writer:
        read = pacsv.ReadOptions(column_names=_names(file, url), block_size=1 << 24)
        try:
            with pacsv.open_csv(file, read, parse, convert) as reader:
                for batch in reader:
                    label = pc.utf8_trim(batch.column(LABEL), characters="'\" ").cast(pa.int8())
                    writer.write_batch(pa.record_batch([*batch.columns[:-1], label], schema=_SCHEMA))
                    found += batch.num_rows
        except pa.ArrowInvalid as error:
            raise PermanentError(
                f"{without_secrets(url)}: not the rows of the credit-card set ({error}); {_OWN}"
            ) from error
    if found != rows:
        raise PermanentError(f"{without_secrets(url)}: has {found:,} rows, must have {rows:,}; {_OWN}")


def _names(file: BufferedReader, url: str) -> list[str]:
    """The columns in the header of an ARFF file, which is left at its first row."""
    head = file.read(1 << 20)
    data = re.search(rb"(?im)^\s*@data.*\n?", head)
    if not data:
        raise PermanentError(f"{without_secrets(url)}: not an ARFF file; {_OWN}")
    file.seek(data.end())
    attributes = re.findall(r"(?im)^\s*@attribute\s+['\"]?(\w+)", head[: data.start()].decode("latin-1"))
    if violations := check_columns(attributes, labelled=True):
        problems = "; ".join(map(str, violations[:3]))
        raise PermanentError(f"{without_secrets(url)}: not the columns of the credit-card set: {problems}; {_OWN}")
    return attributes
