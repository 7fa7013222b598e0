"""A predictor as a process of its own, for as long as a `with` block lasts."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fraudkit.errors import InvalidInput
from fraudkit.processes import Part, Running, stop_all
from fraudkit.settings import MODEL_NAME

HOST = "127.0.0.1"


@contextmanager
def serving(bundle: Path, port: int) -> Iterator[str]:
    """Serve `bundle` on loopback; yields the base URL once the model is ready.

    Raises:
        InvalidInput: The port is taken.
        PermanentError: The predictor did not start; the message has its last words.
    """
    require_free(port)
    url = f"http://{HOST}:{port}"
    arguments = ("--bundle", str(bundle), "--http_port", str(port), "--enable_grpc", "false")
    part = Part("predictor", "serving.predictor", arguments, f"{url}/v1/models/{MODEL_NAME}")
    with tempfile.TemporaryDirectory() as folder:
        running = Running(part, os.environ, Path(folder) / "log")
        try:
            running.wait_ready()
            yield url
        finally:
            stop_all([running])


def require_free(port: int) -> None:
    """Raise InvalidInput when the port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InvalidInput(f"port {port} on {HOST} is taken; choose another with --port") from error
