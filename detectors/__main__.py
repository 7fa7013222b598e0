"""Start the detector: take events, keep them, and answer what is asked of the log, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
import uuid
from functools import partial
from typing import Final

import structlog
from prometheus_client import REGISTRY

from detectors.api import openapi
from detectors.api.drift import DriftApi
from detectors.api.transactions import TransactionsApi
from detectors.app import Detector
from detectors.intake import Intake
from detectors.metrics import DriftMetrics, IntakeMetrics
from detectors.store.database import Database
from detectors.store.labels import LabelStore
from detectors.store.log import RequestLog
from detectors.store.transactions import TransactionStore
from detectors.store.verdicts import VerdictStore
from fraudkit.bundle_store import BundleStore
from fraudkit.commands import Arguments, add_address, command
from fraudkit.database import migrate_within
from fraudkit.errors import PermanentError
from fraudkit.http import Server, config, listen
from fraudkit.settings import MODEL_NAME, Settings, load_settings

log = structlog.get_logger()

GRACE_SECONDS: Final = 20
"""For events to be stored, less than the 30 s after which Kubernetes kills."""


@command("detector")
def main(arguments: Arguments) -> None:
    """Serve until a signal."""
    settings = load_settings()
    parser = argparse.ArgumentParser("python -m detectors", description=__doc__)
    add_address(parser, settings.detector.host, settings.detector.port)
    parser.add_argument(
        "--migrate", type=float, metavar="SECONDS", help="Only bring the database to this version, and end."
    )
    options = parser.parse_args(arguments)
    if options.migrate is not None:
        migrate_within(Database(settings.detector_database), options.migrate)
        return
    update = {"host": options.host, "port": options.port}
    serve(settings.model_copy(update={"detector": settings.detector.model_copy(update=update)}))


def serve(settings: Settings) -> None:
    """Serve until a signal.

    Raises:
        InvalidInput: The database's URL is none.
        PermanentError: The address cannot be listened on, or the intake has failed.
    """
    detector = settings.detector
    database = Database(settings.detector_database)
    replica = uuid.uuid4().hex[:12]
    intake = Intake(replica, RequestLog(database, detector.bucket_seconds, replica), MODEL_NAME, detector)
    verdicts = VerdictStore(database)
    REGISTRY.register(IntakeMetrics(intake))
    REGISTRY.register(DriftMetrics(verdicts, detector))
    bundles = BundleStore.of(settings)
    drift = DriftApi(verdicts, detector, settings.drift, bundles)
    transactions = TransactionStore(database, settings.labels)
    others = TransactionsApi(transactions, LabelStore(database), bundles)
    app = Detector(intake, detector, [*drift.routes(), *others.routes(), *openapi.routes()])
    listener = listen(detector.host, detector.port)
    server = Server(config(app, 2 * detector.max_bytes, 5), detector.read_seconds)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    # The thread that stores is at work most of the time: the event loop waits at most this long for its turn.
    sys.setswitchinterval(0.5e-3)
    gc.collect()
    gc.freeze()
    host, port = listener.getsockname()[:2]
    log.info("detector started", host=host, port=port, replica=replica)
    intake.start(database.migrate, partial(os.kill, os.getpid(), signal.SIGTERM))
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listener]))
    failed = intake.failed
    intake.stop(GRACE_SECONDS)
    database.close()
    log.info("detector stopped", replica=replica, stored=intake.counts.new)
    if failed:
        raise PermanentError("the intake has failed; its last log line says how")


if __name__ == "__main__":
    sys.exit(main())
