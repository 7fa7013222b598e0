"""Start the predictor: load and verify the bundle, serve it until SIGTERM or SIGINT, let requests finish.

SIGHUP loads what `--bundle`, which may be a link, holds by then; a bundle that is not sound is not served.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import socket
import sys
from pathlib import Path

import kserve.model_server
import structlog
from prometheus_client import REGISTRY

from fraudkit.commands import Arguments, command
from fraudkit.errors import BundleError, InvalidInput
from fraudkit.http import config, listen
from fraudkit.settings import MODEL_NAME, ServingSettings, load_settings
from serving.predictor.app import Predictor, kserve_app
from serving.predictor.grpc_service import GrpcService
from serving.predictor.metrics import Metrics
from serving.predictor.model import FraudModel
from serving.predictor.server import Server
from serving.predictor.work import LargeWork

log = structlog.get_logger()

GRACE_SECONDS = 20
"""For requests to finish, less than the 30 s after which Kubernetes kills."""


@command("predictor")
def main(arguments: Arguments) -> None:
    """Serve until a signal."""
    limits = load_settings().serving
    serve(_parser(limits).parse_args(arguments), limits)


def serve(options: argparse.Namespace, settings: ServingSettings) -> None:
    """Serve until a signal.

    Raises:
        InvalidInput: More than one worker is wanted.
        BundleError: The bundle is not sound.
        PermanentError: An address cannot be listened on.
    """
    if options.workers != 1:
        raise InvalidInput("--workers: this server has one worker; run more replicas instead")
    settings = settings.model_copy(update={"request_log": options.request_log})
    metrics = Metrics()
    REGISTRY.register(metrics)
    model = FraudModel(options.bundle, metrics, options.model_name)
    large = LargeWork()
    predictor = Predictor(model, kserve_app(model), settings, metrics, large)
    service = GrpcService(model, settings, metrics, large) if options.enable_grpc else None
    listener = listen(options.host, options.http_port)
    loop, idle = options.event_loop, options.timeout_keep_alive
    served = config(predictor, 16 * settings.max_bytes, GRACE_SECONDS, loop=loop, timeout_keep_alive=idle)
    server = Server(served, settings.read_seconds, GRACE_SECONDS)
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn puts these back when it has drained, and raises the signal once more.
        signal.signal(number, server.handle_exit)
    # While a large body is worked on in its thread, the event loop waits at most this long for its turn.
    sys.setswitchinterval(0.5e-3)
    # What is loaded by now lives as long as the process: no collection need walk through it.
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(_run(server, listener, predictor, model, service, large, options))


async def _run(
    server: Server,
    listener: socket.socket,
    predictor: Predictor,
    model: FraudModel,
    service: GrpcService | None,
    large: LargeWork,
    options: argparse.Namespace,
) -> None:
    host, port = listener.getsockname()[:2]
    grpc_port = None
    if service:
        listen(options.host, options.grpc_port).close()  # gRPC would say less of what is wrong, in more lines
        server.grpc, grpc_port = service.server(options.host, options.grpc_port)
        await server.grpc.start()
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()  # the loop alone would not keep them
    loop.add_signal_handler(signal.SIGHUP, lambda: reloads.add(loop.create_task(_reload(model, predictor, large))))
    started = {"model": model.name, "version": model.current.version, "host": host, "port": port}
    log.info("predictor started", **started, grpc_port=grpc_port)
    await server.serve(sockets=[listener])
    log.info("predictor stopped", model=model.name, version=model.current.version)


async def _reload(model: FraudModel, predictor: Predictor, large: LargeWork) -> None:
    former = model.current.version
    try:
        await large.run(model.reload)  # one after the other
    except BundleError as error:
        log.error("bundle refused", reason=str(error), model=model.name, version=former)  # noqa: TRY400
        return
    predictor.refresh()
    log.info("bundle loaded", model=model.name, version=model.current.version, former=former)


def _parser(settings: ServingSettings) -> argparse.ArgumentParser:
    """KServe's own options, which a ServingRuntime may pass, and ours."""
    parser = argparse.ArgumentParser("python -m serving.predictor", parents=[kserve.model_server.parser])
    parser.add_argument("--bundle", "--model_dir", type=Path, required=True, help="The bundle, or a link to it.")
    parser.add_argument("--host", default=settings.host, help="The address to listen on.")
    parser.add_argument(
        "--request_log", action="store_true", default=settings.request_log, help="Log a line for each request."
    )
    parser.set_defaults(http_port=settings.port, grpc_port=settings.grpc_port, model_name=MODEL_NAME)
    return parser


if __name__ == "__main__":
    sys.exit(main())
