"""`make bench`: the predictor beside what a user would serve the same model with, and beside the bare server.

    python -m benchmarks.serving [--quick] [--cases v1-1 binary-1000 ...] [--contenders stock floor ...]

- ours: `python -m serving.predictor`, default settings
- stock: a KServe predictor around a scikit-learn pipeline, as KServe's documentation teaches
- fastapi: a bare FastAPI app around numpy
- floor: uvicorn alone; reads and parses the same body, answers as many bytes as ours, has no model

All servers run on one core and the load comes from another. Each case is measured in windows, in which the
contenders take turns; the others are idle meanwhile. CPU time is what the kernel counts for a server's processes.
Medians over the windows are printed, and medians of the ratios window by window. Exit status: 0 when every goal
holds, 1 when one does not, 2 when something cannot be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.serving_background import ROWS
from benchmarks.serving_contenders import PEERS, Models, Server, Unmeasurable, make_models, start, wait_ready
from benchmarks.serving_load import Window, disturbance, window
from benchmarks.serving_report import Results, document, goals, machine, markdown
from benchmarks.serving_requests import FORMATS, Case, Post, case

CASES: Final = [Case(form, rows) for rows in (1, 1_000) for form in FORMATS]
LARGE: Final = [Case(form, ROWS) for form in FORMATS]
"""Sent to every server at first: from then on malloc keeps memory that it had asked of the kernel each time."""
PARTS: Final = ("load", "disturbance", "startup")
IDLE: Final = 0.02
"""Most CPU time of a server that is not under load, as a share of the time."""
ATTEMPTS: Final = 3
WARM_UP_SECONDS: Final = 0.5
ROUNDS, ROUND_SECONDS = 4, 6.0
"""Of the probe, alone and beside large bodies each."""
STARTS: Final = 5


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.quick:
        options.windows, options.seconds, options.parts = 3, 1, options.parts or ["load"]
    parts = options.parts or PARTS
    try:
        with tempfile.TemporaryDirectory() as folder:
            results = measure(options, parts, Path(folder))
    except Unmeasurable as error:
        print(f"benchmarks.serving: {error}", file=sys.stderr)
        return 2
    conditions = f"{options.windows} windows of {options.seconds} s, contenders in turn, medians.\n{machine()}"
    print(markdown(results, conditions))
    if options.json:
        options.json.write_text(json.dumps(document(results, conditions), indent=1))
    return 0 if all(goal.holds for goal in goals(results)) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cases",
        type=case,
        nargs="+",
        default=CASES,
        metavar="CASE",
        help=f"format-rows; default: {' '.join(map(str, CASES))}",
    )
    parser.add_argument("--contenders", nargs="*", choices=PEERS, default=PEERS, help="beside ours; default: all")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: all")
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of a window")
    parser.add_argument("--quick", action="store_true", help="the load alone, 3 windows of 1 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers to FILE")
    return parser


def measure(options: argparse.Namespace, parts: Sequence[str], folder: Path) -> Results:
    """Run the parts that are asked for."""
    cores = sorted(os.sched_getaffinity(0))
    if shutil.which("wrk") is None:
        raise Unmeasurable("wrk is not there (Debian: apt-get install wrk)")
    if len(cores) < 2:
        raise Unmeasurable("two cores are needed, one for the servers and one for the load")
    server_core, load_core = cores[0], cores[-1]
    os.sched_setaffinity(0, {load_core})
    models = make_models(folder)
    results = Results()
    with ExitStack() as stack:
        if {"load", "disturbance"} & set(parts):
            servers = start_all(options, models, folder, server_core, stack)
        if "load" in parts:
            load(options, servers, folder, results)
        if "disturbance" in parts:
            disturb(servers, results)
    if "startup" in parts:
        startup(models, folder, server_core, results)
    return results


def start_all(
    options: argparse.Namespace, models: Models, folder: Path, core: int, stack: ExitStack
) -> list[Server]:
    """Ours and the chosen contenders, ready; the floor last, since it must know how long ours' answers are."""
    servers = []
    for name in ("ours", *(peer for peer in options.contenders if peer != "floor")):
        servers.append(start(name, models, folder, core))
        stack.callback(servers[-1].stop)
    for server in servers:
        wait_ready(server)
    if "floor" in options.contenders:
        answers = answer_bytes(servers, [wanted.post() for wanted in (*options.cases, *LARGE)])
        servers.append(start("floor", models, folder, core, answers))
        stack.callback(servers[-1].stop)
        wait_ready(servers[-1])
    for post in (wanted.post() for wanted in LARGE):
        for server in servers:
            server.post(post)
    return servers


def answer_bytes(servers: Sequence[Server], posts: Sequence[Post]) -> dict[int, int]:
    """Bytes of the answer by bytes of the request: ours, or where ours refuses, the next contender's."""
    found = {}
    for post in posts:
        answers = (server.post(post) for server in servers)
        found[len(post.body)] = next((len(answer.body) for answer in answers if answer.status == 200), 0)
    return found


def load(options: argparse.Namespace, servers: Sequence[Server], folder: Path, results: Results) -> None:
    """Every case, window by window, the contenders in turn; and their memory after it."""
    for wanted in options.cases:
        post = wanted.post()
        able = [server for server in servers if accepts(server, post, wanted, results)]
        for i in range(options.windows):
            first = i % max(1, len(able))
            for server in [*able[first:], *able[:first]]:
                _say(f"{wanted}, window {i + 1} of {options.windows}, {server.name}")
                found = alone(
                    [other for other in servers if other is not server],
                    partial(window, server, post, wanted.connections, options.seconds, folder),
                )
                results.windows[wanted][server.name].append(found)
    results.memory = {server.name: server.memory() for server in servers}


def accepts(server: Server, post: Post, wanted: Case, results: Results) -> bool:
    """Whether the server answers the case with 200; if so, it has been warmed up."""
    results.windows.setdefault(wanted, {})[server.name] = []
    status, began = server.post(post).status, time.monotonic()
    if status != 200:
        results.refused.setdefault(wanted, {})[server.name] = status
        return False
    while time.monotonic() < began + WARM_UP_SECONDS:
        server.post(post)
    return True


def alone(others: Sequence[Server], measured: Callable[[], Window]) -> Window:
    """A window in which no other server took part of the core; they may still have had something to finish."""
    for _ in range(ATTEMPTS):
        before, began = [other.cpu_seconds() for other in others], time.monotonic()
        found = measured()
        idle = IDLE * (time.monotonic() - began)
        busy = [o.name for o, was in zip(others, before, strict=True) if o.cpu_seconds() - was > idle]
        if not busy:
            return found
        _say(f"once more: {', '.join(busy)} not idle")
    raise Unmeasurable(f"{', '.join(busy)}: not idle while another is under load")


def disturb(servers: Sequence[Server], results: Results) -> None:
    """One row beside large bodies, on every contender that has a model."""
    small = Case("v1", 1).post()
    for server in servers:
        if server.name == "floor":
            continue
        forms = [wanted.form for wanted in LARGE if server.post(wanted.post()).status == 200]
        _say(f"one row beside large bodies ({', '.join(forms)}), {server.name}")
        results.disturbance[server.name] = disturbance(server, small, forms, ROUNDS, ROUND_SECONDS)


def startup(models: Models, folder: Path, core: int, results: Results) -> None:
    """Ours and stock from start to ready, and a bare `import kserve`, in turn; the first round is not counted."""
    for i in range(STARTS + 1):
        _say(f"start {i} of {STARTS}")
        for name in ("ours", "stock", "import kserve"):
            began = time.perf_counter()
            if name == "import kserve":
                command = ["taskset", "--cpu-list", str(core), sys.executable, "-c", name]
                subprocess.run(command, check=True)
                seconds = time.perf_counter() - began
            else:
                server = start(name, models, folder, core)
                wait_ready(server)
                seconds = time.perf_counter() - began
                server.stop()
            if i:
                results.startup.setdefault(name, []).append(seconds)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
