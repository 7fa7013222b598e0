"""Start the predictor: load and verify the bundle, serve it until SIGTERM or SIGINT, let requests finish."""

from __future__ import annotations

import argparse
import gc
import signal
import socket
import sys
from pathlib import Path

import kserve.model_server
import structlog
import uvicorn

from fraudkit import bundle, logs
from fraudkit.errors import FraudError, InvalidInput, PermanentError
from fraudkit.settings import MODEL_NAME, ServingSettings, load_settings
from serving.predictor.app import Predictor, kserve_app
from serving.predictor.model import FraudModel

log = structlog.get_logger()


def main(arguments: list[str] | None = None) -> int:
    """Serve; 0 after a signal, 1 when the bundle is not sound or the address is taken, 2 on wrong use."""
    logs.configure()
    try:
        limits = load_settings().serving
        serve(_parser(limits).parse_args(arguments), limits)
    except FraudError as error:
        print(f"predictor: {error}", file=sys.stderr)  # noqa: T201  # one line, for a person
        return 2 if isinstance(error, InvalidInput) else 1
    return 0


def serve(options: argparse.Namespace, limits: ServingSettings) -> None:
    """Serve until a signal.

    Raises:
        InvalidInput: More than one worker is wanted.
        BundleError: The bundle is not sound.
        PermanentError: The address cannot be listened on.
    """
    if options.workers != 1:
        raise InvalidInput("--workers: this server has one worker; run more replicas instead")
    model = FraudModel(bundle.load(options.bundle), options.model_name)
    server = uvicorn.Server(_config(Predictor(model, kserve_app(model), limits), options))
    # What is loaded by now lives as long as the process: no collection need walk through it.
    gc.collect()
    gc.freeze()
    listener = _listen(options.host, options.http_port)
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn puts these back when it has drained, and raises the signal once more.
        signal.signal(number, server.handle_exit)
    host, port = listener.getsockname()[:2]
    log.info("predictor started", model=model.name, version=model.version, host=host, port=port)
    server.run(sockets=[listener])
    log.info("predictor stopped", model=model.name, version=model.version)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise PermanentError(f"cannot listen on {host}, port {port}: {error}") from error


def _config(app: Predictor, options: argparse.Namespace) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        interface="asgi3",
        loop=options.event_loop,
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=options.timeout_keep_alive,
        limit_concurrency=1_000,  # connections; beyond, 503
        timeout_graceful_shutdown=20,  # less than the 30 s after which Kubernetes kills
    )


def _parser(limits: ServingSettings) -> argparse.ArgumentParser:
    """KServe's own options, which a ServingRuntime may pass, and ours."""
    parser = argparse.ArgumentParser("python -m serving.predictor", parents=[kserve.model_server.parser])
    parser.add_argument("--bundle", "--model_dir", type=Path, required=True, help="The model bundle.")
    parser.add_argument("--host", default=limits.host, help="The address to listen on.")
    parser.set_defaults(http_port=limits.port, model_name=MODEL_NAME)
    return parser


if __name__ == "__main__":
    sys.exit(main())
