"""Pods of predictors, as far as their counters go: each time they are read, some more requests were answered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BOUNDS = ("0.001", "0.01", "+Inf")


class Pods:
    """A server of metrics for each revision that is asked for.

    Attributes:
        grow: Requests more at each reading.
        broken: Revisions all of whose requests fail.
    """

    def __init__(self) -> None:
        self.grow = 0
        self.broken: set[str] = set()
        self._counts: dict[str, list[int]] = {}
        self._servers: dict[str, ThreadingHTTPServer] = {}

    def __call__(self, revision: str) -> tuple[str, int]:
        """Address and port of a revision's pod."""
        if revision not in self._servers:
            server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(revision))
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
            self._counts[revision] = [0, 0]
            self._servers[revision] = server
        return "127.0.0.1", self._servers[revision].server_port

    def close(self) -> None:
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    def _text(self, revision: str) -> str:
        counts = self._counts[revision]
        counts[revision in self.broken] += self.grow
        lines = [f'fraud_requests_total{{code="{code}"}} {n}' for code, n in zip((200, 500), counts, strict=True)]
        lines += [f'fraud_request_seconds_bucket{{le="{bound}"}} {sum(counts)}' for bound in BOUNDS]
        return "\n".join([*lines, ""])

    def _handler(self, revision: str) -> type[BaseHTTPRequestHandler]:
        text = self._text

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = text(revision).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        return Handler


@contextmanager
def serving() -> Iterator[Pods]:
    pods = Pods()
    try:
        yield pods
    finally:
        pods.close()
