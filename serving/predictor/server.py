"""uvicorn's server as the predictor runs it: it looks after its connections, and gRPC drains beside it."""

from __future__ import annotations

import asyncio
import socket
from time import monotonic

import grpc
import uvicorn

from serving.predictor.protocol import BoundedProtocol


class Server(uvicorn.Server):
    """Serves HTTP, and gRPC when `grpc` is set.

    Args:
        config: uvicorn's.
        request_seconds: Longest time that a request may take to arrive; uvicorn alone would wait for ever.
        grace_seconds: Longest time that gRPC's requests may take to finish after a signal.
    """

    def __init__(self, config: uvicorn.Config, request_seconds: float, grace_seconds: float) -> None:
        super().__init__(config)
        self.grpc: grpc.aio.Server | None = None
        self._request_seconds = request_seconds
        self._grace_seconds = grace_seconds

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: uvicorn's own upkeep, and once a second ours."""
        if counter % 10 == 0:
            now = monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, BoundedProtocol):
                    connection.tick(now, self._request_seconds)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, and wait for those that have begun."""
        draining = [super().shutdown(sockets)]
        if self.grpc:
            draining.append(self.grpc.stop(self._grace_seconds))
        await asyncio.gather(*draining)
