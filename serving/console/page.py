"""Pages: the templates, what all of them show, and the headers that keep them to themselves."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from fraudkit.schema import INPUTS
from serving.console.peers import PeerError

HERE: Final = Path(__file__).parent
NAVIGATION: Final = (
    ("/score", "Score"),
    ("/file", "File"),
    ("/alerts", "Alerts"),
    ("/drift", "Drift"),
    ("/models", "Models"),
    ("/runs", "Runs"),
    ("/threshold", "Threshold"),
)
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_COMPILED: Final = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(request: Request, template: str, status: int = 200, /, **shown: Any) -> Response:
    """A page, or a part of one that is loaded again by itself, for who asks."""
    common = {"path": request.url.path, "navigation": NAVIGATION, "visitor": request.state.visitor}
    html = _COMPILED.get_template(template).render(common | shown)
    return HTMLResponse(html, status, headers={"cache-control": "no-store"})


def is_away(value: object) -> bool:
    """Whether a part could not be asked."""
    return isinstance(value, PeerError)


def when(moment: datetime | float | None) -> str:
    """A time as people read it, UTC."""
    if moment is None:
        return "–"
    given = moment if isinstance(moment, datetime) else datetime.fromtimestamp(moment, UTC)
    return given.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def percent(share: float | None, digits: int = 1) -> str:
    """A share as people read it."""
    return "–" if share is None else f"{share:.{digits}%}"


def probability(value: float) -> str:
    """A probability with the digits that tell it from its neighbours."""
    if value > 0.9999:
        return "> 99.99%"
    if 0.1 <= value < 0.99:
        return f"{value:.1%}"
    return f"{value:.2%}" if value >= 0.001 else f"{value:.1e}"


_COMPILED.tests["away"] = is_away
_COMPILED.filters.update(when=when, percent=percent, probability=probability)
_COMPILED.globals["INPUTS"] = INPUTS
