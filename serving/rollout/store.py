"""Where the controller's state is kept, whole or not at all."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from fraudkit.errors import PermanentError, TemporaryError
from serving.rollout.state import State


class Superseded(PermanentError):
    """Another controller has the state: this one must not do anything any more."""


class Store(Protocol):
    """Keeps the state of one controller at a time."""

    def load(self) -> State:
        """The state as it was saved last; from now on it is this controller's.

        Raises:
            TemporaryError: It cannot be read now.
            PermanentError: It cannot be read.
        """

    def check(self) -> None:
        """Make sure that the state is still this controller's.

        Raises:
            Superseded: It is not.
            TemporaryError: It cannot be said now.
        """

    def save(self, state: State) -> None:
        """Keep the state; when this returns it survives anything.

        Raises:
            Superseded: Another controller has kept its own meanwhile.
            TemporaryError: It was not kept, as far as is known.
            PermanentError: It cannot be kept.
        """

    def close(self) -> None:
        """Let another controller have it."""


class FileStore:
    """A file of this machine, locked for as long as the store is there.

    Args:
        path: The file.

    Raises:
        PermanentError: Another controller has it, or nobody may write it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._path.with_suffix(".lock").open("w")
        except OSError as error:
            raise PermanentError(
                f"{self._path} cannot be written: {error.strerror}; FRAUD_STATE names its folder"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise PermanentError(f"another controller keeps its state in {self._path}") from None

    def load(self) -> State:
        """What the file says; a new state where there is none."""
        try:
            return State.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return State()
        except (OSError, ValidationError) as error:
            said = " ".join(str(error).split())
            raise PermanentError(f"{self._path} is not the state of a controller: {said}") from error

    def check(self) -> None:
        """The lock holds as long as this process."""

    def save(self, state: State) -> None:
        """Write it beside its place, bring it to the disk, and rename."""
        unfinished = self._path.with_suffix(".unfinished")
        try:
            with unfinished.open("wb") as file:
                file.write(state.model_dump_json(indent=1).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self._path)
        except OSError as error:
            raise TemporaryError(f"{self._path} cannot be written: {error}") from error

    def close(self) -> None:
        """Let another controller have it."""
        self._lock.close()
