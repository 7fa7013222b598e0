"""Thresholds in a browser: looked at by slider and by form. None is applied: the platform stays as it is."""

from __future__ import annotations

import pytest
from browsing import opened, pictures, require_accessible
from console_world import World
from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow


def shown(page: Page) -> list[str]:
    """What the page says of the chosen thresholds."""
    return [*page.locator("td[data-cell]").all_inner_texts(), page.locator("[data-cost]").inner_text()]


def test_the_view_in_light_and_dark_wide_and_on_a_phone(world: World, chromium: Browser) -> None:
    pictures(chromium, f"{world.console}/threshold?review=0.02&block=0.9", "threshold")


def test_a_slider_says_what_the_server_says_of_the_same_thresholds(world: World, chromium: Browser) -> None:
    with opened(chromium, f"{world.console}/threshold") as page:
        before, slider = shown(page), page.locator("[data-slider=review]")
        for _ in range(6):
            slider.press("ArrowRight")
        moved = shown(page)
        assert moved != before
        assert (slider.get_attribute("aria-valuetext") or "").startswith(moved[0])
        assert page.locator("form[method=post] [data-cell='review.text']").inner_text() == moved[0]
        page.get_by_role("button", name="Show").click()
        page.wait_for_url("**review=**")
        assert shown(page) == moved
        assert page.locator("tbody td.number:not([data-cell])").first.inner_text() == before[0]
        require_accessible(page)


def test_review_stays_below_block_whichever_is_moved(world: World, chromium: Browser) -> None:
    with opened(chromium, f"{world.console}/threshold") as page:
        for which, key in (("review", "End"), ("block", "Home")):
            page.locator(f"[data-slider={which}]").press(key)
            review, block = (float(page.locator(f"#{name}").input_value()) for name in ("review", "block"))
            assert review < block


def test_thresholds_that_are_none_and_such_as_hold_are_refused_on_the_page(
    world: World, chromium: Browser
) -> None:
    with opened(chromium, f"{world.console}/threshold?review=0.9&block=0.5") as page:
        assert "review < block" in page.locator(".problem").inner_text()
        assert page.locator("#review").input_value() == "0.9"
        page.goto(f"{world.console}/threshold")
        page.get_by_label("Reason").fill("to see what is said")
        page.get_by_role("button", name="Apply").click()
        page.wait_for_selector(".problem")
        said = page.locator(".problem").inner_text()
        assert "are what this version has" in said or "goes on" in said
        assert page.get_by_label("Reason").input_value() == "to see what is said"
        require_accessible(page)
