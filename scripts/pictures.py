"""Write the README's pictures to docs/pictures: the page of a platform that runs (`fraudctl demo`)."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Final

from playwright.sync_api import sync_playwright

FOLDER: Final = Path(__file__).parents[1] / "docs" / "pictures"
WINDOW: Final = {"width": 1160, "height": 760}
VIEWS: Final = {"score": "/score?example=fraud", "drift": "/drift", "models": "/models"}


def main() -> None:
    """Take them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8085", help="Of the page.")
    parser.add_argument("--browser", default=shutil.which("chromium"), help="Chromium.")
    options = parser.parse_args()
    if options.browser is None:
        sys.exit("there is no Chromium here: `apt-get install chromium`")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.browser, args=["--no-sandbox"])
        page = browser.new_page(viewport=WINDOW)  # type: ignore[arg-type]  # a TypedDict of its own
        for name, path in VIEWS.items():
            page.goto(options.url + path)
            if name == "score":
                page.get_by_role("button", name="Score", exact=True).click()
                page.wait_for_selector(".answer")
            if name == "drift":
                page.get_by_role("heading", name="Verdicts over time").evaluate("it => it.scrollIntoView()")
                page.mouse.wheel(0, -90)  # the header lies above
                page.wait_for_timeout(300)
            page.screenshot(path=FOLDER / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
