"""Models, roll-outs and runs in a browser: a roll-out is followed live to its promotion, and taken back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from browsing import ARTIFACTS, opened, pictures, require_accessible
from console_world import World
from playwright.sync_api import Browser, Page

from fraudctl.traffic import Callers, Synthesized

pytestmark = pytest.mark.slow

SECONDS = 120
BEGIN_SECONDS = 180.0


def champion_of(world: World) -> str:
    url = f"http://127.0.0.1:{world.variables['FRAUD__ROLLOUT__PORT']}/v1/models"
    found = httpx.get(url, trust_env=False).json()["champion"]
    assert found
    return str(found)


def begin(world: World, review: float, block: float) -> str:
    """The version of a child of the champion whose roll-out has begun, once none goes on."""
    body = {"review": review, "block": block, "by": "a test", "reason": "to follow it"}
    deadline = time.monotonic() + BEGIN_SECONDS
    while True:
        url = f"{world.gateway}/v1/bundles/{champion_of(world)}/thresholds"
        answer = httpx.post(url, json=body, timeout=30, trust_env=False)
        if answer.status_code == 201:
            return str(answer.json()["version"])
        assert answer.status_code == 409, answer.text
        assert time.monotonic() < deadline, answer.text
        time.sleep(1)


@contextmanager
def traffic(world: World) -> Iterator[None]:
    """Somebody asks the model all the time."""
    over = threading.Event()

    def ask() -> None:
        with Callers(world.gateway, world.variables["FRAUD__DETECTOR__URL"], Synthesized(9)) as callers:
            callers.sent = 1_000_000  # no transaction has the id of an earlier one
            callers.flow(new=False, over=lambda _: over.is_set())

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def act(page: Page, button: str, action: str, reason: str) -> None:
    page.get_by_label("Reason").first.fill(reason)
    page.get_by_role("button", name=button).click()
    page.wait_for_url(f"**/models?did={action}")
    assert page.locator(".done").count() == 1


def test_the_view_in_light_and_dark_wide_and_on_a_phone(world: World, chromium: Browser) -> None:
    pictures(chromium, f"{world.console}/models", "models")
    pictures(chromium, f"{world.console}/models/{champion_of(world)}", "version")


def test_a_version_tells_its_story_with_its_gate_and_its_metrics(world: World, chromium: Browser) -> None:
    with opened(chromium, f"{world.console}/models") as page:
        page.locator(".tale h3 a").last.click()
        page.wait_for_selector("#origin")
        assert "first model" in page.locator("#rollouts").locator("..").inner_text()
        assert page.locator("svg .dot").count() >= 6
        assert "AUPRC" in page.locator("table.folds").first.inner_text()
        page.get_by_text("Model card").click()
        assert page.get_by_text("At the natural rate", exact=False).first.is_visible()


def test_a_roll_out_is_followed_live_steered_promoted_and_taken_back(world: World, chromium: Browser) -> None:
    version, former = begin(world, 0.031, 0.81), champion_of(world)
    with opened(chromium, f"{world.console}/models") as page:
        now = page.locator("#now")
        now.get_by_text(version).wait_for()
        act(page, "Pause", "pause", "to look at it")
        page.get_by_text("to look at it").first.wait_for()
        page.locator("#now .level", has_text="paused").wait_for()
        act(page, "Resume", "resume", "it looks well")
        before = page.evaluate("performance.timeOrigin")
        with traffic(world):
            page.locator(".need progress").first.wait_for(timeout=1_000 * SECONDS)
            page.locator(".steps .pass").first.wait_for(timeout=1_000 * SECONDS)
            assert page.locator(".steps li").count() == 4
            require_accessible(page)
            page.screenshot(path=ARTIFACTS / "models-rollout.png", full_page=True)
            page.locator("#now .level", has_text="provisional").wait_for(timeout=1_000 * SECONDS)
        assert page.evaluate("performance.timeOrigin") == before
        assert champion_of(world) == version
        assert page.locator(".steps .pass").count() == 4
        page.reload()
        assert page.get_by_text("how good", exact=False).first.is_visible()
        act(page, "Take it back", "rollback", "it was a test")
        page.locator(".tale .reversed, .tale .reversing").first.wait_for()
    found = httpx.get(f"{world.gateway}/v1/rollouts/manual-thresholds-{version}", trust_env=False).json()
    assert [(hand["action"], hand["reason"]) for hand in found["hands"]] == [
        ("pause", "to look at it"),
        ("resume", "it looks well"),
        ("rollback", "it was a test"),
    ]
    deadline = time.monotonic() + SECONDS
    while champion_of(world) != former:
        assert time.monotonic() < deadline
        time.sleep(0.2)
