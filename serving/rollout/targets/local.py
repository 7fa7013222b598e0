"""This machine as a target: a process for each version that serves, behind the gateway.

The processes outlive the controller that started them: one that is killed must not take serving with it. They are
on record in `{state}/servers.json` before they begin, so that the next controller finds them all; they end when
nobody wants them and the gateway has not named them for a while, or in `stop_all`. A controller calls that when it
is told to end, for then the platform ends; the kernel tells it when the platform is killed. If both are killed at
once, the servers stay until the next controller takes them over or ends them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import httpx
import structlog
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fraudkit.bundle_store import BundleStore
from fraudkit.errors import PermanentError, TemporaryError
from fraudkit.processes import LONGEST_WAIT, READY_SECONDS, STOP_SECONDS
from fraudkit.settings import MODEL_NAME
from serving.gateway.traffic import Traffic
from serving.rollout.targets import Observed, Side, Wanted

log = structlog.get_logger()

HOST: Final = "127.0.0.1"
NOBODY: Final = f"http://{HOST}:9"
"""What a gateway is to be started with as stable: that it names this, no other hand has done."""
DRAIN_SECONDS: Final = 5.0
"""For requests to end at a server that the gateway names no longer; beyond, the server itself waits for them."""
ASK_SECONDS: Final = 0.5
"""How long an answer may take; no method asks more than four times."""
_WORDS_BYTES: Final = 1_000
_BEGIN: Final = 'read go && exec "$0" "$@" </dev/null'
"""Waits for a line, which comes once the process is on record, and ends without one."""


class _Server(BaseModel):
    """A process that serves a version.

    Attributes:
        version: The version.
        port: Where it listens.
        pid: The process.
        born: Tells the process from a later one with its pid.
        ending: It was told to end.
        child: The process, if this controller started it.
        began: When this controller came to know of it.
        answered: It has answered.
        idle: Since when the gateway names it no longer, or since when it is ending.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    version: str
    port: int
    pid: int
    born: str
    ending: bool = False
    child: subprocess.Popen[bytes] | None = Field(None, exclude=True)
    began: float = Field(default_factory=time.monotonic, exclude=True)
    answered: bool = Field(False, exclude=True)
    idle: float | None = Field(None, exclude=True)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def alive(self) -> bool:
        return self.child.poll() is None if self.child else _born(self.pid) == self.born != ""

    def send(self, number: signal.Signals) -> None:
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class _Deaths(BaseModel):
    """How often the server of a version has died; how and where it did last; when it may be started again."""

    count: int = 0
    last: str = ""
    port: int = 0
    again: float = Field(0.0, exclude=True)


class _Record(BaseModel):
    """`servers.json`: the processes, the deaths by version, and the traffic that the gateway has from here."""

    servers: list[_Server] = []
    deaths: dict[str, _Deaths] = {}
    told: list[Traffic] = []


class LocalTarget:
    """Stable and canary as processes of this machine. One at a time for a state folder, and not for threads.

    Args:
        bundles: The store of bundles.
        gateway: URL of the gateway.
        state: Folder for the record of the processes, and their logs.
        drain_seconds: How long a server goes on after the gateway has ceased to name it.

    Raises:
        PermanentError: The record cannot be read.
    """

    def __init__(
        self, bundles: BundleStore, gateway: str, state: Path, drain_seconds: float = DRAIN_SECONDS
    ) -> None:
        self._bundles = bundles
        self._gateway = gateway.rstrip("/")
        self._file = state.absolute() / "servers.json"
        self._logs = state.absolute() / "logs"
        self._drain_seconds = drain_seconds
        self._record = _read(self._file)
        # No connection is kept: one that the other side closes at that moment would look like a failure.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(timeout=ASK_SECONDS, trust_env=False, limits=limits)

    def apply(self, wanted: Wanted, mark: str) -> str:
        """Start who is missing, tell the gateway of who is ready, and end who is left over and has drained."""
        self._bury()
        for _, version in _sides(wanted):
            self._start_missing(version)
        seen = self._ask_gateway("GET")
        foreign = self._foreign(seen, wanted, mark)
        if foreign:
            raise TemporaryError(foreign)
        goal = self._goal(wanted, seen)
        if goal != seen:
            self._save(told=[seen, goal])  # if no answer comes, it has one or the other
            seen = self._ask_gateway("PUT", goal)
            self._save(told=[goal])
            log.info("gateway told", **goal.model_dump())
        self._retire(wanted, seen)
        return seen.model_dump_json()

    def observe(self, wanted: Wanted, mark: str) -> Observed:
        """What the gateway and the servers say; those who are left over and have drained are ended here too."""
        self._bury()
        seen = self._ask_gateway("GET")
        self._retire(wanted, seen)
        ready = {side: self._answers(self._server(version)) for side, version in _sides(wanted)}
        problems = (self._problem(side, version, ready[side]) for side, version in _sides(wanted))
        return Observed(
            settled=seen == self._traffic(wanted) and all(ready.values()),
            ready=ready.get(Side.CANARY),
            problem="; ".join(filter(None, problems)),
            foreign=self._foreign(seen, wanted, mark),
            mark=seen.model_dump_json(),
        )

    def servers(self, wanted: Wanted) -> dict[Side, tuple[str, ...]]:
        """The server of each side; none until it is ready."""
        self._bury()
        found = ((side, self._ready(version)) for side, version in _sides(wanted))
        return {side: (server.url,) if server else () for side, server in found}

    def fallbacks(self) -> int:
        """The gateway's counter."""
        try:
            text = self._client.get(f"{self._gateway}/metrics").raise_for_status().text
        except httpx.HTTPError as error:
            raise TemporaryError(f"the gateway at {self._gateway} gave no metrics: {error}") from error
        for family in text_string_to_metric_families(text):
            if family.name == "fraud_gateway_fallbacks":
                return int(family.samples[0].value)
        raise PermanentError(f"the gateway at {self._gateway} does not count fallbacks: is this its URL?")

    def close(self) -> None:
        """Let go of connections; the servers go on."""
        self._client.close()

    def stop_all(self) -> None:
        """End all servers and wait for it, because the platform ends; the gateway should have ended before.

        Raises:
            TemporaryError: The record cannot be written.
        """
        servers = self._record.servers
        for server in servers:
            server.send(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while any(server.alive() for server in servers):
            if time.monotonic() > deadline:
                for server in servers:
                    server.send(signal.SIGKILL)
            time.sleep(0.05)
        self._record = _Record()
        self._save()

    # Processes

    def _start_missing(self, version: str) -> None:
        """Start the server of a version, unless there is one or it has died too often to be started yet."""
        died = self._record.deaths.get(version, _Deaths())
        if self._server(version) or time.monotonic() < died.again:
            return
        port = _free_port(died.port)
        bundle = self._bundles.find(version) or self._bundles.folder / version  # it says itself what it lacks
        serve = ("--bundle", str(bundle), "--host", HOST, "--http_port", str(port), "--enable_grpc", "false")
        command = ["/bin/sh", "-c", _BEGIN, sys.executable, "-m", "serving.predictor", *serve]
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            with self._log(version).open("ab") as file:
                child = subprocess.Popen(  # noqa: S603
                    command, stdin=subprocess.PIPE, stdout=file, stderr=file, start_new_session=True
                )
        except OSError as error:
            raise TemporaryError(f"the server of {version} cannot be started: {error}") from error
        server = _Server(version=version, port=port, pid=child.pid, born=_born(child.pid), child=child)
        self._record.servers.append(server)
        try:
            self._save()
        except TemporaryError:
            child.communicate()  # it was not told to go, and ends
            self._record.servers.remove(server)
            raise
        with contextlib.suppress(BrokenPipeError), child.stdin as gate:  # type: ignore[union-attr]  # it is a pipe
            gate.write(b"\n")
        log.info("server started", version=version, port=port, pid=child.pid)

    def _bury(self) -> None:
        """Take those who have ended off the record, and count those who were not told to."""
        dead = [server for server in self._record.servers if not server.alive()]
        for server in dead:
            self._record.servers.remove(server)
            if server.ending:
                log.info("server ended", version=server.version, pid=server.pid)
                continue
            died = self._record.deaths.setdefault(server.version, _Deaths())
            died.count += 1
            died.port = server.port
            died.again = server.began + min(2.0**died.count, LONGEST_WAIT)
            code = f"with {server.child.returncode}; " if server.child else ""
            died.last = f"{code}its log ends: {_last_words(self._log(server.version))}"
            log.warning("server died", version=server.version, pid=server.pid, times=died.count, last=died.last)
        if dead:
            self._save()

    def _retire(self, wanted: Wanted, seen: Traffic) -> None:
        """End those whom nobody wants and the gateway has not named for long enough."""
        now, versions = time.monotonic(), {version for _, version in _sides(wanted)}
        for version in self._record.deaths.keys() - versions:
            del self._record.deaths[version]
        for server in self._record.servers:
            if not server.ending and (server.version in versions or server.url in (seen.stable, seen.canary)):
                server.idle = None
                continue
            server.idle = now if server.idle is None else server.idle
            if server.ending and now >= server.idle + STOP_SECONDS:
                server.send(signal.SIGKILL)
            elif not server.ending and now >= server.idle + self._drain_seconds:
                server.send(signal.SIGTERM)
                server.ending, server.idle = True, now
                self._save()

    def _server(self, version: str) -> _Server | None:
        return next((one for one in self._record.servers if one.version == version and not one.ending), None)

    def _ready(self, version: str) -> _Server | None:
        """The server of a version, if it has answered."""
        server = self._server(version)
        return server if server and (server.answered or self._answers(server)) else None

    def _answers(self, server: _Server | None) -> bool:
        """Whether a server answers now, as the version that it is."""
        if server is None:
            return False
        try:
            said = self._client.get(f"{server.url}/v1/models/{MODEL_NAME}").json()
        except (httpx.HTTPError, ValueError):
            return False
        answers = isinstance(said, dict) and (said.get("ready"), said.get("model_version")) == (
            True,
            server.version,
        )
        server.answered = server.answered or answers
        return answers

    def _problem(self, side: Side, version: str, ready: bool) -> str:
        """What is wrong with a side. That a canary has died is said even when it answers again."""
        who, died, server = f"the {side} ({version})", self._record.deaths.get(version), self._server(version)
        if died and not (ready and side is Side.STABLE):
            return f"{who} has died {died.count} time{'s' * (died.count > 1)}, last {died.last}"
        if server and not ready and (server.answered or time.monotonic() > server.began + READY_SECONDS):
            return f"{who} runs but does not answer at {server.url} (log: {self._log(version)})"
        return ""

    # The gateway

    def _traffic(self, wanted: Wanted) -> Traffic | None:
        """The traffic that is wanted; None while a server is missing."""
        found = {side: self._server(version) for side, version in _sides(wanted)}
        stable, canary = found[Side.STABLE], found.get(Side.CANARY)
        if stable is None or (wanted.canary is not None and canary is None):
            return None
        return Traffic(stable=stable.url, canary=canary and canary.url, percent=wanted.percent if canary else 0)

    def _goal(self, wanted: Wanted, seen: Traffic) -> Traffic:
        """The traffic as far as servers are ready for it."""
        stable = self._ready(wanted.stable)
        if stable is None:
            return seen
        alone = Traffic(stable=stable.url)
        if wanted.canary is None:
            return alone
        if self._ready(wanted.canary):
            return self._traffic(wanted) or seen
        # One that died and comes back keeps its share, which stable answers meanwhile.
        server, died = self._server(wanted.canary), self._record.deaths.get(wanted.canary)
        port = server.port if server else died and died.port
        return seen if (seen.stable, seen.canary) == (stable.url, f"http://{HOST}:{port}") else alone

    def _foreign(self, seen: Traffic, wanted: Wanted, mark: str) -> str:
        """What another hand has told the gateway."""
        known = [mark] * bool(mark) + [traffic.model_dump_json() for traffic in self._record.told]
        now = seen.model_dump_json()
        if not known or now in known or seen in (Traffic(stable=NOBODY), self._traffic(wanted)):
            return ""
        return f"another hand changed the traffic at {self._gateway}: it is {now}, and was {known[-1]}"

    def _ask_gateway(self, method: Literal["GET", "PUT"], traffic: Traffic | None = None) -> Traffic:
        """The traffic that the gateway says it splits."""
        who = f"the gateway at {self._gateway}"
        content = traffic.model_dump_json().encode() if traffic else None
        try:
            answer = self._client.request(method, f"{self._gateway}/gateway/traffic", content=content)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise PermanentError(f"{self._gateway!r} is no URL of a gateway: {error}") from error
        except httpx.HTTPError as error:
            raise TemporaryError(f"{who} did not answer: {type(error).__name__}: {error}") from error
        if not answer.is_success:
            kind = TemporaryError if answer.is_server_error else PermanentError
            raise kind(f"{who} answers {answer.status_code}: {' '.join(answer.text.split())[:300]}")
        try:
            return Traffic.model_validate_json(answer.content)
        except ValidationError as error:
            raise PermanentError(f"{who} answers, but not as a gateway does: is this its URL?") from error

    # Files

    def _log(self, version: str) -> Path:
        return self._logs / f"predictor-{version}.log"

    def _save(self, told: list[Traffic] | None = None) -> None:
        if told is not None:
            self._record.told = told
        unfinished = self._file.with_suffix(".unfinished")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                file.write(self._record.model_dump_json(indent=1).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self._file)
        except OSError as error:
            raise TemporaryError(f"{self._file} cannot be written: {error}") from error


def _sides(wanted: Wanted) -> Iterator[tuple[Side, str]]:
    yield Side.STABLE, wanted.stable
    if wanted.canary is not None:
        yield Side.CANARY, wanted.canary


def _read(path: Path) -> _Record:
    try:
        return _Record.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return _Record()
    except (OSError, ValidationError) as error:
        what = "end the predictors that still run on this machine, then remove it"
        raise PermanentError(f"{path} cannot be read; {what}: {' '.join(str(error).split())}") from error


def _born(pid: int) -> str:
    """When a process began, as a text that no other process with its pid has; empty once it has ended."""
    try:
        if sys.platform == "linux":
            state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            born = Path("/proc/sys/kernel/random/boot_id").read_text().strip() + f" {fields[18]}"
        else:
            ps = ["/bin/ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid)]
            state, _, born = subprocess.check_output(ps, text=True).strip().partition(" ")  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return ""
    return "" if state.startswith("Z") else born.strip()


def _free_port(liked: int) -> int:
    """A port that is free: the one that is liked, if it is."""
    try:
        probe = socket.create_server((HOST, liked))
    except OSError:
        probe = socket.create_server((HOST, 0))
    with probe:
        port: int = probe.getsockname()[1]
        return port


def _last_words(path: Path) -> str:
    """The end of a log."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - _WORDS_BYTES, 0))
            return file.read().decode(errors="replace").strip() or "it said nothing"
    except OSError:
        return "it said nothing"
