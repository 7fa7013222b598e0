"""The first view in a browser: one transaction by hand."""

from __future__ import annotations

import pytest
from browsing import ARTIFACTS, opened, pictures, require_accessible
from console_world import World
from playwright.sync_api import Browser

from fraudkit.schema import INPUTS

pytestmark = pytest.mark.slow


def test_the_gateways_page_is_the_console(world: World, chromium: Browser) -> None:
    with opened(chromium, f"{world.gateway}/") as page:
        assert page.url == f"{world.console}/score"
        assert page.get_by_role("heading", level=1).inner_text() == "Score one transaction"


def test_the_view_in_light_and_dark_wide_and_on_a_phone(world: World, chromium: Browser) -> None:
    pictures(chromium, f"{world.console}/score?example=fraud", "score")


@pytest.mark.parametrize(
    ("example", "alert"), [("normal", "normal"), ("borderline", "review"), ("fraud", "block")]
)
def test_an_example_is_scored_and_the_answer_says_why(
    world: World, chromium: Browser, example: str, alert: str
) -> None:
    with opened(chromium, f"{world.console}/score?example={example}") as page:
        page.get_by_role("button", name="Score", exact=True).click()
        page.wait_for_selector(".answer")
        assert page.locator(".answer .alert").inner_text() == alert
        assert "stable" in page.locator(".answer p").first.inner_text()
        assert page.locator(".answer svg[role=img]").count() == 2
        require_accessible(page)
        page.screenshot(path=ARTIFACTS / f"score-answer-{example}.png", full_page=True)


def test_a_pasted_line_fills_the_fields_and_a_mistake_is_said_at_its_field(
    world: World, chromium: Browser
) -> None:
    with opened(chromium, f"{world.console}/score") as page:
        page.locator("textarea").fill(",".join(["406", *["0.5"] * 28, "9.9"]))
        page.get_by_role("button", name="Score", exact=True).click()
        page.wait_for_selector(".answer")
        assert page.locator("input[name=Amount]").input_value() == "9.9"
        page.locator("input[name=V7]").fill("seven")
        page.locator("input[name=Amount]").fill("-1")
        page.get_by_role("button", name="Score", exact=True).click()
        page.wait_for_selector("#wrong-V7")
        assert page.locator("input[name=V7]").get_attribute("aria-invalid") == "true"
        assert page.locator(".answer").count() == 0
        assert all(page.locator(f"input[name={name}]").input_value() for name in INPUTS)
