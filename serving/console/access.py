"""Who asks, and what they may: open on loopback, elsewhere a header that an authenticating proxy sets.

Whoever reaches the page past the proxy can claim to be anybody: let nobody but the proxy reach it.
"""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request

from fraudkit.errors import InvalidInput
from fraudkit.settings import ConsoleSettings

SAFE: Final = frozenset({"GET", "HEAD"})


class Role(IntEnum):
    """What somebody may; each role may what those below it may."""

    VIEWER = 1
    ANALYST = 2
    ENGINEER = 3

    @property
    def title(self) -> str:
        """Its name."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks.

    Attributes:
        name: As the proxy, or the machine, names them.
        role: What they may.
    """

    name: str
    role: Role


class RefusedError(Exception):
    """A request that is not answered; with its status, and what to do."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Access:
    """Tells who asks, and refuses who may not.

    Args:
        settings: The header, and the groups of each role.
        host: Where the page listens.

    Raises:
        InvalidInput: It listens beyond loopback, and no header says who asks.
    """

    def __init__(self, settings: ConsoleSettings, host: str) -> None:
        if settings.user_header is None and not is_loopback(host):
            raise InvalidInput(
                f"the page would listen on {host} for everybody: set console.user_header to the header in which "
                "an authenticating proxy names the user, or listen on 127.0.0.1"
            )
        self._settings = settings
        self._owner = Visitor(_owner(), Role.ENGINEER)

    def visitor(self, request: Request) -> Visitor:
        """Who asks.

        Raises:
            RefusedError: Nobody says who it is, or the page goes by a name that is not its own (DNS rebinding).
        """
        header = self._settings.user_header
        if header is None:
            if not is_loopback(request.url.hostname or ""):
                raise RefusedError(
                    403, f"this page answers to this machine alone, and not as {request.url.hostname}"
                )
            return self._owner
        name = request.headers.get(header, "").strip()
        if not name or not name.isprintable() or len(name) > 200:
            raise RefusedError(401, f"nobody says who you are: the proxy in front of this page sets {header}")
        given = request.headers.get(self._settings.groups_header or "", "")
        groups = {group.strip() for group in given.split(",")}
        for role, named in ((Role.ENGINEER, self._settings.engineers), (Role.ANALYST, self._settings.analysts)):
            if groups & set(named) or name in named:
                return Visitor(name, role)
        return Visitor(name, Role.VIEWER)


def may(request: Request, role: Role, what: str) -> Visitor:
    """Who asks, where they have a role.

    Raises:
        RefusedError: They have not.
    """
    visitor: Visitor = request.state.visitor
    if visitor.role < role:
        raise RefusedError(403, f"{what} takes the role {role.title}; {visitor.name} is {visitor.role.title}")
    return visitor


def require_own_page(request: Request) -> None:
    """Raise RefusedError for a change that a page of another site asks for; browsers say which it is."""
    if request.method in SAFE:
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    foreign = site not in (None, "same-origin", "none")
    if foreign or (origin is not None and urlsplit(origin).netloc != request.headers.get("host")):
        raise RefusedError(403, "nothing is changed for a web page of another place")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by name or address."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _owner() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return f"user {os.getuid()}"
