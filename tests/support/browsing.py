"""A browser, and what it looks at: Chromium of this machine, axe-core, pictures as artifacts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

ARTIFACTS = Path(os.environ.get("FRAUD_ARTIFACTS", "artifacts"))
"""Where pictures are kept; no test reads them."""
SERIOUS = {"serious", "critical"}


def chromium_here() -> str:
    """Where Chromium is; skips where this machine has none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("there is no Chromium here: `apt-get install chromium`")
    return found


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium; as long as it runs, its event loop is this thread's, and no test may run one of its own."""
    found = chromium_here()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@contextmanager
def opened(chromium: Browser, url: str, scheme: str = "light", width: int = 1200) -> Iterator[Page]:
    """A page; what its scripts complain of, and what the policy of its contents forbids, fails the test."""
    complaints: list[str] = []
    context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})  # type: ignore[arg-type]
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
    page.goto(url)
    yield page
    context.close()
    assert complaints == []


def require_accessible(page: Page) -> None:
    """No serious violation that axe-core knows of."""
    found = Axe().run(page).response["violations"]
    serious = [
        f"{one['id']}: {one['help']}: {[node['target'] for node in one['nodes']][:3]}"
        for one in found
        if one["impact"] in SERIOUS
    ]
    assert serious == []


def pictures(chromium: Browser, url: str, name: str) -> None:
    """Pictures of a view, light and dark, wide and on a phone; each is accessible and no wider than its window."""
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        for kind, width in (("wide", 1200), ("phone", 390)):
            with opened(chromium, url, scheme, width) as page:
                require_accessible(page)
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                page.screenshot(path=ARTIFACTS / f"{name}-{scheme}-{kind}.png", full_page=True)
