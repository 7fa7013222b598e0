"""Runs the pipeline on Kubeflow Pipelines over its REST API: its own client costs 1.2 s and 110 MB.

The API knows no idempotency key, and names of runs need not be unique there. So a run has a name that is made of
its order, and is looked for by that name before it is created.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

import httpx
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from fraudkit.errors import FraudError, PermanentError, TemporaryError
from fraudkit.settings import KfpSettings
from pipelines.launcher.backends import Order, Phase, Progress
from pipelines.launcher.pods import placed

COMPILED: Final = Path(__file__).parents[1] / "fraud_training.yaml"
LONGEST_NAME: Final = 128

_UNDER_WAY: Final = frozenset({"RUNTIME_STATE_UNSPECIFIED", "PENDING", "RUNNING", "CANCELING", "PAUSED"})
_AGAIN: Final = frozenset({408, 409, 425, 429})
"""409: somebody else has just created the experiment."""
_NOT_FOUND: Final = 5
"""gRPC's code, which tells KFP's own 404 from one of what stands before it."""
_FRAMES: Final = frozenset({"root", "executor"})
"""Names that KFP gives to parts of a run; they say nothing about which task failed."""
_LONGEST_MESSAGE: Final = 500


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Status(_Record):
    code: int = 0
    message: str = ""


class _Task(_Record):
    display_name: str = ""
    state: str = ""


class _Details(_Record):
    task_details: tuple[_Task, ...] = ()


class _Change(_Record):
    error: _Status | None = None


class _Run(_Record):
    run_id: str
    display_name: str | None = None
    state: str = "RUNTIME_STATE_UNSPECIFIED"
    error: _Status | None = None
    run_details: _Details = _Details()
    state_history: tuple[_Change, ...] = ()


class _Experiment(_Record):
    experiment_id: str


class _Page(_Record):
    runs: tuple[_Run, ...] = ()
    experiments: tuple[_Experiment, ...] = ()
    next_page_token: str = ""


_Read = TypeVar("_Read", bound=_Record)


class _NoSuchRun(PermanentError):
    """KFP itself says that it does not know it."""


class KfpBackend:
    """Kubeflow Pipelines.

    Args:
        settings: Where it is and what runs there run as.
        pipeline: The compiled pipeline.
        results: Where its tasks reach the launcher to tell how a run ended; None has them tell nobody.
        shards: Tasks that the preparation fans out over; with more than one the pipeline is compiled for each run.
    """

    def __init__(
        self, settings: KfpSettings, pipeline: Path = COMPILED, results: str | None = None, shards: int = 1
    ) -> None:
        self._settings = settings
        self._shards = shards
        self._results = results
        self._pipeline = pipeline
        self._api = f"{settings.url.rstrip('/')}/apis/v2beta1"
        self._client = self._connections()
        self._doubtful: dict[str, float] = {}

    def start(self, order: Order) -> str:
        """Start the run of an order, unless it was started before; returns its id.

        Raises:
            TemporaryError: Whether it was started is not known; call again.
            PermanentError: It cannot be started; the message says what to change.
        """
        name = run_name(order)
        run = self._find_run(name)
        if run is None:
            self._wait_out(name)
            run = self._create_run(name, order)
        self._doubtful.pop(name, None)
        return run.run_id

    def look(self, order: Order, handle: str) -> Progress:
        """How far the run is.

        Raises:
            TemporaryError: It cannot be said now. The run goes on even where a person has to do something first.
        """
        try:
            run = self._ask("GET", f"runs/{quote(handle, safe='')}", _Run)
        except _NoSuchRun:
            return Progress(
                Phase.FAILED, f"Kubeflow Pipelines has no run {handle} any more ({order.key})", retry=True
            )
        except PermanentError as error:
            raise TemporaryError(str(error)) from error
        return _progress(run)

    def close(self) -> bool:
        """Close the connections, until the next request. The runs go on there: nothing is left behind here."""
        self._client.close()
        self._client = self._connections()
        return False

    def _find_run(self, name: str) -> _Run | None:
        for page in self._pages("runs", name):
            for run in page.runs:
                # MySQL compares without regard to case. A run that KFP cannot describe comes without its name.
                if run.display_name in (name, None):
                    return run
        return None

    def _wait_out(self, name: str) -> None:
        """KFP may still be at a request whose answer was lost, and lists the run only at its end."""
        if time.monotonic() < self._doubtful.get(name, 0.0):
            raise TemporaryError(
                f"it is not known whether {name} was started: {self._who()} did not answer, and lists no such run"
                f" yet; it has {self._settings.timeout_seconds:g} s to show it before it is started again"
            )

    def _create_run(self, name: str, order: Order) -> _Run:
        compiled = _inline(self._pipeline) if self._shards == 1 else _compiled(self._shards)
        spec = placed(compiled, self._settings.pods)
        run = {
            "display_name": name,
            "description": f"Attempt {order.attempt} of {order.key}",
            "pipeline_spec": spec,
            "runtime_config": {"parameters": self._parameters(name, order, spec)},
            "service_account": self._settings.service_account,
            "experiment_id": self._experiment(),
        }
        try:
            return self._ask("POST", "runs", _Run, json={key: value for key, value in run.items() if value})
        except TemporaryError:
            self._doubtful[name] = time.monotonic() + self._settings.timeout_seconds
            raise

    def _parameters(self, name: str, order: Order, spec: dict[str, Any]) -> dict[str, str | int]:
        known = spec.get("pipeline_spec", spec)["root"].get("inputDefinitions", {}).get("parameters", {})
        parameters: dict[str, str | int | None] = {
            "data_uri": order.data_uri,
            "run": name,
            "trigger": order.key,
            "settings": self._settings_of_tasks(),
            "image": self._settings.image,
        }
        more: dict[str, str | int] = {"attempt": order.attempt}
        if order.since:  # without it nothing is learned from that could mature too late
            more |= {"since": _rfc3339(order.since), "as_of": _rfc3339(order.as_of)}
        parameters |= {key: value for key, value in more.items() if key in known}
        return {key: value for key, value in parameters.items() if value is not None}

    def _settings_of_tasks(self) -> str:
        """The settings of the tasks, with where they tell how the run ended."""
        text = self._settings.settings
        if self._results is None:
            return text
        try:
            told = json.loads(text)
            return json.dumps(told | {"launcher": {"results": self._results} | told.get("launcher", {})})
        except (ValueError, TypeError, AttributeError) as error:
            raise PermanentError(f"launcher.kfp.settings: {text!r} is no JSON object of settings") from error

    def _experiment(self) -> str | None:
        """Id of the experiment; only through it does a run of a multi-user installation have its namespace."""
        name = self._settings.experiment or ("Default" if self._settings.namespace else None)
        if name is None:
            return None
        for page in self._pages("experiments", name):
            if page.experiments:
                return page.experiments[0].experiment_id
        body = {"display_name": name} | self._namespaced()
        return self._ask("POST", "experiments", _Experiment, json=body).experiment_id

    def _pages(self, what: Literal["runs", "experiments"], name: str) -> Iterator[_Page]:
        """What has this name; archived or not."""
        predicate = {"key": "display_name", "operation": "EQUALS", "string_value": name}
        # KFP unquotes the filter once more than HTTP does: a plus sign would become a blank.
        asked = {"filter": quote(json.dumps({"predicates": [predicate]}))} | self._namespaced()
        while True:
            page = self._ask("GET", what, _Page, params=asked)
            yield page
            if not page.next_page_token:
                return
            # The token brings the filter along.
            asked = {"page_token": page.next_page_token} | self._namespaced()

    def _connections(self) -> httpx.Client:
        return httpx.Client(timeout=self._settings.timeout_seconds, trust_env=False)

    def _namespaced(self) -> dict[str, str]:
        return {"namespace": self._settings.namespace} if self._settings.namespace else {}

    def _ask(self, method: Literal["GET", "POST"], path: str, kind: type[_Read], **content: Any) -> _Read:
        url = f"{self._api}/{path}"
        token = self._token()
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            answer = self._client.request(method, url, headers=headers, **content)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise PermanentError(f"launcher.kfp.url: {self._settings.url!r} is not a URL: {error}") from error
        except httpx.HTTPError as error:
            raise TemporaryError(f"{self._who()} did not answer: {type(error).__name__}: {error}") from error
        if not answer.is_success:
            raise self._refusal(answer, path, token)
        try:
            return kind.model_validate_json(answer.content)
        except ValidationError as error:
            # After a POST the run may be there; the next call finds it.
            doubt = TemporaryError if method == "POST" else PermanentError
            raise doubt(f"{self._who()} answers, but not as its API does: is launcher.kfp.url right?") from error

    def _token(self) -> str | None:
        path = self._settings.token
        if path is None:
            return None
        try:
            token = path.read_bytes().decode("ascii", "replace").strip()
        except OSError as error:
            raise PermanentError(f"launcher.kfp.token: cannot read {path}: {error.strerror}") from error
        if not re.fullmatch(r"[!-~]+", token):
            raise PermanentError(f"launcher.kfp.token: {path} {'holds no token' if token else 'is empty'}")
        return token

    def _refusal(self, answer: httpx.Response, path: str, token: str | None) -> FraudError:
        who, status = self._who(), answer.status_code
        told = _status(answer)
        said = " ".join((told.message or answer.text).split())[:_LONGEST_MESSAGE]
        said = f" ({said.replace(token, '…') if token else said})" if said else ""
        if status in _AGAIN or answer.is_server_error:
            return TemporaryError(f"{who} answers {status}{said}")
        if status == httpx.codes.UNAUTHORIZED:
            return PermanentError(f"{who} {self._wanted_token()}{said}")
        if status == httpx.codes.FORBIDDEN:
            return PermanentError(f"{who} refuses: {self._wanted_right(answer.request, path, token)}{said}")
        if status == httpx.codes.NOT_FOUND:
            # "Not Found" alone is what it says to a path that is none of its own.
            kind = _NoSuchRun if told.code == _NOT_FOUND and told.message != "Not Found" else PermanentError
            return kind(f"{who} has nothing at {answer.request.url.path}: is launcher.kfp.url right?{said}")
        if answer.is_redirect:
            return PermanentError(
                f"{who} sends elsewhere ({status}): is launcher.kfp.url a login or a user interface?"
            )
        return PermanentError(f"{who} does not take the request: {status}{said}")

    def _who(self) -> str:
        return f"Kubeflow Pipelines at {self._settings.url}"

    def _wanted_token(self) -> str:
        path = self._settings.token
        if path is None:
            return "wants a token: name the file of one in launcher.kfp.token"
        return (
            f"does not accept the token in {path}: was it issued for this cluster, for KFP's audience, and lately?"
        )

    def _wanted_right(self, request: httpx.Request, path: str, token: str | None) -> str:
        resource, _, item = path.partition("/")
        verb = "create" if request.method == "POST" else "get" if item else "list"
        where = f"in namespace {self._settings.namespace}" if self._settings.namespace else "there"
        right = f"the right to {verb} {resource}.pipelines.kubeflow.org {where}"
        if token is None:
            return f"requests carry no token (launcher.kfp.token), and need {right}"
        return f"{_account(token) or f'the ServiceAccount of the token in {self._settings.token}'} needs {right}"


def run_name(order: Order) -> str:
    """The name of an order's run: always the same, and no other order's."""
    end = f".{order.attempt}"
    room = LONGEST_NAME - len(end)
    if len(order.key) <= room and re.fullmatch(r"[\w.:-]+", order.key, re.ASCII):
        return f"{order.key}{end}"
    # No key that stands for itself has a `~`.
    digest = f"~{hashlib.sha256(order.key.encode()).hexdigest()[:16]}"
    readable = re.sub(r"[^\w.:-]+", "-", order.key, flags=re.ASCII)
    return f"{readable[: room - len(digest)]}{digest}{end}"


def _inline(path: Path) -> dict[str, Any]:
    """The compiled pipeline as a run takes it: alone, or with what only a platform understands."""
    spec, *platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    return {"pipeline_spec": spec, "platform_spec": platform[0]} if platform else spec


def _compiled(shards: int) -> dict[str, Any]:
    """The pipeline for so many shards; compiled in a process of its own, because KFP's import would stay here."""
    with tempfile.TemporaryDirectory(prefix="fraud-pipeline-") as folder:
        path = Path(folder) / "pipeline.yaml"
        command = [sys.executable, "-m", "pipelines.training", str(path), str(shards)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
        if done.returncode:
            said = done.stderr.strip().rpartition("\n")[2][:_LONGEST_MESSAGE]
            raise PermanentError(f"data.shards: the pipeline for {shards} shards cannot be compiled: {said}")
        return _inline(path)


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _progress(run: _Run) -> Progress:
    if run.state == "SUCCEEDED":
        return Progress(Phase.ENDED)
    if run.state == "FAILED":
        return Progress(Phase.FAILED, _failure(run), retry=True)
    if run.state == "CANCELED":
        return Progress(Phase.FAILED, f"somebody cancelled run {run.run_id} on Kubeflow Pipelines")
    if run.state == "SKIPPED":
        return Progress(Phase.FAILED, f"Kubeflow Pipelines skipped run {run.run_id}: nothing of it ran")
    if run.state not in _UNDER_WAY or (run.error and run.state == "RUNTIME_STATE_UNSPECIFIED"):
        said = f": {run.error.message}" if run.error else ""
        raise TemporaryError(f"Kubeflow Pipelines cannot say how far run {run.run_id} is ({run.state}){said}")
    return Progress(Phase.RUNNING)


def _failure(run: _Run) -> str:
    errors = [error.message for error in (run.error, *(change.error for change in run.state_history)) if error]
    failed = dict.fromkeys(task.display_name for task in run.run_details.task_details if task.state == "FAILED")
    names = ", ".join(name for name in failed if name and name not in _FRAMES)
    parts = (
        f"run {run.run_id} failed on Kubeflow Pipelines",
        errors[0][:_LONGEST_MESSAGE] if errors else "",
        f"failed: {names[:_LONGEST_MESSAGE]}" if names else "",
    )
    return "; ".join(part for part in parts if part)


def _status(answer: httpx.Response) -> _Status:
    try:
        return _Status.model_validate_json(answer.content)
    except ValidationError:
        return _Status()


def _account(token: str) -> str | None:
    """Whom a ServiceAccount's token speaks for."""
    try:
        claims = token.split(".")[1]
        said = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"]
    except (LookupError, TypeError, ValueError):
        return None
    return said if isinstance(said, str) else None
