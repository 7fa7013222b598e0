"""The view of files in a browser: dropped or chosen, followed, looked through, and taken away."""

from __future__ import annotations

import base64
import csv
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from browsing import ARTIFACTS, opened, pictures, require_accessible
from console_world import World
from playwright.sync_api import Browser, Page, expect

from fraudkit.schema import INPUTS
from pipelines.data.synthesize import synthesize, write

pytestmark = pytest.mark.slow
MANY, FEW = 100_000, 3_000
MILLISECONDS = 240_000.0
DROPPED = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
  const given = new DataTransfer();
  given.items.add(new File([bytes], name));
  const drop = { dataTransfer: given, bubbles: true, cancelable: true };
  document.querySelector("[data-upload]").dispatchEvent(new DragEvent("drop", drop));
}"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "many.csv"
    write(path, synthesize(MANY, 3, fraud_rate=0.01))
    return path


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few rows: two with a mistake, one that breaks off, and a formula."""
    path = tmp_path_factory.mktemp("files") / "bad.csv"
    write(path, synthesize(FEW, 4, fraud_rate=0.01))
    lines = path.read_text().splitlines()
    lines = [f"shop,{lines[0]}", *(f"shop {i % 7},{line}" for i, line in enumerate(lines[1:]))]
    lines[10] = re.sub("^shop [0-9],", "=HYPERLINK(),", lines[10])
    lines[20] = re.sub("^(shop [0-9]),[^,]*,", r"\1,noon,", lines[20])
    lines[30] = re.sub("^(shop [0-9]),[^,]*,", r"\1,-5,", lines[30])
    lines[40] = "broken off"
    path.write_text("\n".join(lines) + "\n")
    return path


def send(page: Page, path: Path) -> None:
    page.get_by_label("File", exact=True).set_input_files(path)
    expect(page.get_by_role("heading", level=1, name=path.name)).to_be_visible(timeout=MILLISECONDS)
    expect(page.get_by_role("heading", name="Summary")).to_be_visible(timeout=MILLISECONDS)


def tile(page: Page, name: str) -> str:
    return page.locator(f".tiles div:has(dt:text-is('{name}')) dd").inner_text()


def test_before_a_file_is_sent_the_view_is_whole(world: World, chromium: Browser) -> None:
    pictures(chromium, f"{world.console}/file", "file")


def test_a_hundred_thousand_rows_are_scored_and_their_alerts_come_first(
    world: World, chromium: Browser, many: Path
) -> None:
    with opened(chromium, f"{world.console}/file") as page:
        send(page, many)
        assert tile(page, "Rows") == f"{MANY:,}"
        assert tile(page, "Not scored") == "0"
        assert page.locator("#rows tbody tr").first.locator(".alert").inner_text() == "block"
        assert page.locator("svg[role=img]").count() == 2
        page.locator("select[name=alert]").select_option("review")
        page.get_by_role("button", name="Filter").click()
        expect(page.locator("#rows caption")).to_contain_text(f"{tile(page, 'Review')} row")
        assert set(page.locator("#rows tbody .alert").all_inner_texts()) == {"review"}
        page.get_by_role("link", name="All rows").click()
        page.get_by_role("link", name="Amount").click()
        expect(page.locator("th[aria-sort]")).to_contain_text("Amount")
        page.get_by_role("link", name="Next").click()
        expect(page.locator(".pager")).to_contain_text(f"Page 2 of {MANY // 50:,}")
        url = page.url.split("?")[0]
    pictures(chromium, url, "file-scored")


def test_bad_rows_are_named_and_every_row_comes_back(
    world: World, chromium: Browser, bad: Path, tmp_path: Path
) -> None:
    with opened(chromium, f"{world.console}/file") as page:
        content = base64.b64encode(bad.read_bytes()).decode()
        page.evaluate(DROPPED, [bad.name, content])
        expect(page.get_by_role("heading", name="3 rows could not be scored")).to_be_visible(timeout=MILLISECONDS)
        wrong = page.locator("section[aria-labelledby=wrong] tbody tr").all_inner_texts()
        assert [one.split("\t") for one in wrong] == [
            ["21", "Time", "'noon' is not a number"],
            ["31", "Time", "'-5' is negative, must be ≥ 0"],
            ["41", "the whole row", "has 1 values, the header has 32"],
        ]
        require_accessible(page)
        page.screenshot(path=ARTIFACTS / "file-bad-rows.png", full_page=True)
        for kind in ("CSV", "Parquet"):
            with page.expect_download(timeout=MILLISECONDS) as coming:
                page.get_by_role("link", name=f"Download {kind}").click()
            coming.value.save_as(tmp_path / kind)
            assert coming.value.suggested_filename == f"bad-scored.{kind.lower()}"
        page.get_by_role("link", name="Why, row").first.click()
        expect(page.get_by_role("heading", name="Why")).to_be_visible()
        require_accessible(page)
        page.screenshot(path=ARTIFACTS / "file-row.png", full_page=True)
    sent = list(csv.reader(bad.read_text().splitlines()))
    names, *rows = list(csv.reader((tmp_path / "CSV").read_text().splitlines()))
    assert names[: len(sent[0])] == sent[0]
    assert len(rows) == FEW == pq.read_metadata(tmp_path / "Parquet").num_rows
    assert rows[9][0] == "'=HYPERLINK()"
    assert rows[9][1 : len(sent[0])] == sent[10][1:]
    assert rows[0][: len(sent[0])] == sent[1]
    assert sum(bool(row[-1]) for row in rows) == 3
    assert all(row[names.index("reasons")] for row in rows if not row[-1])


def test_a_file_without_the_columns_is_told_which_are_missing(
    world: World, chromium: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with opened(chromium, f"{world.console}/file") as page:
        page.get_by_label("File", exact=True).set_input_files(path)
        problem = page.get_by_role("alert")
        expect(problem).to_contain_text("Time: the column is missing", timeout=MILLISECONDS)
        expect(problem).to_contain_text(f"and {len(INPUTS) - 3} more")
        require_accessible(page)
        page.get_by_role("link", name="Send another file").click()
        expect(page.locator("table")).to_contain_text("failed")
