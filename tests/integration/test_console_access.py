"""Who is let in to the page, what they may, and what a browser is told to keep to itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from console_pages import ANALYST, ENGINEER, NOBODY, VIEWER

from fraudkit.bundle_store import BundleStore
from fraudkit.errors import InvalidInput
from fraudkit.settings import ConsoleSettings, DetectorSettings, LauncherSettings, RolloutSettings, Settings
from serving.console.access import Access
from serving.console.app import ConsoleApp
from serving.console.context import Console
from serving.console.page import NAVIGATION
from serving.console.peers import Peer, PeerError, Peers
from serving.console.views.runs import LaunchedRecord

PROXIED = ConsoleSettings(
    model=NOBODY,
    user_header="x-user",
    groups_header="x-groups",
    engineers=("platform",),
    analysts=(ANALYST, "fraud"),
)
OPEN = ConsoleSettings(model=NOBODY)
CHANGES = ("/runs", "/threshold", "/alerts/label", "/file/new")


def ask(
    method: str, path: str, own: ConsoleSettings, host: str = "127.0.0.1", body: bytes = b"", **headers: str
) -> httpx.Response:
    """An answer of a console whose parts are all away."""
    settings = Settings(
        bundles="nowhere",
        console=own,
        detector=DetectorSettings(url=NOBODY),
        launcher=LauncherSettings(url=NOBODY),
        rollout=RolloutSettings(url=NOBODY),
    )

    async def answer() -> httpx.Response:
        peers = Peers.of(settings)
        access = Access(own, "127.0.0.1" if own.user_header is None else "0.0.0.0")  # noqa: S104
        app = ConsoleApp(Console(settings, peers, BundleStore(Path("nowhere"))), access)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}:8085") as client:
            found = await client.request(method, path, headers=given, content=body)
        await peers.client.aclose()
        return found

    return asyncio.run(answer())


def test_a_page_for_everybody_is_refused_before_it_begins() -> None:
    with pytest.raises(InvalidInput, match=r"would listen on 0\.0\.0\.0 for everybody: set console\.user_header"):
        Access(OPEN, "0.0.0.0")  # noqa: S104


@pytest.mark.parametrize("path", [path for path, _ in NAVIGATION])
def test_every_view_is_there_with_all_parts_away_and_says_so(path: str) -> None:
    found = ask("GET", path, OPEN)
    assert found.status_code in (200, 502)
    assert "does not answer" in found.text or path in ("/score", "/file")
    assert f'<a href="{path}" aria-current="page">' in found.text


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_on_loopback_the_owner_of_the_machine_may_all(host: str) -> None:
    found = ask("GET", "/score", OPEN, host)
    assert found.status_code == 200
    assert '<span class="role">engineer</span>' in found.text


def test_on_loopback_no_other_name_of_this_machine_is_answered_to() -> None:
    found = ask("GET", "/score", OPEN, "evil.example.com")
    assert found.status_code == 403
    assert "answers to this machine alone" in found.text


def test_behind_a_proxy_nobody_is_let_in_without_a_name() -> None:
    assert ask("GET", "/score", PROXIED).status_code == 401
    assert ask("GET", "/score", PROXIED, x_user=" ").status_code == 401
    assert ask("GET", "/health", PROXIED).json() == {"ready": True}


@pytest.mark.parametrize(
    ("user", "groups", "role"),
    [
        (VIEWER, "", "viewer"),
        (ANALYST, "", "analyst"),
        (VIEWER, "sales, fraud", "analyst"),
        (ENGINEER, "platform,fraud", "engineer"),
        (VIEWER, "platforms", "viewer"),
    ],
)
def test_roles_are_those_of_the_groups_or_the_name(user: str, groups: str, role: str) -> None:
    found = ask("GET", "/score", PROXIED, x_user=user, x_groups=groups)
    assert f'<span class="role">{role}</span>' in found.text


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"origin": "https://evil.example.com"},
        {"origin": "null"},
    ],
)
def test_nothing_is_changed_for_a_page_of_another_place(headers: dict[str, str]) -> None:
    for path in CHANGES:
        found = ask("POST", path, OPEN, **headers)
        assert found.status_code == 403
        assert "a web page of another place" in found.text


def test_a_form_of_the_page_itself_is_taken() -> None:
    own = {"origin": "http://127.0.0.1:8085", "sec_fetch_site": "same-origin"}
    assert ask("POST", "/score", OPEN, **own).status_code == 422


def test_a_form_that_cannot_be_read_is_the_senders_fault() -> None:
    found = ask("POST", "/score", OPEN, body=b"line=\xff\xfe")
    assert found.status_code == 400
    assert "the form cannot be read" in found.text


def test_a_browser_is_told_to_load_nothing_from_elsewhere_and_to_keep_nothing() -> None:
    for path in ("/score", "/nowhere", "/static/console.js"):
        headers = ask("GET", path, OPEN).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert ask("GET", "/score", OPEN).headers["cache-control"] == "no-store"
    assert ask("GET", "/nowhere", OPEN).status_code == 404


def test_a_part_that_answers_something_else_is_said_and_fails_no_page() -> None:
    peer = Peer("launcher", NOBODY, httpx.AsyncClient())
    with pytest.raises(PeerError, match="the launcher does not answer as expected: key: Field required"):
        peer.read(httpx.Response(200, content=b"{}"), LaunchedRecord)
