"""Where bundles and frozen holdouts are kept: a folder, or a prefix in S3 or Azure Blob beside a folder of copies.

    {bundles}/{version}/           a bundle, whose last file is its manifest
    {bundles}/holdouts/{data id}/  a frozen holdout, whose last file is its record

Everything in it is immutable, so a copy is as good as the original. An object store cannot rename: there the last
file is written last, and what lacks it is not there yet.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fraudkit import bundle
from fraudkit.bundle import MANIFEST, VERSION, Bundle, Origin
from fraudkit.errors import BundleError, TemporaryError
from fraudkit.settings import Settings

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

HOLDOUTS: Final = "holdouts"


@dataclass(frozen=True)
class BundleStore:
    """The store.

    Attributes:
        folder: Where things are; with `uri`, where copies of them are.
        uri: The prefix, `s3://bucket/prefix` or `abfs://container@account.dfs.core.windows.net/prefix`.
    """

    folder: Path
    uri: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> BundleStore:
        """The one of these settings."""
        return cls(settings.bundle_folder, settings.bundle_uri)

    def __str__(self) -> str:
        """Say where it is."""
        return self.uri or str(self.folder)

    def load(self, version: str) -> Bundle:
        """The verified bundle of a version.

        Raises:
            BundleError: It is not there, or damaged; text that is no version is not there.
            TemporaryError: The store cannot be reached.
        """
        folder = self.find(version) if VERSION.fullmatch(version) else None
        if folder is None:
            kept = "MLflow keeps a copy with the run that made it"
            raise BundleError(f"there is no bundle {self}/{version}; {kept}")
        return bundle.load(folder)

    def has(self, version: str) -> bool:
        """Whether a version is there, damaged or not; text that is no version is not."""
        if not VERSION.fullmatch(version):
            return False
        return (self.folder / version).is_dir() or self._there(version, MANIFEST)

    def versions(self) -> tuple[str, ...]:
        """All versions that are there, sorted."""
        if self.uri is None:
            return tuple(sorted(path.parent.name for path in self.folder.glob(f"*/{MANIFEST}")))
        from pyarrow.fs import FileSelector

        files, root = self._remote
        with self._asking():
            found = files.get_file_info(FileSelector(root, allow_not_found=True))
        names = (one.base_name for one in found if one.base_name != HOLDOUTS)
        return tuple(sorted(name for name in names if self._there(name, MANIFEST)))

    def seal(self, draft: Path, origin: Origin) -> Bundle:
        """Make a bundle of a draft, as `fraudkit.bundle.seal` does.

        Raises:
            BundleError: The draft lacks a file, or the bundle that is there is damaged.
            TemporaryError: The store cannot be reached.
        """
        version = bundle.version_of(draft)
        if self.find(version):
            return self.load(version)
        return bundle.seal(draft, self.folder, origin, partial(self.publish, last=MANIFEST))

    def find(self, name: str, last: str = MANIFEST) -> Path | None:
        """The folder with a bundle, or with `name`, whose last file is `last`; None where it is not there.

        Raises:
            TemporaryError: The store cannot be reached.
        """
        folder = self.folder / name
        if folder.is_dir():
            return folder
        if not self._there(name, last):
            return None
        from pyarrow.fs import LocalFileSystem, copy_files

        files, root = self._remote
        with self._asking():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{folder.name[:12]}-", dir=folder.parent) as scratch:
                copy = Path(scratch) / folder.name
                copy.mkdir()
                copy_files(f"{root}/{name}", str(copy), files, LocalFileSystem())
                bundle.move(copy, folder)
        return folder

    def publish(self, copy: Path, target: Path, last: str) -> None:
        """Give a finished folder its place.

        Args:
            copy: The folder.
            target: Where it belongs in `folder`; what is there already stays.
            last: Its last file.

        Raises:
            TemporaryError: The store cannot be reached; nobody sees what was written.
        """
        if self.uri:
            name = target.relative_to(self.folder).as_posix()
            self._upload(copy, name, last)
            if self._read(f"{name}/{last}") != (copy / last).read_bytes():  # another wrote the same at once
                self.find(name, last)
                return
        bundle.move(copy, target)

    def reach(self) -> None:
        """Raise TemporaryError unless the store is there."""
        if self.uri is None and not self.folder.is_dir():
            raise TemporaryError(f"the folder of the bundles, {self.folder}, is not there")
        self._there(HOLDOUTS, "")

    def _there(self, name: str, last: str) -> bool:
        if self.uri is None:
            return False
        from pyarrow.fs import FileType

        files, root = self._remote
        with self._asking():
            return bool(files.get_file_info(f"{root}/{name}/{last}".rstrip("/")).type != FileType.NotFound)

    def _upload(self, copy: Path, name: str, last: str) -> None:
        from pyarrow.fs import LocalFileSystem, copy_files

        files, root = self._remote
        paths = sorted(path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file())
        with self._asking():
            for path in sorted(paths, key=lambda path: path == last):
                copy_files(str(copy / path), f"{root}/{name}/{path}", LocalFileSystem(), files)

    def _read(self, path: str) -> bytes:
        files, root = self._remote
        with self._asking(), files.open_input_stream(f"{root}/{path}") as stream:
            return bytes(stream.read())

    @cached_property
    def _remote(self) -> tuple[FileSystem, str]:
        from pyarrow.fs import FileSystem

        with self._asking():
            files, root = FileSystem.from_uri(self.uri)
        return files, root.rstrip("/")

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # of pyarrow too
            said = " ".join(str(error).split())
            raise TemporaryError(f"the bundles at {self} cannot be reached: {said}") from error
