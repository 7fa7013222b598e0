"""The console as an ASGI app: access first, then the views."""

from __future__ import annotations

from typing import Final

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fraudkit.errors import InvalidInput
from fraudkit.http import Field
from serving.console.access import Access, RefusedError, Role, Visitor, require_own_page
from serving.console.context import Console
from serving.console.page import HEADERS, HERE, page
from serving.console.peers import PeerError
from serving.console.views import VIEWS

_NOBODY: Final = Visitor("nobody", Role.VIEWER)


class ConsoleApp:
    """The app; it answers nothing at once.

    Args:
        console: What the views need.
        access: Who may what.
    """

    at_once: frozenset[bytes] = frozenset()

    def __init__(self, console: Console, access: Access) -> None:
        routes: list[BaseRoute] = [
            Route("/", lambda _: RedirectResponse("/score")),
            Route("/health", lambda _: JSONResponse({"ready": True})),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ]
        for view in VIEWS:
            routes += view(console)
        handlers = {
            PeerError: _away,
            InvalidInput: _invalid,
            RefusedError: _refused,
            HTTPException: _http,
            500: _failed,
        }
        self._app: ASGIApp = Guard(Starlette(routes=routes, exception_handlers=handlers), access)  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._app(scope, receive, send)

    def answer(self, target: bytes, headers: list[Field], body: bytes) -> None:
        """Nothing is answered at once."""


class Guard:
    """Asks who it is before anything else, and sets the headers that keep pages to themselves."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        request = Request(scope, receive)
        request.state.visitor = _NOBODY
        try:
            if scope["path"] != "/health":
                request.state.visitor = self._access.visitor(request)
                require_own_page(request)
        except RefusedError as error:
            await page(request, "error.html", error.status, message=str(error))(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)


async def _refused(request: Request, error: RefusedError) -> Response:
    return page(request, "error.html", error.status, message=str(error))


async def _invalid(request: Request, error: InvalidInput) -> Response:
    return page(request, "error.html", 400, message=str(error))


async def _away(request: Request, error: PeerError) -> Response:
    return page(request, "error.html", 502 if error.status is None else 400, message=str(error))


async def _http(request: Request, error: HTTPException) -> Response:
    said = f"there is no page {request.url.path}" if error.status_code == 404 else str(error.detail)
    return page(request, "error.html", error.status_code, message=said)


async def _failed(request: Request, _: Exception) -> Response:
    return page(request, "error.html", 500, message="this page has failed; its log says how")
