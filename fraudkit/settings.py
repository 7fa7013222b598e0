"""The settings that every process reads: one YAML file and `FRAUD__…` variables, typed and bounded.

Precedence: arguments of a command, then variables (`FRAUD__SAMPLING__PER_CLASS=5000`), then the YAML file that
`FRAUD_SETTINGS` names. An unknown key is refused.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from fraudkit.errors import InvalidInput
from fraudkit.policy.drift import DriftRules
from fraudkit.policy.gate import GateThresholds
from fraudkit.policy.retrain import RetrainThresholds
from fraudkit.policy.rollout import RolloutRules

MODEL_NAME = "fraud"
_STORES = ("s3", "abfs", "abfss")
Share = Annotated[float, Field(gt=0, lt=1)]
Quantity = Annotated[str, Field(pattern=r"^\d+(\.\d+)?(m|k|[MGTPE]|[KMGTPE]i)?$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataSettings(_Section):
    """How transactions are read and split.

    Attributes:
        natural_rate: Share of frauds in the traffic to come; measured on the training data when not set.
        holdout: Share of the time span (or of the rows) that is frozen as holdout.
        leak_auc: An input that alone separates the classes with this AUC or more is refused as a leak.
        reference_rows: Most rows of the drift reference.
        shards: Tasks that the preparation fans out over on Kubeflow Pipelines; one process does it all elsewhere.
    """

    natural_rate: Share | None = None
    holdout: Annotated[float, Field(ge=0.05, le=0.5)] = 0.2
    leak_auc: Annotated[float, Field(gt=0.5, le=1)] = 0.995
    reference_rows: Annotated[int, Field(ge=1_000, le=1_000_000)] = 200_000
    shards: Annotated[int, Field(ge=1, le=16)] = 1


class SamplingSettings(_Section):
    """The balanced sample.

    Attributes:
        per_class: Rows per class (k); frauds beyond k are left out by hash.
        ratio: Legitimate rows per fraud; chosen among 1, 3, 10 and 30 where frauds are fewer than k.
        recent: Weight of recent rows in each class, where a run has some; the base data have the rest.
        seed: Keys every hash and every bootstrap.
    """

    per_class: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000
    ratio: Annotated[int, Field(ge=1, le=1_000)] | None = None
    recent: Share = 0.1
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class TrainingSettings(_Section):
    """The logistic regression.

    Attributes:
        c: Inverse strength of the L2 penalty.
        tune: Choose C among powers of ten by AUPRC on the validation slice.
        iterations: Most iterations; not converging within them is an error.
    """

    c: Annotated[float, Field(gt=0)] = 1.0
    tune: bool = False
    iterations: Annotated[int, Field(ge=10)] = 1_000


class AlertSettings(_Section):
    """Where alerts begin.

    Attributes:
        policy: `costs` puts both thresholds where the expected costs of two actions are equal; `budget` puts
            `review` where the share of alerted transactions meets the budget (and `block` by costs).
        cost_missed: Cost of a fraud that nobody looks at.
        cost_review: Cost of one look at a transaction.
        cost_block: Cost of blocking a legitimate transaction.
        budget: Share of transactions that people can look at.
    """

    policy: Literal["costs", "budget"] = "costs"
    cost_missed: Annotated[float, Field(gt=0)] = 100.0
    cost_review: Annotated[float, Field(gt=0)] = 5.0
    cost_block: Annotated[float, Field(gt=0)] = 20.0
    budget: Share = 0.005

    @model_validator(mode="after")
    def _ordered(self) -> AlertSettings:
        if self.cost_review >= self.cost_missed or self.cost_review >= self.cost_block:
            raise ValueError("a review must cost less than a missed fraud and less than a wrong block")
        if self.cost_review / self.cost_missed >= 1 - self.cost_review / self.cost_block:
            raise ValueError("with these costs no transaction is worth a review: block would begin before it")
        return self


class TrackingSettings(_Section):
    """MLflow.

    Attributes:
        uri: Tracking server or database; SQLite in the state folder when not set.
        experiment: Name of the experiment that runs are logged to.
    """

    uri: str | None = None
    experiment: str = "fraud"


class ServingSettings(_Section):
    """The predictor.

    Attributes:
        host: Address to listen on; loopback unless told otherwise.
        port: HTTP port.
        grpc_port: gRPC port.
        request_log: Log a line for each request; off, the predictor logs its start, its stop and its own faults.
        max_rows: Most rows of one request.
        max_explained: Most rows of one request that asks for reasons: an answer has thirty for each.
        read_seconds: Longest time that a request's body may take to arrive.
        max_bytes: Most bytes of one request's body.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    grpc_port: Annotated[int, Field(ge=0, le=65_535)] = 8081
    request_log: bool = False
    max_rows: Annotated[int, Field(ge=1)] = 10_000
    max_explained: Annotated[int, Field(ge=1)] = 1_000
    read_seconds: Annotated[float, Field(gt=0)] = 30.0
    max_bytes: Annotated[int, Field(ge=1_024)] = 16 * 1024 * 1024


class GatewaySettings(_Section):
    """This machine's stand-in for KServe's router and payload logger.

    Attributes:
        host: Address to listen on; loopback unless told otherwise.
        port: HTTP port.
        queue: Most log events that wait to be posted; what comes beyond is dropped and counted.
        queue_bytes: Most bytes of them.
        log_seconds: How long the detector may take to answer one.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    queue: Annotated[int, Field(ge=1)] = 10_000
    queue_bytes: Annotated[int, Field(ge=1_024)] = 128 * 1024 * 1024
    log_seconds: Annotated[float, Field(gt=0)] = 5.0


class DetectorSettings(_Section):
    """The detector: intake, request log, windows.

    Attributes:
        host: Address to listen on; loopback unless told otherwise.
        port: HTTP port.
        url: Where the other parts reach it.
        database: URL of the request log's database; SQLite in the state folder when not set.
        engine: What tests windows; `alibi` needs a licence in production, `scipy` does not.
        bucket_seconds: Width of a bucket of time.
        lateness_seconds: How much later than newer events an event may come and still enter its window.
        ahead_seconds: How far an event's time may be ahead of this machine's clock.
        idle_seconds: When no event has come for so long, buckets close without newer ones.
        stale_seconds: When no event has come for so long, the verdict is `stale`.
        window_rows: A window ends with the bucket that brings it to so many rows, or …
        window_buckets: … after so many buckets.
        window_least: With fewer rows a window says nothing.
        slow_buckets: Buckets of the slow window.
        retention_days: Transactions and windows are kept so long.
        queue_events: Most events that wait to be stored.
        queue_bytes: Most bytes of them.
        max_bytes: Most bytes of an event.
        read_seconds: Longest time that a request's body may take to arrive.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8082
    url: str = "http://127.0.0.1:8082"
    database: str | None = None
    engine: Literal["alibi", "scipy"] = "alibi"
    bucket_seconds: Annotated[float, Field(ge=0.1, le=3_600)] = 60.0
    lateness_seconds: Annotated[float, Field(ge=0)] = 120.0
    ahead_seconds: Annotated[float, Field(ge=0)] = 60.0
    idle_seconds: Annotated[float, Field(gt=0)] = 300.0
    stale_seconds: Annotated[float, Field(gt=0)] = 3_600.0
    window_rows: Annotated[int, Field(ge=1)] = 1_000
    window_buckets: Annotated[int, Field(ge=1)] = 15
    window_least: Annotated[int, Field(ge=1)] = 200
    slow_buckets: Annotated[int, Field(ge=1)] = 1_440
    retention_days: Annotated[float, Field(gt=0)] = 90.0
    queue_events: Annotated[int, Field(ge=1)] = 50_000
    queue_bytes: Annotated[int, Field(ge=1_024)] = 128 * 1024 * 1024
    max_bytes: Annotated[int, Field(ge=1_024)] = 32 * 1024 * 1024
    read_seconds: Annotated[float, Field(gt=0)] = 30.0


class LabelSettings(_Section):
    """Outcomes that are reported, and when their absence is one.

    Attributes:
        silence_days: A transaction of which nothing was reported for so long was legitimate.
        review_share: Share of transactions without an alert that are put up for review.
        seed: Keys the choice of them.
    """

    silence_days: Annotated[float, Field(gt=0)] = 30.0
    review_share: Annotated[float, Field(ge=0, le=1)] = 0.001
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Quantities(_Section):
    """CPU and memory, in Kubernetes' notation."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    cpu: Quantity | None = None
    memory: Quantity | None = None


class PodResources(_Section):
    """What a pod is promised, and what it may take at most."""

    requests: Quantities = Quantities()
    limits: Quantities = Quantities()


class Toleration(_Section):
    """A taint that a pod bears; named as Kubernetes names it."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    tolerationSeconds: int | None = None  # noqa: N815


class TaskPodSettings(_Section):
    """The pods of tasks on Kubeflow Pipelines; what is not set is left to KFP.

    Attributes:
        config_map: ConfigMap of their namespace with environment variables, …
        variables: … those of its keys that become one.
        secret: Secret of their namespace with the keys of the bundles' store; an identity needs none.
        labels: Labels, say of a cloud's identities.
        pull_secrets: Secrets of their namespace that the image is pulled with.
        pull_policy: When the image is pulled.
        user: Numeric user and group.
        node_selector: Labels of the nodes that they may run on.
        tolerations: Taints of nodes that they bear.
        resources: CPU and memory.
    """

    config_map: str | None = None
    variables: tuple[str, ...] = ()
    secret: str | None = None
    labels: dict[str, str] = {}
    pull_secrets: tuple[str, ...] = ()
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    user: Annotated[int, Field(ge=1)] | None = None
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    resources: PodResources = PodResources()


class KfpSettings(_Section):
    """Kubeflow Pipelines, where runs are started there.

    Attributes:
        url: Its REST API, without `/apis`.
        namespace: The profile's namespace of a multi-user installation; none for a standalone one.
        token: File of a ServiceAccount's projected token; read again for each request, because it is renewed.
        experiment: Name of the experiment that runs are put in; KFP's default one when not set.
        service_account: What the tasks run as; KFP's default one when not set.
        image: The image that the tasks run in; the compiled pipeline's when not set.
        settings: Settings of the tasks that differ from the defaults, as JSON.
        pods: The pods that the tasks run in.
        timeout_seconds: How long a request may take.
    """

    url: str = "http://ml-pipeline.kubeflow:8888"
    namespace: str | None = None
    token: Path | None = None
    experiment: str | None = None
    service_account: str | None = None
    image: str | None = None
    settings: str = "{}"
    pods: TaskPodSettings = TaskPodSettings()
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0


class LauncherSettings(_Section):
    """The launcher: who starts runs.

    Attributes:
        host: Address to listen on; loopback unless told otherwise.
        port: HTTP port.
        url: Where the other parts reach it.
        results: Where the tasks of its runs reach it to tell how they ended; they do not when not set.
        database: URL of the database of its records; SQLite in the state folder when not set.
        backend: Where runs run: on this machine, or on Kubeflow Pipelines.
        data: The base data of runs that name no other.
        recent_days: How far back a run that no drift asked for takes logged transactions.
        attempts: How often a run is started at most, when what runs it fails.
        retry_seconds: Wait before the second attempt; twice as long before each further one.
        give_up_hours: A run that cannot be started for so long has failed.
        poll_seconds: How often a run is looked at.
        schedule: Start a run on the first of each month, keyed by the month; a cluster has a CronWorkflow for it.
        kfp: Kubeflow Pipelines.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8083
    url: str = "http://127.0.0.1:8083"
    results: str | None = None
    database: str | None = None
    backend: Literal["local", "kfp"] = "local"
    data: str | None = None
    recent_days: Annotated[float, Field(gt=0)] = 60.0
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    retry_seconds: Annotated[float, Field(ge=0)] = 30.0
    give_up_hours: Annotated[float, Field(gt=0)] = 24.0
    poll_seconds: Annotated[float, Field(gt=0)] = 5.0
    schedule: bool = False
    kfp: KfpSettings = KfpSettings()


class RolloutSettings(_Section):
    """The roll-out controller.

    Attributes:
        host: Address to listen on; loopback unless told otherwise.
        port: HTTP port.
        url: Where the other parts reach it; without it a run ends with the registration of its model.
        target: Where models serve: servers of this machine behind the gateway, or an InferenceService of KServe.
        gateway: Where the gateway of this machine is.
        namespace: Of the InferenceService, and of the state's ConfigMap.
        config_map: That ConfigMap.
        template: File with the InferenceService's template; it may change at any time.
        storage_uri: What the InferenceService's `storageUri` begins with; a slash and the version follow.
        kubeconfig: How the cluster is reached from outside; inside it, nothing need be said.
        poll_seconds: How often what is there is looked at, …
        label_seconds: … and how often labels and scores are.
        rules: How a canary is judged.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8084
    url: str | None = None
    target: Literal["local", "kserve"] = "local"
    gateway: str = "http://127.0.0.1:8080"
    namespace: str = "default"
    config_map: str = "fraud-rollout"
    template: Path | None = None
    storage_uri: Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://[^\s]+$")] | None = None
    kubeconfig: Path | None = None
    poll_seconds: Annotated[float, Field(gt=0)] = 2.0
    label_seconds: Annotated[float, Field(gt=0)] = 30.0
    rules: RolloutRules = RolloutRules()

    @model_validator(mode="after")
    def _complete(self) -> RolloutSettings:
        if self.target == "kserve" and not (self.template and self.storage_uri):
            raise ValueError("the target kserve needs template and storage_uri")
        return self


class ConsoleSettings(_Section):
    """The web page.

    Attributes:
        host: Address to listen on; loopback unless told otherwise.
        port: HTTP port.
        model: Where the model answers.
        mlflow: MLflow's page, for links.
        kfp: The page of Kubeflow Pipelines, for links.
        user_header: Header in which an authenticating proxy names the user; needed beyond loopback.
        groups_header: Header in which it names the user's groups, separated by commas.
        analysts: Groups, or users, that report outcomes.
        engineers: Groups, or users, that also start runs and steer roll-outs.
        upload_bytes: Most bytes of an uploaded file.
        upload_seconds: How long it may take to arrive.
        upload_rows: Most rows of it.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8085
    model: str = "http://127.0.0.1:8080"
    mlflow: str | None = None
    kfp: str | None = None
    user_header: str | None = None
    groups_header: str | None = None
    analysts: tuple[str, ...] = ()
    engineers: tuple[str, ...] = ()
    upload_bytes: Annotated[int, Field(ge=1)] = 256 * 1024 * 1024
    upload_seconds: Annotated[float, Field(gt=0)] = 300.0
    upload_rows: Annotated[int, Field(ge=1)] = 1_000_000


class EventSettings(_Section):
    """Events to other systems.

    Attributes:
        sinks: Where each event is posted until it is acknowledged.
        launcher: Where the launcher is asked for its runs; not asked when not set, and then no run is.
        source: The `source` of the events.
        timeout_seconds: How long a sink may take to answer.
        longest_wait_seconds: Longest wait between two tries of an event.
    """

    sinks: tuple[str, ...] = ()
    launcher: str | None = None
    source: str = "/fraud-platform/detector"
    timeout_seconds: Annotated[float, Field(gt=0)] = 10.0
    longest_wait_seconds: Annotated[float, Field(gt=0)] = 300.0


class Settings(BaseSettings):
    """All settings. `state` is the one folder that a laptop's platform writes to."""

    model_config = SettingsConfigDict(
        env_prefix="FRAUD__",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        nested_model_default_partial_update=True,
    )

    state: Path = Field(Path(".fraud"), validation_alias=AliasChoices("state", "FRAUD_STATE", "FRAUD__STATE"))
    bundles: Annotated[str, Field(min_length=1)] | None = None
    data: DataSettings = DataSettings()
    sampling: SamplingSettings = SamplingSettings()
    training: TrainingSettings = TrainingSettings()
    alerts: AlertSettings = AlertSettings()
    gate: GateThresholds = GateThresholds()
    tracking: TrackingSettings = TrackingSettings()
    serving: ServingSettings = ServingSettings()
    gateway: GatewaySettings = GatewaySettings()
    detector: DetectorSettings = DetectorSettings()
    drift: DriftRules = DriftRules()
    retrain: RetrainThresholds = RetrainThresholds()
    labels: LabelSettings = LabelSettings()
    events: EventSettings = EventSettings()
    launcher: LauncherSettings = LauncherSettings()
    rollout: RolloutSettings = RolloutSettings()
    console: ConsoleSettings = ConsoleSettings()

    @field_validator("bundles", mode="before")
    @classmethod
    def _place(cls, value: object) -> object:
        if isinstance(value, Path):
            return str(value)
        scheme, separator, _ = value.partition("://") if isinstance(value, str) else ("", "", "")
        if separator and scheme not in _STORES:
            raise ValueError(f"{scheme}:// is no store of bundles; a folder, {':// or '.join(_STORES)}:// is")
        if scheme == "s3" and "@" in str(value):
            raise ValueError("keys do not belong in a URI; AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY are for them")
        return value

    @property
    def bundle_uri(self) -> str | None:
        """The prefix that bundles and frozen holdouts are kept at; None where that is `bundle_folder`."""
        return self.bundles.rstrip("/") if self.bundles and "://" in self.bundles else None

    @property
    def bundle_folder(self) -> Path:
        """Where bundles and frozen holdouts, or copies of those at `bundle_uri`, are."""
        own = self.bundles if self.bundles and not self.bundle_uri else self.state / "bundles"
        return Path(own).absolute()

    @property
    def tracking_uri(self) -> str:
        """Where MLflow keeps runs and models."""
        return self.tracking.uri or f"sqlite:///{self.state.absolute() / 'mlflow.db'}"

    @property
    def detector_database(self) -> str:
        """Where the detector keeps the request log, as a URL of SQLAlchemy."""
        return self.detector.database or f"sqlite:///{self.state.absolute() / 'detector.db'}"

    @property
    def launcher_database(self) -> str:
        """Where the launcher keeps its records, as a URL of SQLAlchemy."""
        return self.launcher.database or f"sqlite:///{self.state.absolute() / 'launcher.db'}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, variables, then the YAML file that `FRAUD_SETTINGS` names."""
        file = os.environ.get("FRAUD_SETTINGS")
        yaml = (YamlConfigSettingsSource(settings_cls, yaml_file=file),) if file else ()
        return (init_settings, env_settings, *yaml)


def load_settings(**overrides: object) -> Settings:
    """The settings of this process.

    Raises:
        InvalidInput: Naming each setting that is unknown, of a wrong type or out of bounds, or the missing file.
    """
    _check_variables()
    file = os.environ.get("FRAUD_SETTINGS")
    if file:
        _check_file(Path(file))
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        problems = [_problem(problem) for problem in error.errors(include_url=False)]
        raise InvalidInput("settings: " + "; ".join(problems)) from error
    except SettingsError as error:  # a whole section in one variable
        raise InvalidInput(f"settings: {error}: {error.__cause__}") from error


def _problem(error: ErrorDetails) -> str:
    """A problem that pydantic found, in the words of this project."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{name} is not a setting"
    if error["type"] == "value_error":  # of one of our own validators, which says what was given
        return f"{name}: {error['ctx']['error']}"
    return f"{name}: {error['msg']} (got {error['input']!r})"


def _check_variables() -> None:
    """Raise InvalidInput for a `FRAUD__…` variable that is no setting; pydantic looks only for those that are."""
    known = {name.upper() for name in Settings.model_fields}
    for variable in os.environ:
        prefix, _, name = variable.upper().partition("__")
        if prefix == "FRAUD" and name.partition("__")[0] not in known:
            raise InvalidInput(f"settings: {variable} is not a setting")


def _check_file(path: Path) -> None:
    """Raise InvalidInput unless `path` holds YAML that is settings by name, or nothing."""
    import yaml

    if not path.is_file():
        raise InvalidInput(f"FRAUD_SETTINGS names {path}, which is not a file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidInput(
            f"FRAUD_SETTINGS names {path}, which is not YAML: {' '.join(str(error).split())}"
        ) from error
    if content is not None and not (isinstance(content, dict) and all(isinstance(name, str) for name in content)):
        raise InvalidInput(f"FRAUD_SETTINGS names {path}, which does not hold settings by their names")
