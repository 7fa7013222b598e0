"""Score a file: sent by the browser, scored while one looks on, shown with alerts first, and taken away."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from fraudkit.errors import FraudError, InvalidInput
from fraudkit.schema import INPUTS
from fraudkit.scoring import ALERTS
from serving.console import audit, exports
from serving.console.access import RefusedError, Role, may
from serving.console.context import Console
from serving.console.page import page
from serving.console.peers import PeerError
from serving.console.sifting import BAD, Query, places, row, summed
from serving.console.uploads import Results, Upload, Uploads
from serving.console.views.score import explained

PAGE_ROWS: Final = 50
SHOWN_PROBLEMS: Final = 50
_LONGEST_NAME: Final = 120


def routes(console: Console) -> Sequence[BaseRoute]:
    """The routes."""
    return FileView(console).routes


class FileView:
    """The view.

    Args:
        console: What it needs.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._most = console.settings.console.upload_bytes
        self._uploads = Uploads(console.peers.model, console.settings.console)
        self.routes: Final[Sequence[BaseRoute]] = [
            Route("/file", self._show),
            Route("/file", self._receive, methods=["POST"]),
            Route("/file/{id}", self._one),
            Route("/file/{id}/progress", self._progress),
            Route("/file/{id}/row/{place:int}", self._why),
            Route("/file/{id}/scored.{kind}", self._download),
            Route("/file/{id}/forget", self._forget, methods=["POST"]),
        ]

    async def _show(self, request: Request) -> Response:
        visitor = request.state.visitor
        own = self._console.settings.console
        return page(
            request, "file.html", own=own, uploads=self._uploads.of(visitor), may=visitor.role >= Role.ANALYST
        )

    async def _receive(self, request: Request) -> Response:
        name = Path(request.query_params.get("name", "")).name.strip()[:_LONGEST_NAME]
        name = name if name and name.isprintable() else "file"
        try:
            visitor = may(request, Role.ANALYST, "scoring a file")
            upload = self._uploads.begin(visitor, name)
            await self._take(request, upload)
        except (RefusedError, HTTPException) as error:
            status = error.status if isinstance(error, RefusedError) else error.status_code
            said = str(error) if isinstance(error, RefusedError) else error.detail
            audit.changed(request.state.visitor, "score a file", name, said)
            return JSONResponse({"error": said}, status, headers={"connection": "close"})
        self._uploads.start(upload)
        audit.changed(visitor, "score a file", upload.name, "done", sha256=upload.digest)
        return JSONResponse({"url": f"/file/{upload.id}"}, 201)

    def _asked(self, request: Request) -> Upload:
        return self._uploads.get(request.path_params["id"], request.state.visitor)

    def _scored(self, request: Request) -> tuple[Upload, Results]:
        upload = self._asked(request)
        if upload.stage != "done" or upload.results is None:
            raise RefusedError(409, "this file is not scored yet")
        return upload, upload.results

    async def _one(self, request: Request) -> Response:
        upload = self._asked(request)
        if upload.stage != "done" or upload.results is None:
            return page(request, "file_work.html", 422 if upload.problem else 200, upload=upload)
        query, problem = Query(), ""
        try:
            query = Query.of(request.query_params)
        except InvalidInput as error:
            problem = str(error)
        results = upload.results
        summary = await run_in_threadpool(summed, results)
        found = await run_in_threadpool(places, results, query)
        last = max(-(-len(found) // PAGE_ROWS), 1)
        number = min(query.number, last)
        rows = [row(results, place) for place in found[(number - 1) * PAGE_ROWS : number * PAGE_ROWS].tolist()]
        shown = {"upload": upload, "results": results, "summary": summary, "query": query, "problem": problem}
        wrong = sorted(results.problems.items())[:SHOWN_PROBLEMS]
        more = {"rows": rows, "found": len(found), "number": number, "last": last, "wrong": wrong, "bad": BAD}
        return page(request, "file_results.html", 422 if problem else 200, **shown, **more, kinds=(*ALERTS, BAD))

    async def _progress(self, request: Request) -> Response:
        upload = self._asked(request)
        total = len(upload.results.rows) if upload.results else 0
        return JSONResponse({"stage": upload.stage, "done": upload.done, "total": total, "over": upload.over})

    async def _why(self, request: Request) -> Response:
        upload, results = self._scored(request)
        place = request.path_params["place"]
        if place >= len(results.rows) or results.levels[place] < 0:
            raise RefusedError(404, "there is no such row, or it could not be scored")
        said, problem, it = None, "", row(results, place)
        numbers = dict(zip(INPUTS, results.rows[place].tolist(), strict=True))
        try:
            said = await explained(self._console, numbers | {"id": it.id})
        except (PeerError, FraudError) as error:
            problem = str(error)
        shown = {"upload": upload, "row": it, "scored": said, "problem": problem}
        return page(request, "file_row.html", 502 if problem else 200, **shown)

    async def _download(self, request: Request) -> Response:
        upload, results = self._scored(request)
        kind: exports.Kind = "parquet" if request.path_params["kind"] == "parquet" else "csv"
        target = upload.folder / f"scored.{kind}"
        try:
            if not target.exists():
                await run_in_threadpool(self._export, upload, results, kind, target)
        except FraudError as error:
            raise RefusedError(502, f"the model cannot be read, which gives the reasons: {error}") from error
        stem = upload.name.split(".")[0] or "file"
        return FileResponse(target, media_type=exports.MEDIA[kind], filename=f"{stem}-scored.{kind}")

    async def _forget(self, request: Request) -> Response:
        upload = self._asked(request)
        if upload.over:
            self._uploads.forget(upload)
            audit.changed(request.state.visitor, "forget a file", upload.name, "done", sha256=upload.digest)
        return RedirectResponse("/file", 303)

    async def _take(self, request: Request, upload: Upload) -> None:
        """Put the body of a request into the place of a file; nothing is kept of what does not arrive."""
        digest, size, whole = hashlib.sha256(), 0, False
        try:
            with upload.file.open("wb") as file:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > self._most:
                        raise HTTPException(413, f"a file has at most {self._most:,} bytes")
                    digest.update(chunk)
                    file.write(chunk)
            if not size:
                raise HTTPException(400, "the file is empty")
            upload.digest, whole = digest.hexdigest(), True
        except ClientDisconnect as error:
            raise HTTPException(400, "the file did not arrive") from error
        finally:
            if not whole:
                self._uploads.forget(upload)

    def _export(self, upload: Upload, results: Results, kind: exports.Kind, target: Path) -> None:
        scorers = [self._console.bundles.load(version).scorer for version in results.versions]
        draft = upload.folder / secrets.token_hex(4)
        exports.write(results, upload.folder, scorers, kind, draft)
        draft.replace(target)
