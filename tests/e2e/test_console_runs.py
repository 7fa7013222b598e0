"""Runs in a browser: one is started by hand and followed to its end."""

from __future__ import annotations

import pytest
from browsing import opened, pictures, require_accessible
from console_world import World
from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

END_SECONDS = 180


def test_a_run_by_hand_is_followed_to_its_end_and_its_key_starts_no_other(world: World, chromium: Browser) -> None:
    nowhere = str(world.folder / "nowhere.parquet")
    with opened(chromium, f"{world.console}/runs") as page:
        for again in (False, True):
            page.goto(f"{world.console}/runs")
            page.get_by_text("Start a run by hand").click()
            page.get_by_label("Name").fill("by-hand")
            page.get_by_label("Base data").fill(nowhere)
            page.get_by_label("Reason").fill("to see what becomes of it")
            page.get_by_role("button", name="Start", exact=True).click()
            page.wait_for_selector("#became")
            said = page.locator(".done").inner_text()
            assert ("asked for before" if again else "was asked for") in said
            assert "to see what becomes of it" in page.locator("dl").inner_text()
            page.locator("#became .level", has_text="failed").wait_for(timeout=1_000 * END_SECONDS)
            assert "nowhere.parquet" in page.locator("main").inner_text()
            require_accessible(page)
        page.goto(f"{world.console}/runs")
        row = page.locator("tbody tr", has_text="manual-by-hand")
        assert row.locator(".level").inner_text() == "failed"


def test_the_view_in_light_and_dark_wide_and_on_a_phone(world: World, chromium: Browser) -> None:
    pictures(chromium, f"{world.console}/runs", "runs")
