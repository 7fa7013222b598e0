"""What several end-to-end tests share, because it takes long to begin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browsing import browser, chromium_here
from console_world import World, console_world
from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A platform with a console; without a browser there is nothing to start it for."""
    chromium_here()
    with console_world(tmp_path_factory.mktemp("console")) as running:
        yield running
