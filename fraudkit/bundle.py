"""The model bundle: one immutable directory per version, verified on load, nothing in it unpickled.

    {bundles}/{version}/
      scorer.json      what is served                    ┐ the version is computed from these two
      reference/       what drift is measured against    ┘
      holdout.parquet  scores and labels, for the threshold page
      model.skops      the fitted scikit-learn pipeline, for people and MLflow
      metrics.json     the evaluation
      card.md          the model card
      manifest.json    where it came from, and the sha256 of every other file

A bundle with other thresholds or with a new reference is a child: a bundle of its own that names its parent.
A bundle holds customers' rows (reference, holdout): guard it like the data it came from.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fraudkit.errors import BundleError
from fraudkit.scoring import Scorer

MANIFEST: Final = "manifest.json"
SCORER: Final = "scorer.json"
REFERENCE: Final = "reference"
CARD: Final = "card.md"
VERSION: Final = re.compile(r"[0-9a-f]{12}")
"""What a version looks like; anything else is no name of a folder."""
_REQUIRED: Final = (SCORER, "holdout.parquet", "model.skops", "metrics.json", CARD)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Learned(_Record):
    """What a model was fitted on.

    Attributes:
        uri: Where the base data came from.
        base: Legitimate rows and frauds of them that it was fitted on.
        recent: The same of live traffic.
        since: From when on live traffic was learned from; None where none was.
        as_of: Until when.
    """

    uri: str
    base: tuple[int, int]
    recent: tuple[int, int] = (0, 0)
    since: datetime | None = None
    as_of: datetime | None = None


class Gate(_Record):
    """What the gate said of a model when it passed it."""

    outcome: str
    reason: str
    message: str


class Origin(_Record):
    """Where a bundle came from.

    A child has the weights of its parent, and with them data, code and libraries.

    Attributes:
        run: Name of the run that made it; of a child that a person made, of the run that made its parent.
        trigger: Key of the trigger that started the run.
        data: Identity of the data it was trained on.
        code: Commit of the code that trained it.
        libraries: Versions of the libraries that trained it.
        created: When, in UTC.
        parent: Version that this one was derived from by other thresholds or another reference.
        by: Who made a child of it.
        reason: Why.
        learned: What it was fitted on.
        gate: What the gate said; nothing of a child, which it does not judge.
    """

    run: str
    trigger: str
    data: str
    code: str
    libraries: dict[str, str]
    created: datetime
    parent: str | None = None
    by: str | None = None
    reason: str | None = None
    learned: Learned | None = None
    gate: Gate | None = None


class Manifest(Origin):
    """`manifest.json`: the origin, and what the bundle must be.

    Attributes:
        format: Format of the bundle.
        version: Twelve hex digits over what is served.
        files: The sha256 of every other file by its path.
        sha256: Of the manifest itself, with zeros in this place.
    """

    format: Literal[1] = 1
    version: str
    files: dict[str, str]
    sha256: str = "0" * 64


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle."""

    path: Path
    manifest: Manifest
    scorer: Scorer

    @property
    def version(self) -> str:
        """Twelve hex digits that name what is served."""
        return self.manifest.version


@contextmanager
def child_of(parent: Bundle) -> Iterator[Path]:
    """A draft of a child: a copy of the parent's files, to be changed and sealed before the block ends."""
    with tempfile.TemporaryDirectory(prefix="fraud-child-") as scratch:
        draft = Path(scratch) / "draft"
        shutil.copytree(parent.path, draft)
        yield draft


def child_origin(
    draft: Path, parent: Bundle, *, what: str, by: str, reason: str, run: tuple[str, str] | None = None
) -> Origin:
    """Say in the card of a changed draft what it has of its own; its origin, for its manifest.

    Args:
        draft: The draft.
        parent: Whose child it is.
        what: What it has of its own, and what of it the parent's metrics do not tell.
        by: Who makes it.
        reason: Why.
        run: Name and trigger of the run that makes it, where one does.
    """
    card = draft / CARD
    heading = f"# Fraud model `{version_of(draft)}`\n\nA child of `{parent.version}`, whose card follows: {what}"
    card.write_text(f"{heading}\n\n{card.read_text(encoding='utf-8')}", encoding="utf-8")
    own = {"created": datetime.now(UTC), "parent": parent.version, "by": by, "reason": reason, "gate": None}
    if run:
        own |= {"run": run[0], "trigger": run[1]}
    inherited = parent.manifest.model_dump(include=set(Origin.model_fields))
    return Origin.model_validate(inherited | own)


def version_of(directory: Path) -> str:
    """The version of the content in `directory`: 12 hex digits over `scorer.json` and `reference/`."""
    return _version({name: _sha256(path) for name, path in _files(directory).items() if _versioned(name)})


def move(source: Path, target: Path) -> None:
    """Give a finished folder its place; one that is there already stays."""
    try:
        source.rename(target)
    except OSError:
        # Somebody else made the same content first; who reads it decides whether it is sound.
        if not target.is_dir():
            raise


def seal(draft: Path, bundles: Path, origin: Origin, publish: Callable[[Path, Path], None] = move) -> Bundle:
    """Copy the files of `draft` to `{bundles}/{version}` with a manifest; all of it appears at once.

    The same content sealed again is the bundle that is there already, whatever its origin.

    Args:
        draft: The files.
        bundles: The folder.
        origin: Where they came from.
        publish: Gives the finished folder its place.

    Raises:
        BundleError: The draft lacks a file, or the bundle that is there is damaged.
    """
    missing = [name for name in _REQUIRED if not (draft / name).is_file()]
    if missing:
        raise BundleError(f"the bundle draft {draft} lacks {', '.join(missing)}")
    files = {name: _sha256(path) for name, path in _files(draft).items() if name != MANIFEST}
    version = _version(files)
    target = bundles / version
    if target.exists():
        return load(target)
    manifest = Manifest(version=version, files=files, **origin.model_dump())
    bundles.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{version}-", dir=bundles) as scratch:
        copy = Path(scratch) / version
        shutil.copytree(draft, copy)
        content = manifest.model_dump_json(indent=1).encode() + b"\n"
        (copy / MANIFEST).write_bytes(content.replace(manifest.sha256.encode(), _own_sha256(content).encode()))
        _sync(copy)
        publish(copy, target)
    return load(target)


def load(directory: Path) -> Bundle:
    """The bundle in `directory`, with every hash verified.

    Raises:
        BundleError: Naming the file that is missing, changed, unknown or unreadable.
    """
    manifest = _read_manifest(directory)
    found = _files(directory)
    found.pop(MANIFEST, None)
    _same_names(directory, found, manifest.files)
    for name, path in found.items():
        if _sha256(path) != manifest.files[name]:
            raise BundleError(f"{directory}: {name} is not what the manifest says; do not use this bundle")
    if _version(manifest.files) != manifest.version:
        raise BundleError(f"{directory}: {MANIFEST} names another version than its content has")
    return Bundle(directory, manifest, Scorer.from_json((directory / SCORER).read_bytes()))


def _version(files: Mapping[str, str]) -> str:
    """The version of a bundle whose `files` have these hashes."""
    lines = (f"{name}\0{sha256}\n" for name, sha256 in sorted(files.items()) if _versioned(name))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:12]


def _versioned(name: str) -> bool:
    return name == SCORER or name.startswith(f"{REFERENCE}/")


def _read_manifest(directory: Path) -> Manifest:
    if not directory.is_dir():
        raise BundleError(f"there is no bundle {directory}; MLflow keeps a copy with the run that made it")
    try:
        content = (directory / MANIFEST).read_bytes()
        manifest = Manifest.model_validate_json(content)
    except OSError as error:
        raise BundleError(f"{directory} is not a model bundle: {MANIFEST}: {error.strerror}") from error
    except ValidationError as error:
        raise BundleError(f"{directory}: {MANIFEST} cannot be read: {error.errors()[0]['msg']}") from error
    if _own_sha256(content, manifest.sha256) != manifest.sha256:
        raise BundleError(f"{directory}: {MANIFEST} was changed; do not use this bundle")
    return manifest


def _own_sha256(manifest: bytes, written: str = "0" * 64) -> str:
    """The hash of a manifest with zeros in place of the hash that is written in it."""
    return hashlib.sha256(manifest.replace(written.encode(), b"0" * 64)).hexdigest()


def _same_names(directory: Path, found: Mapping[str, Path], listed: Mapping[str, str]) -> None:
    missing = sorted({*listed, *_REQUIRED} - found.keys())
    if missing:
        raise BundleError(f"{directory}: {missing[0]} is missing; do not use this bundle")
    unknown = sorted(found.keys() - listed.keys())
    if unknown:
        raise BundleError(f"{directory}: {unknown[0]} is not in the manifest; do not use this bundle")


def _files(directory: Path) -> dict[str, Path]:
    """The regular files below `directory` by relative POSIX path; anything else is refused."""
    files = {}
    for path in sorted(directory.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise BundleError(f"{path} is neither a file nor a folder; a bundle holds nothing else")
        if path.is_file():
            files[path.relative_to(directory).as_posix()] = path
    return files


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error


def _sync(directory: Path) -> None:
    """Bring every file of `directory` to the disk before the bundle gets its name."""
    for path in [*directory.rglob("*"), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
