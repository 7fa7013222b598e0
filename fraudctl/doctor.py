"""What is missing on this machine, and how to get it."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fraudkit.bundle_store import BundleStore
from fraudkit.errors import InvalidInput, TemporaryError
from fraudkit.settings import Settings, load_settings

PACKAGES: Final = {
    "pipelines": ("kfp", "mlflow", "pandas", "pyarrow", "scikit-learn", "skops"),
    "serving": ("aiohttp", "kserve", "orjson", "starlette", "uvicorn", "prometheus-client", "grpcio"),
    "detectors": ("alembic", "alibi-detect", "httpx", "psycopg", "scipy", "sqlalchemy"),
}
"""What each extra brings, by the names of packages."""
TOOLS: Final = {
    "kubectl": "to look at a cluster",
    "helm": "to install the chart",
    "kind": "to make a cluster on this machine",
    "docker": "to build images",
}
FREE_BYTES: Final = 2 * 1024**3
LICENCE: Final = (
    "alibi-detect is under the Business Source License 1.1: production needs a licence from Seldon unless you "
    "are a non-profit educational institution; `detector.engine: scipy` decides alike and needs none"
)


class State(StrEnum):
    """How something is."""

    OK = "ok"
    NOTE = "note"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was looked at, how it is, and what to do about it."""

    what: str
    state: State
    said: str


def examine() -> list[Finding]:
    """Everything that is looked at, in the order in which one would mend it."""
    findings = [_python(), *_packages()]
    try:
        settings = load_settings()
    except InvalidInput as error:
        return [*findings, Finding("settings", State.MISSING, str(error)), *_tools()]
    return [*findings, Finding("settings", State.OK, "read"), *_machine(settings), _engine(settings), *_tools()]


def show(findings: list[Finding], console: Console) -> None:
    """One line each."""
    colours = {State.OK: "green", State.NOTE: "yellow", State.MISSING: "red"}
    table = Table("what", "is", "said", show_lines=False)
    for finding in findings:
        table.add_row(finding.what, f"[{colours[finding.state]}]{finding.state}[/]", escape(finding.said))
    console.print(table)


def _python() -> Finding:
    said = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info < (3, 13):
        return Finding("Python", State.OK, said)
    return Finding("Python", State.MISSING, f"{said}; 3.11 or 3.12 is needed")


def _packages() -> Iterator[Finding]:
    for extra, names in PACKAGES.items():
        missing = [name for name in names if not _installed(name)]
        if missing:
            said = f"{', '.join(missing)}: make env, or pip install 'fraud-platform[{extra}]'"
            yield Finding(f"packages: {extra}", State.MISSING, said)
        else:
            yield Finding(f"packages: {extra}", State.OK, ", ".join(f"{name} {version(name)}" for name in names))


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _machine(settings: Settings) -> Iterator[Finding]:
    folder = settings.state.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if not there.is_dir() or not _writable(there):
        yield Finding("state folder", State.MISSING, f"{folder} cannot be written to; set FRAUD_STATE to another")
    elif free < FREE_BYTES:
        yield Finding("state folder", State.NOTE, f"{folder}: only {free / 1024**3:.1f} GiB free")
    else:
        yield Finding("state folder", State.OK, f"{folder}, {free / 1024**3:,.0f} GiB free")
    store = BundleStore.of(settings)
    try:
        bundles = store.versions()
    except TemporaryError as error:
        yield Finding("models", State.NOTE, str(error))
        bundles = None
    if bundles:
        yield Finding("models", State.OK, f"{len(bundles)} in {store}")
    elif bundles is not None:
        yield Finding("models", State.NOTE, "none yet: fraudctl train makes one, fraudctl up does so by itself")
    for name, port in (("gateway", settings.gateway.port), ("detector", settings.detector.port)):
        if _free(port):
            yield Finding(f"port {port}", State.OK, f"free for the {name}")
        else:
            said = f"in use; unless by the {name} itself, set FRAUD__{name.upper()}__PORT to another"
            yield Finding(f"port {port}", State.NOTE, said)


def _engine(settings: Settings) -> Finding:
    if settings.detector.engine == "alibi":
        return Finding("drift engine", State.NOTE, LICENCE)
    return Finding("drift engine", State.OK, "scipy: no licence is needed")


def _tools() -> Iterator[Finding]:
    for name, purpose in TOOLS.items():
        found = shutil.which(name)
        yield Finding(name, State.OK if found else State.NOTE, found or f"not found; only needed {purpose}")


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
