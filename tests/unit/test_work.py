"""Work beside the event loop, as the predictor gives it away."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from contextlib import suppress

import pytest

from serving.predictor.work import LargeWork


class Body:
    """Stands for a large one: it can be seen to go."""


def test_work_is_done_in_turn_in_one_other_thread() -> None:
    order: list[int] = []

    def note(number: int) -> tuple[int, str]:
        order.append(number)
        return number, threading.current_thread().name

    async def ask() -> list[tuple[int, str]]:
        large = LargeWork()
        return await asyncio.gather(*(large.run(note, number) for number in range(50)))

    assert asyncio.run(ask()) == [(number, "large") for number in range(50)]
    assert order == list(range(50))


def test_an_error_is_raised_where_the_result_is_awaited_and_the_thread_goes_on() -> None:
    async def ask() -> int:
        large = LargeWork()
        with pytest.raises(ZeroDivisionError):
            await large.run(lambda: 1 // 0)
        return await large.run(lambda: 7)

    assert asyncio.run(ask()) == 7


def test_who_no_longer_waits_does_not_stop_the_thread() -> None:
    async def ask() -> int:
        large = LargeWork()
        begun, end = threading.Event(), threading.Event()

        def work() -> None:
            begun.set()
            end.wait(10)

        waiting = asyncio.create_task(large.run(work))
        await asyncio.to_thread(begun.wait, 10)
        waiting.cancel()
        end.set()
        return await large.run(lambda: 7)

    assert asyncio.run(ask()) == 7


@pytest.mark.parametrize("fails", [True, False])
def test_nothing_of_a_body_is_left_once_it_is_answered(fails: bool) -> None:
    seen: list[weakref.ref[Body]] = []

    def work(body: Body) -> None:
        seen.append(weakref.ref(body))
        if fails:
            raise ValueError(body)

    async def ask() -> None:
        large = LargeWork()
        with suppress(ValueError):
            await large.run(work, Body())
        await large.run(lambda: None)
        assert seen[0]() is None, "a cycle keeps it until a collection, which stops everything"

    gc.disable()
    try:
        asyncio.run(ask())
    finally:
        gc.enable()
