"""A predictor as a process of its own, for as long as a `with` block lasts."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from fraudkit.errors import InvalidInput, PermanentError
from fraudkit.settings import MODEL_NAME

HOST = "127.0.0.1"
READY_SECONDS = 60.0


@contextmanager
def serving(bundle: Path, port: int) -> Iterator[str]:
    """Serve `bundle` on loopback; yields the base URL once the model is ready.

    Raises:
        InvalidInput: The port is taken.
        PermanentError: The predictor did not start; the message has its last words.
    """
    require_free(port)
    command = [sys.executable, "-m", "serving.predictor", "--bundle", str(bundle), "--http_port", str(port)]
    command += ["--enable_grpc", "false"]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=log, stderr=log) as process:  # noqa: S603
        try:
            url = f"http://{HOST}:{port}"
            _wait_ready(url, process, log.fileno())
            yield url
        finally:
            process.terminate()


def require_free(port: int) -> None:
    """Raise InvalidInput when the port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InvalidInput(f"port {port} on {HOST} is taken; choose another with --port") from error


def _wait_ready(url: str, process: subprocess.Popen[bytes], log: int) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/v1/models/{MODEL_NAME}", timeout=2).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise PermanentError(f"the predictor did not become ready: {_tail(log)}")


def _tail(log: int) -> str:
    with open(log, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()[-2_000:].decode(errors="replace").strip() or "it said nothing"
