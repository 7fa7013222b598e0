"""What was measured, against what is aimed at: goals, tables and JSON."""

from __future__ import annotations

import platform
import statistics
import subprocess
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from benchmarks.serving_background import ROWS
from benchmarks.serving_load import PROBE_RATE, Disturbance, Window, percentile
from benchmarks.serving_requests import Case

LIBRARIES: Final = ("uvicorn", "uvloop", "httptools", "kserve", "fastapi", "orjson", "numpy")
FASTER_THAN: Final = {"stock": 8.0, "fastapi": 2.0}
"""One row: so many times more requests per CPU-second than these."""
FLOORS: Final = {("binary", 1_000): 2.5, ("v1", 1_000): 1.2, ("v2", 1_000): 1.2}
"""So many times the floor's CPU time, at most, by format and rows."""
FLOOR_ONE_ROW: Final = 1.6
TAIL, TAIL_OF_FLOOR = 4.0, 1.5
"""p99 / p50 of one row, at most; or so many times the floor's."""
RISE_MS: Final = 20.0
"""By so much may large bodies delay the slowest of a thousand small requests, in ms."""
READY: Final = 1.4
"""Start to ready, at most, in times of `import kserve`."""


@dataclass(slots=True)
class Results:
    """All measurements.

    Attributes:
        windows: By case and contender; of a contender that refused the case there are none.
        refused: Status of the refusal, by case and contender.
        memory: Resident and proportional MB after the load, by contender.
        startup: Seconds from start to ready, by contender; and of `import kserve`.
        disturbance: By contender.
    """

    windows: dict[Case, dict[str, list[Window]]] = field(default_factory=dict)
    refused: dict[Case, dict[str, int]] = field(default_factory=dict)
    memory: dict[str, tuple[float, float]] = field(default_factory=dict)
    startup: dict[str, list[float]] = field(default_factory=dict)
    disturbance: dict[str, Disturbance] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Goal:
    """One aim; `measured` is None where ours refused, which misses every aim."""

    text: str
    limit: float
    measured: float | None
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether it is met."""
        if self.measured is None:
            return False
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


def goals(results: Results) -> list[Goal]:
    """The goals that the measurements say something about."""
    return [*_load_goals(results), *_other_goals(results)]


def _load_goals(results: Results) -> Iterator[Goal]:
    for case, windows in results.windows.items():
        if case.rows == 1:
            for peer, factor in FASTER_THAN.items():
                if peer in windows:
                    text = f"{case}: requests per CPU-second, × {peer}'s"
                    yield Goal(text, factor, cpu_ratio(windows, peer, "ours"), at_least=True)
        limit = FLOOR_ONE_ROW if case.rows == 1 else FLOORS.get((case.form, case.rows))
        if limit and "floor" in windows:
            yield Goal(f"{case}: CPU time, × floor's", limit, cpu_ratio(windows, "ours", "floor"))
        if case.rows == 1:
            limit = max(TAIL, TAIL_OF_FLOOR * (_tail(windows, "floor") or 0.0))
            yield Goal(f"{case}: p99 / p50", limit, _tail(windows, "ours"))


def _other_goals(results: Results) -> Iterator[Goal]:
    if "ours" in results.disturbance:
        text = "rise of one row's p99.9 beside large bodies, ms"
        yield Goal(text, RISE_MS, results.disturbance["ours"].rise)
    if results.startup:
        pairs = zip(results.startup["ours"], results.startup["import kserve"], strict=True)
        yield Goal("start to ready, × `import kserve`", READY, statistics.median(a / b for a, b in pairs))


def cpu_ratio(windows: dict[str, list[Window]], one: str, other: str) -> float | None:
    """CPU time per request of one contender over another's: the median of the ratios, window by window."""
    if not windows.get(one) or not windows.get(other):
        return None
    return statistics.median(a.cpu_us / b.cpu_us for a, b in zip(windows[one], windows[other], strict=True))


def _tail(windows: dict[str, list[Window]], contender: str) -> float | None:
    if not windows.get(contender):
        return None
    return statistics.median(window.p99 / window.p50 for window in windows[contender])


def markdown(results: Results, conditions: str) -> str:
    """The conditions and all tables."""
    parts = [conditions, _load_table(results)]
    if results.memory:
        parts.append(_memory_table(results))
    if results.startup:
        parts.append(_startup_table(results))
    if results.disturbance:
        parts.append(_disturbance_table(results))
    parts.append(_goal_table(goals(results)))
    return "\n\n".join(filter(None, parts))


def machine() -> str:
    """Processor and versions."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    wrk = subprocess.run(["wrk", "--version"], capture_output=True, text=True).stdout.split()[1]
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return textwrap.fill(f"{cpu}; Python {platform.python_version()}, {libraries}; wrk {wrk}.", 115)


def _load_table(results: Results) -> str:
    head = ("case", "contender", "CPU µs / request", "× ours", "requests / CPU-s", "requests / s")
    rows = []
    for case, contenders in results.windows.items():
        for name, windows in contenders.items():
            if not windows:
                rows.append([str(case), name, f"refused: {results.refused[case][name]}", *[""] * 7])
                continue
            cpu = _median(windows, lambda window: window.cpu_us)
            ratio, tail = cpu_ratio(contenders, name, "ours"), _tail(contenders, name)
            rows.append(
                [
                    *(str(case), name, f"{cpu:,.0f}", f"{ratio:.2f}" if ratio else "", f"{1e6 / cpu:,.0f}"),
                    f"{_median(windows, lambda window: window.per_second):,.0f}",
                    f"{_median(windows, lambda window: window.p50):.2f}",
                    f"{_median(windows, lambda window: window.p99):.2f}",
                    f"{_median(windows, lambda window: window.p999):.2f}",
                    f"{tail:.1f}",
                ]
            )
    return _table([*head, "p50 ms", "p99 ms", "p99.9 ms", "p99 / p50"], rows) if rows else ""


def _startup_table(results: Results) -> str:
    rows = [
        [name, f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f} to {max(seconds):.2f}"]
        for name, seconds in results.startup.items()
    ]
    return _table(["start to ready", "seconds", "range"], rows)


def _memory_table(results: Results) -> str:
    rows = [[name, f"{rss:.0f}", f"{pss:.0f}"] for name, (rss, pss) in results.memory.items()]
    return _table(["after the load", "RSS MB", "PSS MB"], rows)


def _disturbance_table(results: Results) -> str:
    rows = []
    for name, found in results.disturbance.items():
        alone = [f"{percentile(found.quiet, which):.2f}" for which in (50, 99.9)]
        beside = [f"{percentile(found.disturbed, which):.2f}" for which in (50, 99.9)]
        statuses = ", ".join(f"{count} × {status}" for status, count in sorted(found.statuses.items()))
        rows.append([name, *alone, *beside, f"{found.rise:.1f}", statuses])
    head = [
        f"one row at {PROBE_RATE:.0f} / s",
        "alone, p50 ms",
        "p99.9 ms",
        f"beside {ROWS:,} rows, p50 ms",
        "p99.9 ms",
        "rise ms",
    ]
    return _table([*head, "large answers"], rows)


def _goal_table(found: Sequence[Goal]) -> str:
    rows = [
        [
            goal.text,
            f"{'≥' if goal.at_least else '≤'} {goal.limit:.3g}",
            "refused" if goal.measured is None else f"{goal.measured:.2f}",
            "holds" if goal.holds else "**missed**",
        ]
        for goal in found
    ]
    return _table(["goal", "limit", "measured", ""], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with its columns in line."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    rule = ["-" * width for width in widths]
    lines = [
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in (head, rule, *rows)
    ]
    return "\n".join(f"| {line} |" for line in lines)


def _median(windows: Sequence[Window], value: Callable[[Window], float]) -> float:
    return statistics.median(map(value, windows))


def document(results: Results, conditions: str) -> dict[str, Any]:
    """All measurements and goals, for programs; of the disturbance, percentiles."""
    return {
        "conditions": conditions,
        "cases": {
            str(case): {name: [asdict(window) for window in windows] for name, windows in contenders.items()}
            for case, contenders in results.windows.items()
        },
        "refused": {str(case): statuses for case, statuses in results.refused.items()},
        "memory_mb": {name: {"rss": rss, "pss": pss} for name, (rss, pss) in results.memory.items()},
        "startup_seconds": results.startup,
        "disturbance_ms": {
            name: {
                "quiet": {str(which): percentile(found.quiet, which) for which in (50, 99, 99.9)},
                "disturbed": {str(which): percentile(found.disturbed, which) for which in (50, 99, 99.9)},
                "rise": found.rise,
                "statuses": found.statuses,
            }
            for name, found in results.disturbance.items()
        },
        "goals": [asdict(goal) | {"holds": goal.holds} for goal in goals(results)],
    }
