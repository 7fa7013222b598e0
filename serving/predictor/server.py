"""The predictor's server: gRPC drains beside HTTP."""

from __future__ import annotations

import asyncio
import socket

import grpc
import uvicorn

from fraudkit import http


class Server(http.Server):
    """Serves HTTP, and gRPC when `grpc` is set.

    Args:
        config: uvicorn's.
        request_seconds: Longest time that a request may take to arrive.
        grace_seconds: Longest time that gRPC's requests may take to finish after a signal.
    """

    def __init__(self, config: uvicorn.Config, request_seconds: float, grace_seconds: float) -> None:
        super().__init__(config, request_seconds)
        self.grpc: grpc.aio.Server | None = None
        self._grace_seconds = grace_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, and wait for those that have begun."""
        draining = [super().shutdown(sockets)]
        if self.grpc:
            draining.append(self.grpc.stop(self._grace_seconds))
        await asyncio.gather(*draining)
