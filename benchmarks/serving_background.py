"""A client that sends bodies of 10,000 rows, sound and spoiled, until its stdin is closed.

    python -m benchmarks.serving_background CONTENDER PORT FORMAT...

Says `begun` after the first answer, and at the end, as JSON, how many answers it had by status. It shares a core
with the probe, and its own work must not look like the server's: it yields to whoever wants the core, and is to be
started in a session of its own, since the kernel shares out cores by session.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import cycle
from typing import Final

from benchmarks.serving_requests import Post, as_sent_to, large

ROWS: Final = 10_000
AT_ONCE: Final = 2
"""Bodies that are under way at a time."""
PAUSE: Final = 0.01
"""Seconds between an answer and the next body."""
BLOCK: Final = 65_536
"""Bytes sent at a time: a core may not be taken from a process within a system call."""


def main(contender: str, port: int, forms: Sequence[str]) -> None:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    posts = [as_sent_to(contender, post) for post in large(forms, ROWS)]
    begun, stop = threading.Event(), threading.Event()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        firsts = [i * len(posts) // AT_ONCE for i in range(AT_ONCE)]
        clients = [pool.submit(send, port, [*posts[i:], *posts[:i]], begun, stop) for i in firsts]
        begun.wait(60)
        print("begun", flush=True)
        sys.stdin.read()
        stop.set()
    print(json.dumps(sum((client.result() for client in clients), Counter())))


def send(port: int, posts: Sequence[Post], begun: threading.Event, stop: threading.Event) -> Counter[int]:
    """The statuses of the answers to `posts`, over and over, one at a time, until `stop`.

    Each has a connection of its own: stock closes it where it answers 500.
    """
    statuses: Counter[int] = Counter()
    for post in cycle(posts):
        if stop.is_set():
            break
        headers = post.headers | {"Content-Length": str(len(post.body))}
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60, blocksize=BLOCK)) as connection:
            connection.request("POST", post.path, io.BytesIO(post.body), headers)
            with connection.getresponse() as response:
                response.read()
                statuses[response.status] += 1
        begun.set()
        time.sleep(PAUSE)
    return statuses


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
