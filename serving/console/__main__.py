"""Serve the console, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

import structlog

from fraudkit.bundle_store import BundleStore
from fraudkit.commands import Arguments, add_address, command
from fraudkit.http import Server, config, listen
from fraudkit.settings import Settings, load_settings
from serving.console.access import Access
from serving.console.app import ConsoleApp
from serving.console.context import Console
from serving.console.peers import Peers

log = structlog.get_logger()


@command("console")
def main(arguments: Arguments) -> None:
    """Serve until a signal."""
    settings = load_settings()
    parser = argparse.ArgumentParser("python -m serving.console", description=__doc__)
    add_address(parser, settings.console.host, settings.console.port)
    options = parser.parse_args(arguments)
    serve(settings, options.host, options.port)


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until a signal.

    Raises:
        InvalidInput: It would be open to everybody.
        PermanentError: The address cannot be listened on.
    """
    own = settings.console
    access = Access(own, host)
    app = ConsoleApp(Console(settings, Peers.of(settings), BundleStore.of(settings)), access)
    listener = listen(host, port)
    server = Server(config(app, own.upload_bytes, 5), own.upload_seconds)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    at, taken = listener.getsockname()[:2]
    log.info("console started", host=at, port=taken)
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listener]))
    log.info("console stopped")


if __name__ == "__main__":
    sys.exit(main())
