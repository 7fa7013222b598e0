"""Where large bodies are worked on, so that small ones do not wait behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

INLINE_BYTES: Final = 256 * 1024
"""Larger bodies are worked on in a thread, beside the event loop."""

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


class LargeWork:
    """One thread beside the event loop. More would only have the loop wait for more of them."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large")

    async def run(self, work: Callable[_Given, _Result], *args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        """The result of `work`, once it was its turn."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args, **kwargs))
