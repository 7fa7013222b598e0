"""Start the gateway: pass requests on until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import sys

import structlog

from fraudkit import logs
from fraudkit.errors import FraudError, InvalidInput
from fraudkit.http import Server, config, listen
from fraudkit.settings import Settings, load_settings
from serving.gateway.app import Gateway
from serving.gateway.payloads import PayloadLogger
from serving.gateway.traffic import Split, Traffic

log = structlog.get_logger()


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
        PermanentError: The address cannot be listened on.
    """
    listener = listen(options.host, options.port)
    asyncio.run(_run(listener, options, settings))


async def _run(listener: socket.socket, options: argparse.Namespace, settings: Settings) -> None:
    payloads = PayloadLogger(f"{settings.detector.url}/", settings.gateway.queue)
    split = Split(Traffic(stable=options.stable))
    limits = settings.serving
    gateway = Gateway(split, payloads, settings.detector.url, limits.max_bytes, limits.read_seconds)
    server = Server(config(gateway, 2 * limits.max_bytes, 20, date_header=False), limits.read_seconds)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    host, port = listener.getsockname()[:2]
    log.info("gateway started", host=host, port=port, stable=options.stable, detector=settings.detector.url)
    posting = asyncio.create_task(payloads.run())
    await server.serve(sockets=[listener])
    posting.cancel()
    await asyncio.gather(posting, return_exceptions=True)
    await gateway.close()
    log.info("gateway stopped", **payloads.counts)


if __name__ == "__main__":
    sys.exit(main())
