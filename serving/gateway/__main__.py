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

from fraudkit.commands import Arguments, add_address, command
from fraudkit.errors import InvalidInput
from fraudkit.http import Server, config, listen
from fraudkit.settings import Settings, load_settings
from serving.gateway.app import Gateway, Owner
from serving.gateway.payloads import PayloadLogger
from serving.gateway.traffic import Split, Traffic, origin

log = structlog.get_logger()

GRACE_SECONDS = 20
"""For requests to finish after a signal."""


@command("gateway")
def main(arguments: Arguments) -> None:
    """Serve until a signal."""
    settings = load_settings()
    parser = argparse.ArgumentParser("python -m serving.gateway", description=__doc__)
    parser.add_argument("--stable", required=True, help="URL of the predictor.")
    add_address(parser, settings.gateway.host, settings.gateway.port)
    serve(parser.parse_args(arguments), settings)


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
