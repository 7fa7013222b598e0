"""The view of files with a real predictor: sent, scored, looked at, taken away, and kept from others."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from console_pages import ENGINEER, NOBODY, VIEWER
from predictors import Server, transactions

from fraudkit.bundle import Bundle
from fraudkit.bundle_store import BundleStore
from fraudkit.schema import INPUTS
from fraudkit.settings import ConsoleSettings, RolloutSettings, Settings
from serving.console.access import Access
from serving.console.app import ConsoleApp
from serving.console.context import Console
from serving.console.peers import Peers
from serving.console.uploads import AT_WORK, KEEP_OWN, LOT_ROWS

ROWS = 2 * LOT_ROWS + 500
SECONDS = 30.0


class Visit:
    """Somebody at the console."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def get(self, path: str, user: str = ENGINEER) -> httpx.Response:
        return await self._client.get(path, headers={"x-user": user})

    async def post(self, path: str, content: bytes = b"", user: str = ENGINEER) -> httpx.Response:
        return await self._client.post(path, content=content, headers={"x-user": user})

    async def scored(self, content: bytes, name: str = "rows.csv") -> str:
        """Where a file is that was sent, once nothing more becomes of it."""
        sent = await self.post(f"/file?name={name}", content)
        assert sent.status_code == 201, sent.text
        url: str = sent.json()["url"]
        async with asyncio.timeout(SECONDS):
            while not (await self.get(f"{url}/progress")).json()["over"]:
                await asyncio.sleep(0.01)
        return url


Visiting = Callable[[Visit], Awaitable[None]]


def visit(bundle: Bundle, model: str, visiting: Visiting, **settings: int) -> None:
    """Do something at a console of its own."""
    own = ConsoleSettings(user_header="x-user", analysts=(ENGINEER, "another"), model=model, **settings)  # type: ignore[arg-type]
    given = Settings(bundles=bundle.path.parent, console=own, rollout=RolloutSettings(url=NOBODY))

    async def run() -> None:
        peers = Peers.of(given)
        app = ConsoleApp(Console(given, peers, BundleStore.of(given)), Access(own, "0.0.0.0"))  # noqa: S104
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://console")
        async with peers.client, client:
            await visiting(Visit(client))

    asyncio.run(run())


def file_of(rows: np.ndarray, broken: int | None = None) -> bytes:
    lines = [",".join(map(repr, row)) for row in rows.tolist()]
    if broken is not None:
        lines[broken] = "x" + lines[broken]
    return "\n".join([",".join(INPUTS), *lines]).encode()


def test_every_sound_row_is_scored_as_the_model_does_and_the_bad_one_is_named(
    bundle: Bundle, predictor: Server
) -> None:
    rows, broken = transactions(ROWS, 3), LOT_ROWS + 7
    expected = bundle.scorer.probabilities(rows)

    async def visiting(at: Visit) -> None:
        url = await at.scored(file_of(rows, broken))
        page = await at.get(url)
        assert page.status_code == 200
        assert "1 row could not be scored" in page.text
        assert f"{broken + 2:,}</td><td>Time</td>" in page.text
        taken = await at.get(f"{url}/scored.csv")
        assert taken.headers["content-disposition"] == 'attachment; filename="rows-scored.csv"'
        found = list(csv.DictReader(io.StringIO(taken.text)))
        assert len(found) == ROWS
        assert found.pop(broken)["problem"].startswith("Time: 'x")
        probabilities = np.array([float(one["probability"]) for one in found])
        np.testing.assert_allclose(probabilities, np.delete(expected, broken), rtol=1e-12)
        assert {one["model_version"] for one in found} == {bundle.version}
        assert (await at.get(f"{url}/scored.parquet")).content[:4] == b"PAR1"

    visit(bundle, predictor.url, visiting)


def test_a_row_says_why_and_the_table_is_filtered_and_turned_over(bundle: Bundle, predictor: Server) -> None:
    rows = transactions(120, 5)
    expected = bundle.scorer.probabilities(rows)
    review = bundle.scorer.thresholds.review

    async def visiting(at: Visit) -> None:
        url = await at.scored(file_of(rows))
        first = (await at.get(url)).text
        assert f"/row/{int(expected.argmax())}" in first.split("<tbody>")[-1].split("</tr>")[0]
        assert "Page 1 of 3" in first
        assert "Page 3 of 3" in (await at.get(f"{url}?page=9")).text
        alerts = (await at.get(f"{url}?least={review}")).text
        assert f"{int((expected >= review).sum())} rows" in alerts
        assert "No row is so." in (await at.get(f"{url}?text=nothing")).text
        wrong = await at.get(f"{url}?least=much")
        assert wrong.status_code == 422
        assert "must be a number from 0 to 1" in wrong.text
        why = (await at.get(f"{url}/row/7")).text
        assert "What each input adds to the log odds" in why
        assert (await at.get(f"{url}/row/120")).status_code == 404

    visit(bundle, predictor.url, visiting)


def test_a_file_is_its_senders_alone_and_a_viewer_sends_none(bundle: Bundle, predictor: Server) -> None:
    async def visiting(at: Visit) -> None:
        url = await at.scored(file_of(transactions(3)))
        for path in (url, f"{url}/progress", f"{url}/row/0", f"{url}/scored.csv"):
            assert (await at.get(path, "another")).status_code == 404
        assert (await at.post(f"{url}/forget", user="another")).status_code == 404
        assert url in (await at.get("/file")).text
        assert url not in (await at.get("/file", "another")).text
        refused = await at.post("/file", b"x", VIEWER)
        assert refused.status_code == 403
        assert "takes the role analyst" in refused.json()["error"]
        assert "takes the role analyst" in (await at.get("/file", VIEWER)).text
        assert (await at.post(f"{url}/forget")).status_code == 303
        assert (await at.get(url)).status_code == 404

    visit(bundle, predictor.url, visiting)


def test_few_files_are_kept_and_fewer_are_scored_at_a_time(bundle: Bundle, predictor: Server) -> None:
    async def visiting(at: Visit) -> None:
        urls = [await at.scored(file_of(transactions(2, seed))) for seed in range(KEEP_OWN + 1)]
        states = [(await at.get(url)).status_code for url in urls]
        assert states == [404, *[200] * KEEP_OWN]
        rows = file_of(transactions(ROWS))
        sent = await asyncio.gather(*(at.post("/file", rows) for _ in range(AT_WORK + 1)))
        assert sorted(one.status_code for one in sent) == [*[201] * AT_WORK, 429]

    visit(bundle, predictor.url, visiting)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a,b\n1,2\n", "Time: the column is missing"),
        (file_of(np.empty((0, 30))), "the file has no rows"),
        (file_of(transactions(11)), "more than 10 rows"),
    ],
)
def test_a_file_that_is_not_scored_says_why(bundle: Bundle, predictor: Server, content: bytes, said: str) -> None:
    async def visiting(at: Visit) -> None:
        url = await at.scored(content)
        page = await at.get(url)
        assert page.status_code == 422
        assert said in page.text
        assert (await at.get(f"{url}/scored.csv")).status_code == 409

    visit(bundle, predictor.url, visiting, upload_rows=10)


def test_too_long_and_empty_bodies_leave_nothing(bundle: Bundle, predictor: Server) -> None:
    async def visiting(at: Visit) -> None:
        assert (await at.post("/file", b"x" * 101)).status_code == 413
        assert (await at.post("/file", b"")).status_code == 400
        assert "None yet." in (await at.get("/file")).text

    visit(bundle, predictor.url, visiting, upload_bytes=100)


def test_a_model_that_is_away_is_said(bundle: Bundle, tmp_path: Path) -> None:
    async def visiting(at: Visit) -> None:
        url = await at.scored(file_of(transactions(3)))
        assert "the model does not answer at" in (await at.get(url)).text

    visit(bundle, NOBODY, visiting)
