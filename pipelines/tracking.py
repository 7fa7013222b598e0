"""MLflow: where runs are logged, and where the registered model and its aliases live.

Aliases: `champion` serves, `challenger` passed the gate and waits for its roll-out. The model itself is the
bundle; MLflow holds a copy for people.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from fraudkit.bundle_store import BundleStore
from fraudkit.errors import PermanentError, TemporaryError
from fraudkit.settings import MODEL_NAME, Settings
from pipelines.controller import CHALLENGER, CHAMPION, ENDS, Models
from pipelines.controller import models as serving_models
from pipelines.data.sources import without_secrets

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

log = structlog.get_logger()

VERSION_TAG: Final = "bundle_version"
PARENT_TAG: Final = "parent_version"
DATA_TAG: Final = "data_sha256"
BASE_TAG: Final = "base_sha256"
"""Names the base data alone: models of one lineage share a frozen holdout."""
_ABSENT: Final = "RESOURCE_DOES_NOT_EXIST"
_SQLITE: Final = "sqlite:///"
_RETRIES: Final = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


def preload() -> None:
    """Import MLflow, which takes seconds: only what talks to it pays for that, and may do so in the background."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name, value in _RETRIES.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """A run in MLflow: its id, and the URI of its artifacts."""

    run_id: str
    artifacts: str


class Tracking:
    """A client of the tracking server or database that the settings name."""

    def __init__(self, settings: Settings) -> None:
        preload()
        from mlflow import MlflowClient

        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._settings = settings
        self._uri = settings.tracking_uri
        with _translated(self._uri), self._alone():
            self._make_database()
            self._client = MlflowClient(self._uri, self._uri)

    def champion(self) -> str | None:
        """Bundle version of the champion, or None before there is one; the controller knows, where there is one.

        Raises:
            PermanentError: The alias names a version that is not there: no gate could compare with it.
        """
        if self._settings.rollout.url:
            return serving_models(self._settings.rollout.url.rstrip("/")).champion
        from mlflow.exceptions import MlflowException

        with _translated(self._uri):
            try:
                aliases = self._client.get_registered_model(MODEL_NAME).aliases
            except MlflowException as error:
                if error.error_code != _ABSENT:
                    raise
                return None
            if CHAMPION not in aliases:
                return None
            try:
                return _bundle_version(self._client.get_model_version(MODEL_NAME, aliases[CHAMPION]))
            except MlflowException as error:
                if error.error_code != _ABSENT:
                    raise
                raise PermanentError(
                    f"MLflow's alias {CHAMPION} names version {aliases[CHAMPION]} of {MODEL_NAME}, which is not "
                    "there; set the alias to one that is"
                ) from error

    def first_of(self, data: str) -> str | None:
        """Bundle version of the first model that was registered for a data set, or None."""
        found = self._versions(BASE_TAG, data)
        return _bundle_version(found[0]) if found else None

    def log_run(
        self,
        name: str,
        parameters: Mapping[str, str],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        folders: Mapping[str, Path],
    ) -> LoggedRun:
        """Log a finished run with the files of each folder, by the path they get."""
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        with _translated(self._uri):
            run = self._client.create_run(self._experiment(), run_name=name, tags=dict(tags))
            self._client.log_batch(
                run.info.run_id,
                metrics=[Metric(key, value, now, 0) for key, value in metrics.items()],
                params=[Param(key, value) for key, value in parameters.items()],
                tags=[RunTag("mlflow.source.name", "fraud-platform")],
            )
            for path, folder in folders.items():
                self._client.log_artifacts(run.info.run_id, str(folder), path)
            self._client.set_terminated(run.info.run_id, "FINISHED")
        return LoggedRun(str(run.info.run_id), str(run.info.artifact_uri))

    def register(self, run_id: str, version: str, tags: Mapping[str, str]) -> tuple[str, ...]:
        """Register the bundle of a run as a model version; the aliases it was given.

        It becomes challenger. Where there is no champion it becomes that too, unless a controller says who serves.
        """
        from mlflow.exceptions import MlflowException

        with _translated(self._uri), self._alone():
            try:
                self._client.create_registered_model(MODEL_NAME, description="Card fraud: logistic regression")
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            known = self._versions(VERSION_TAG, version)
            number = known[0].version if known else self._create(run_id, version, tags)
            follows = self._settings.rollout.url is not None or self.champion() is not None
            aliases = (CHALLENGER,) if follows else (CHALLENGER, CHAMPION)
            for alias in aliases:
                self._client.set_registered_model_alias(MODEL_NAME, alias, number)
        return aliases

    def mirror(self, serving: Models, history: Iterable[tuple[str, str, str]]) -> None:
        """Bring the aliases to what serves, and note in tags what happened to models. Again it changes nothing.

        Args:
            serving: What the controller says.
            history: Bundle version, tag and value of each thing that happened.
        """
        with _translated(self._uri), self._alone():
            known = self._known()
            for version, tag, value in history:
                if found := self._find(version, known):
                    self._client.set_model_version_tag(MODEL_NAME, found.version, tag, value)
            for alias, named in ((CHAMPION, serving.champion), (CHALLENGER, serving.challenger)):
                if named and (found := self._find(named, known)):
                    self._client.set_registered_model_alias(MODEL_NAME, alias, found.version)
            if known and serving.challenger is None:
                over = {one.version for one in serving.models if one.status in ENDS} | {serving.champion}
                number = self._client.get_registered_model(MODEL_NAME).aliases.get(CHALLENGER)
                if str(number) in {str(one.version) for version, one in known.items() if version in over}:
                    self._client.delete_registered_model_alias(MODEL_NAME, CHALLENGER)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold other processes back from a local database: MLflow's migrations and its aliases have no lock."""
        if not self._uri.startswith(_SQLITE):
            yield
            return
        self._settings.state.mkdir(parents=True, exist_ok=True)
        with (self._settings.state / "mlflow.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make_database(self) -> None:
        """Make the local database beside its place, so that a run killed meanwhile leaves no half of it."""
        path = Path(self._uri.removeprefix(_SQLITE))
        if not self._uri.startswith(_SQLITE) or path.exists():
            return
        from mlflow import MlflowClient

        unfinished = path.with_suffix(".unfinished")
        unfinished.unlink(missing_ok=True)
        uri = f"{_SQLITE}{unfinished}"
        MlflowClient(uri, uri).search_registered_models(max_results=1)
        unfinished.replace(path)

    def _create(self, run_id: str, version: str, tags: Mapping[str, str]) -> str:
        source = f"{self._client.get_run(run_id).info.artifact_uri}/bundle"
        created = self._client.create_model_version(
            MODEL_NAME, source, run_id, tags={**tags, VERSION_TAG: version}
        )
        return str(created.version)

    def _known(self) -> dict[str, ModelVersion]:
        """Registered versions by that of their bundle; the oldest, where one was registered twice."""
        found = self._client.search_model_versions(f"name = '{MODEL_NAME}'")
        newest_first = sorted(found, key=lambda version: int(version.version), reverse=True)
        return {one.tags[VERSION_TAG]: one for one in newest_first if VERSION_TAG in one.tags}

    def _find(self, version: str, known: dict[str, ModelVersion]) -> ModelVersion | None:
        """A registered version; a child of one, which no run registers, is registered now."""
        store = BundleStore.of(self._settings)
        if version not in known and store.has(version):
            child = store.load(version)
            parent = known.get(child.manifest.parent or "")
            if parent is not None:
                run, path = str(parent.run_id), f"children/{version}"
                self._client.log_artifacts(run, str(child.path), path)
                source = f"{self._client.get_run(run).info.artifact_uri}/{path}"
                tags = {VERSION_TAG: version, PARENT_TAG: parent.tags[VERSION_TAG]}
                known[version] = self._client.create_model_version(MODEL_NAME, source, run, tags=tags)
        if version not in known:
            log.warning("MLflow does not know a version, and no alias can name it", version=version)
        return known.get(version)

    def _versions(self, tag: str, value: str) -> list[ModelVersion]:
        """Registered versions with a tag, oldest first."""
        with _translated(self._uri):
            query = f"name = '{MODEL_NAME}' and tags.{tag} = '{value}'"
            found = self._client.search_model_versions(query)
        return sorted(found, key=lambda version: int(version.version))

    def _experiment(self) -> str:
        name = self._settings.tracking.experiment
        found = self._client.get_experiment_by_name(name)
        if found:
            return str(found.experiment_id)
        local = self._uri.startswith(_SQLITE)
        folder = (self._settings.state.absolute() / "mlartifacts").as_uri() if local else None
        return str(self._client.create_experiment(name, artifact_location=folder))


def _bundle_version(version: ModelVersion) -> str:
    if VERSION_TAG not in version.tags:
        raise PermanentError(
            f"MLflow's version {version.version} of {MODEL_NAME} has no tag {VERSION_TAG}: "
            "it was not registered by a run of this platform"
        )
    return str(version.tags[VERSION_TAG])


@contextlib.contextmanager
def _translated(uri: str) -> Iterator[None]:
    """MLflow's errors as ours."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        status: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
        kind = TemporaryError if status >= 500 else PermanentError
        raise kind(f"MLflow at {without_secrets(uri)} did not do what was asked: {error.message}") from error
    except SQLAlchemyError as error:
        problem = str(error).partition("\n")[0]
        raise PermanentError(f"MLflow's database {without_secrets(uri)}: {problem}") from error
