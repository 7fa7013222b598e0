"""uvicorn's server as the predictor runs it: heads must arrive in time, and gRPC drains beside it."""

from __future__ import annotations

import asyncio
import socket
from time import monotonic
from typing import Any

import grpc
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MOST_HEAD_BYTES = 64 * 1024
"""Most bytes of a request's head. uvicorn alone knows no bound."""


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which closes a connection whose head does not end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._known: object = None
        self._head_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        super().data_received(data)
        request: RequestResponseCycle | None = self.cycle
        if request is not self._known:
            self._known, self._head_bytes = request, 0
        elif request is None or request.response_complete:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self.transport.close()


class Server(uvicorn.Server):
    """Serves HTTP, and gRPC when `grpc` is set.

    Args:
        config: uvicorn's.
        head_seconds: Longest time that a request's head may take to arrive; uvicorn alone would wait for ever.
        grace_seconds: Longest time that gRPC's requests may take to finish after a signal.
    """

    def __init__(self, config: uvicorn.Config, head_seconds: float, grace_seconds: float) -> None:
        super().__init__(config)
        self.grpc: grpc.aio.Server | None = None
        self._head_seconds = head_seconds
        self._grace_seconds = grace_seconds
        self._waiting: dict[Any, tuple[object, float]] = {}

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: uvicorn's own upkeep, and once a second ours."""
        if counter % 10 == 0:
            self._close_slow_heads()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, and wait for those that have begun."""
        draining = [super().shutdown(sockets)]
        if self.grpc:
            draining.append(self.grpc.stop(self._grace_seconds))
        await asyncio.gather(*draining)

    def _close_slow_heads(self) -> None:
        now, waiting = monotonic(), {}
        for connection in list(self.server_state.connections):
            request = getattr(connection, "cycle", None)
            answering = request is not None and not request.response_complete
            # Between two requests uvicorn has a timer of its own.
            if answering or getattr(connection, "timeout_keep_alive_task", None) is not None:
                continue
            former, since = self._waiting.get(connection, (request, now))
            waiting[connection] = (request, since if former is request else now)
            if now - waiting[connection][1] > self._head_seconds:
                connection.transport.close()
        self._waiting = waiting
