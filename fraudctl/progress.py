"""Progress on standard error: a live bar on a terminal, a line a step elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

STEPS = {
    "synthesize": "Synthesize transactions",
    "prepare": "Read, validate, split and sample",
    "train": "Train",
    "evaluate": "Evaluate and decide",
    "conclude": "Register and log",
    "serve": "Serve",
    "score": "Score held-out transactions",
}


class StepProgress:
    """Shows the steps of a run as they happen; call it with (step, rows done, rows in all or None)."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[rows]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._step = ""
        self._rows = 0
        self._began = time.monotonic()

    def __enter__(self) -> StepProgress:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish("failed" if kind else "done")
        self._bar.stop()

    def __call__(self, step: str, done: int, total: int | None) -> None:
        """Show that `step` has done some of its rows."""
        if step != self._step:
            self._finish("done")
            self._step, self._rows, self._began = step, 0, time.monotonic()
            self._bar.add_task(STEPS[step], total=None, rows="")
        self._rows = max(self._rows, done)
        rows = f"{done:,} of {total:,} rows" if total else f"{done:,} rows" if done else ""
        self._bar.update(self._bar.task_ids[-1], completed=done, total=total, rows=rows)

    def _finish(self, how: str) -> None:
        if not self._step:
            return
        if self._bar.task_ids:
            self._bar.remove_task(self._bar.task_ids[-1])
        mark = "[green]✓[/]" if how == "done" else "[red]✗[/]"
        rows = f" · {self._rows:,} rows" if self._rows else ""
        took = time.monotonic() - self._began
        self._console.print(f"{mark} {STEPS[self._step]}{rows} · {took:.1f} s", highlight=False)
        self._step = ""


@contextmanager
def download_bar(console: Console, what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar for bytes; yields what to call with (bytes done, bytes in all or None)."""
    with Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
