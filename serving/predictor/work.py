"""Where large bodies are worked on, so that small ones do not wait behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, ParamSpec, TypeVar

INLINE_BYTES: Final = 256 * 1024
"""Larger bodies are worked on in a thread, beside the event loop."""

INLINE_EXPLAINED_BYTES: Final = 16 * 1024
"""The same for bodies that ask for reasons, which are thirty for a row."""

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")
_Task = tuple[Callable[[], Any], asyncio.Future[Any]]


class LargeWork:
    """One thread beside the event loop. More would only have the loop wait for more of them.

    What an executor does, without the futures and locks of its own, which cost some 50 µs a body.
    """

    def __init__(self) -> None:
        self._tasks: SimpleQueue[_Task] = SimpleQueue()
        Thread(target=self._work, name="large", daemon=True).start()

    async def run(self, work: Callable[_Given, _Result], *args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        """The result of `work`, once it was its turn."""
        done: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        self._tasks.put((lambda: work(*args, **kwargs), done))
        try:
            return await done
        finally:
            # An error refers to this frame, and by this name the frame to the error: a cycle that would keep the
            # whole of a refused body until a collection that stops everything.
            del done

    def _work(self) -> None:
        while True:
            work, done = self._tasks.get()
            try:
                settle, outcome = done.set_result, work()
            except BaseException as error:  # noqa: BLE001  # it is raised where the result is awaited
                settle, outcome = done.set_exception, error
            done.get_loop().call_soon_threadsafe(_settle, done, settle, outcome)
            del work, done, settle, outcome  # nothing is kept while the next is waited for


def may_explain(body: bytes, end: int | None = None) -> bool:
    """Whether a body too long to be explained at once may, before `end`, ask for reasons."""
    return len(body) > INLINE_EXPLAINED_BYTES and body.find(b"reasons", 0, end) >= 0


def _settle(done: asyncio.Future[Any], settle: Callable[[Any], None], outcome: Any) -> None:
    if not done.done():  # who asked may have gone
        settle(outcome)
