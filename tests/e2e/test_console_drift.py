"""The drift view in a browser, on a platform whose traffic has changed."""

from __future__ import annotations

import time

import pytest
from browsing import opened, pictures, require_accessible
from console_world import World
from playwright.sync_api import Browser, expect

from serving.console.verdicts import HistoryRecord, WindowRecord

pytestmark = pytest.mark.slow
JUDGED_SECONDS = 90.0


@pytest.fixture(scope="module")
def drifting(world: World) -> WindowRecord:
    """The first window of a drift; windows are judged some seconds after their traffic."""
    deadline = time.monotonic() + JUDGED_SECONDS
    while True:
        answer = world.get("/v1/models/fraud/drift/history?limit=384").raise_for_status()
        windows = HistoryRecord.model_validate_json(answer.content).windows
        found = [one for one in windows if one.verdict.level == "drift"]
        if found:
            return found[-1]
        assert time.monotonic() < deadline, [one.verdict for one in windows]
        time.sleep(0.2)


def test_the_view_in_light_and_dark_wide_and_on_a_phone(
    world: World, chromium: Browser, drifting: WindowRecord
) -> None:
    pictures(chromium, f"{world.console}/drift?last=384&window={drifting.id}", "drift")


def test_a_drift_is_found_in_time_and_followed_to_the_column_that_moved(
    world: World, chromium: Browser, drifting: WindowRecord
) -> None:
    moved = next(one.subject for one in drifting.statistics("inputs") if one.beyond)
    with opened(chromium, f"{world.console}/drift?last=384") as page:
        page.locator("a .mark.drift").first.click()
        page.wait_for_url(f"**window={drifting.id}*")
        assert page.locator("select[name=window]").input_value() == drifting.id
        expect(page.get_by_role("heading", name=f"{moved}: this window beside the reference")).to_be_visible()
        expect(page.locator("#channels ~ .scroll .beyond").first).to_be_visible()
        expect(page.locator(".story strong", has_text="Drift detected").first).to_be_visible()
        page.get_by_text("The same as a table").click()
        expect(page.get_by_role("rowheader", name=moved, exact=True)).to_be_visible()
        require_accessible(page)


def test_by_keyboard_another_feature_is_chosen(world: World, chromium: Browser, drifting: WindowRecord) -> None:
    with opened(chromium, f"{world.console}/drift?last=384&window={drifting.id}") as page:
        page.locator("select[name=feature]").focus()
        page.keyboard.type("V28")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url("**feature=V28*")
        expect(page.get_by_role("heading", name="V28: this window beside the reference")).to_be_visible()


def test_the_verdict_is_loaded_again_by_itself(world: World, chromium: Browser) -> None:
    with opened(chromium, f"{world.console}/drift") as page:
        with page.expect_response("**/drift/now") as loaded:
            page.get_by_role("heading", name="Now").click()
        assert loaded.value.status == 200
        expect(page.locator(".big .level")).to_be_visible()
        expect(page.locator("dt", has_text="Judged until")).to_be_visible()
