"""One module a view: its routes, and what it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from starlette.routing import BaseRoute

from serving.console.context import Console
from serving.console.views import alerts, drift, file, models, runs, score, threshold, version

VIEWS: Final[tuple[Callable[[Console], Sequence[BaseRoute]], ...]] = (
    score.routes,
    alerts.routes,
    threshold.routes,
    drift.routes,
    file.routes,
    models.routes,
    version.routes,
    runs.routes,
)
