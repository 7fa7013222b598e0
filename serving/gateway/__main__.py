"""Start the gateway: pass requests on until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import socket
import sys

import structlog
from uvicorn.loops.auto import auto_loop_factory

from fraudkit import logs
from fraudkit.errors import FraudError, InvalidInput
from fraudkit.http import Server, config, listen
from fraudkit.settings import Settings, load_settings
from serving.gateway.app import Gateway, Owner
from serving.gateway.payloads import PayloadLogger
from serving.gateway.traffic import Split, Traffic, origin

log = structlog.get_logger()

GRACE_SECONDS = 20
"""For requests to finish after a signal."""


def main(arguments: list[str] | None = None) -> int:
    """Serve; 0 after a signal, 1 when it cannot, 2 on wrong use."""
    logs.configure()
    try:
        settings = load_settings()
        parser = argparse.ArgumentParser("python -m serving.gateway", description=__doc__)
        parser.add_argument("--stable", required=True, help="URL of the predictor.")
        parser.add_argument("--host", default=settings.gateway.host, help="The address to listen on.")
        parser.add_argument(
            "--port", type=int, default=settings.gateway.port, help="The port; 0 takes a free one."
        )
        serve(parser.parse_args(arguments), settings)
    except FraudError as error:
        print(f"gateway: {error}", file=sys.stderr)  # noqa: T201  # one line, for a person
        return 2 if isinstance(error, InvalidInput) else 1
    return 0


def serve(options: argparse.Namespace, settings: Settings) -> None:
    """Serve until a signal.

    Raises:
        InvalidInput: `--stable` is no server's URL.
        PermanentError: The address cannot be listened on.
    """
    try:
        traffic = Traffic(stable=origin(options.stable))
    except ValueError as error:
        raise InvalidInput(f"--stable: {error}, not {options.stable!r}") from None
    listener = listen(options.host, options.port)
    # What is loaded by now lives as long as the process: no collection need walk through it.
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        runner.run(_run(listener, Split(traffic), settings))


async def _run(listener: socket.socket, split: Split, settings: Settings) -> None:
    limits, own, detector = settings.serving, settings.gateway, settings.detector.url.rstrip("/")
    payloads = PayloadLogger(f"{detector}/", own.queue, own.queue_bytes, own.log_seconds)
    parts = {
        Owner.DETECTOR: detector,
        Owner.LAUNCHER: settings.launcher.url.rstrip("/"),
        Owner.CONSOLE: f"http://127.0.0.1:{settings.console.port}",
        Owner.CONTROLLER: (settings.rollout.url or f"http://127.0.0.1:{settings.rollout.port}").rstrip("/"),
    }
    gateway = Gateway(split, payloads, parts, limits.max_bytes, limits.read_seconds)
    served = config(gateway, 16 * limits.max_bytes, GRACE_SECONDS, date_header=False)
    server = Server(served, limits.read_seconds)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    host, port = listener.getsockname()[:2]
    log.info("gateway started", host=host, port=port, stable=split.traffic.stable, detector=detector)
    posting = asyncio.create_task(payloads.run())
    await server.serve(sockets=[listener])
    await payloads.drain(own.log_seconds)
    posting.cancel()
    await asyncio.gather(posting, return_exceptions=True)
    await gateway.close()
    log.info("gateway stopped", **payloads.counts)


if __name__ == "__main__":
    sys.exit(main())
