"""The launcher's runs on Kubeflow Pipelines: a server in KFP's place that takes what KFP's own client makes."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp_stand_in import KfpStandIn, running

from fraudkit.errors import FraudError, PermanentError, TemporaryError
from fraudkit.settings import KfpSettings, TaskPodSettings
from pipelines.launcher.backends import Backend, Order, Phase, Progress
from pipelines.launcher.kfp import COMPILED, LONGEST_NAME, KfpBackend, run_name

ORDER = Order(
    key="drift-0123456789ab-20261124T1445Z-1",
    attempt=1,
    data_uri="s3://data/creditcard.csv",
    since=datetime(2026, 9, 26, 2, tzinfo=timezone(timedelta(hours=2))),
    as_of=datetime(2026, 11, 24, 14, 45, 0, 250_000, tzinfo=UTC),
)
TOKEN = ".".join(
    base64.urlsafe_b64encode(part.encode()).decode().rstrip("=")
    for part in ('{"alg":"RS256"}', '{"sub":"system:serviceaccount:fraud:launcher"}', "signature of a test")
)

PODS = TaskPodSettings.model_validate(
    {
        "config_map": "fraud-settings",
        "variables": ["AWS_REGION", "HOME"],
        "secret": "fraud-bundles",
        "labels": {"azure.workload.identity/use": "true", "team": "fraud"},
        "pull_secrets": ["registry", "mirror"],
        "pull_policy": "IfNotPresent",
        "user": 10001,
        "node_selector": {"pool": "fraud"},
        "tolerations": [
            {"key": "spot", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60},
            {"key": "pool", "operator": "Equal", "value": "fraud", "effect": "NoSchedule"},
        ],
        "resources": {"requests": {"cpu": "20m", "memory": "384Mi"}, "limits": {"cpu": 2, "memory": "2Gi"}},
    }
)

Connect = Callable[..., KfpBackend]


@pytest.fixture(scope="module")
def server() -> Iterator[KfpStandIn]:
    with running() as stand_in:
        yield stand_in


@pytest.fixture
def kfp(server: KfpStandIn) -> KfpStandIn:
    """A new installation."""
    server.reset()
    return server


@pytest.fixture
def profiles(server: KfpStandIn) -> KfpStandIn:
    """A new multi-user installation."""
    server.reset(multi_user=True)
    return server


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes backends."""
    with ExitStack() as stack:

        def connect(
            kfp: KfpStandIn,
            pipeline: Path = COMPILED,
            results: str | None = None,
            shards: int = 1,
            **settings: Any,
        ) -> KfpBackend:
            made = KfpBackend(KfpSettings(**{"url": kfp.url} | settings), pipeline, results, shards)
            stack.callback(made.close)
            return made

        yield connect


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


def compiled(tmp_path: Path, change: Callable[[dict[str, Any]], Any], *more: dict[str, Any]) -> Path:
    spec = yaml.safe_load(COMPILED.read_text())
    change(spec)
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump_all([spec, *more]))
    return path


def parameters_of(spec: dict[str, Any]) -> dict[str, Any]:
    parameters: dict[str, Any] = spec["root"]["inputDefinitions"]["parameters"]
    return parameters


# Starting


def test_a_run_is_what_kfps_own_client_would_post(kfp: KfpStandIn, connect: Connect) -> None:
    backend: Backend = connect(kfp, service_account="fraud-runs", image="registry/fraud:1", settings='{"seed": 2}')
    handle = backend.start(ORDER)
    (run,) = kfp.runs
    assert run["run_id"] == handle
    assert run["display_name"] == f"{ORDER.key}.1"
    assert run["service_account"] == "fraud-runs"
    assert ORDER.key in run["description"]
    assert run["pipeline_spec"] == next(yaml.safe_load_all(COMPILED.read_text()))
    parameters = run["runtime_config"]["parameters"]
    assert parameters.pop("since", None) in (None, "2026-09-26T00:00:00Z")
    assert parameters.pop("as_of", None) in (None, "2026-11-24T14:45:00.250000Z")
    assert parameters == {
        "data_uri": ORDER.data_uri,
        "run": f"{ORDER.key}.1",
        "trigger": ORDER.key,
        "attempt": 1,
        "settings": '{"seed": 2}',
        "image": "registry/fraud:1",
    }


@pytest.mark.filterwarnings("ignore:This client only works with Kubeflow Pipeline v2:FutureWarning")
def test_kfps_own_client_starts_the_same_run(
    kfp: KfpStandIn, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kfp.client import Client

    connect(kfp, experiment="fraud", service_account="fraud-runs").start(ORDER)
    monkeypatch.setenv("HOME", str(tmp_path))
    Client(host=kfp.url).create_run_from_pipeline_package(
        str(COMPILED),
        arguments=kfp.runs[0]["runtime_config"]["parameters"],
        run_name=run_name(ORDER),
        experiment_name="fraud",
        service_account="fraud-runs",
    )
    ours, theirs = kfp.runs
    own = {"run_id", "created_at", "scheduled_at", "description"}
    assert {key: ours[key] for key in set(ours) - own} == {key: theirs[key] for key in set(theirs) - own}


def test_what_is_not_set_is_left_to_kfp(kfp: KfpStandIn, connect: Connect) -> None:
    connect(kfp).start(ORDER)
    assert not {"service_account", "experiment_id"} & set(kfp.runs[0])
    assert "image" not in kfp.runs[0]["runtime_config"]["parameters"]
    assert all("namespace" not in query for query in kfp.queries)
    assert kfp.tokens == [None, None]


def test_times_are_parameters_where_the_pipeline_has_them(
    kfp: KfpStandIn, connect: Connect, tmp_path: Path
) -> None:
    text = {"parameterType": "STRING", "isOptional": True}
    timed = compiled(tmp_path, lambda spec: parameters_of(spec).update(since=text, as_of=text))
    backend = connect(kfp, timed)
    backend.start(ORDER)
    backend.start(replace(ORDER, attempt=2, since=None))
    first, second = (run["runtime_config"]["parameters"] for run in kfp.runs)
    assert (first["since"], first["as_of"]) == ("2026-09-26T00:00:00Z", "2026-11-24T14:45:00.250000Z")
    assert not {"since", "as_of"} & set(second), "the one is nothing without the other, and the first task says so"


def test_a_pipeline_without_times_is_given_none(kfp: KfpStandIn, connect: Connect, tmp_path: Path) -> None:
    def forget(spec: dict[str, Any]) -> None:
        for name in ("since", "as_of", "attempt"):
            parameters_of(spec).pop(name, None)

    connect(kfp, compiled(tmp_path, forget)).start(ORDER)
    assert not {"since", "as_of", "attempt"} & set(kfp.runs[0]["runtime_config"]["parameters"])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("{}", {"launcher": {"results": "http://launcher:8083"}}),
        (
            '{"launcher": {"port": 1}, "state": "/s"}',
            {"launcher": {"port": 1, "results": "http://launcher:8083"}, "state": "/s"},
        ),
        ('{"launcher": {"results": "http://other"}}', {"launcher": {"results": "http://other"}}),
    ],
)
def test_the_tasks_are_told_where_to_tell_how_the_run_ended(
    kfp: KfpStandIn, connect: Connect, given: str, told: dict[str, Any]
) -> None:
    connect(kfp, results="http://launcher:8083", settings=given).start(ORDER)
    parameters = kfp.runs[0]["runtime_config"]["parameters"]
    assert json.loads(parameters["settings"]) == told
    assert parameters["attempt"] == ORDER.attempt


@pytest.mark.parametrize("given", ["{", "[]", '{"launcher": 3}'])
def test_settings_of_tasks_that_are_none_are_named(kfp: KfpStandIn, connect: Connect, given: str) -> None:
    with pytest.raises(PermanentError, match=r"launcher\.kfp\.settings"):
        connect(kfp, results="http://launcher:8083", settings=given).start(ORDER)
    assert not kfp.runs


def test_what_only_kubernetes_understands_goes_along(kfp: KfpStandIn, connect: Connect, tmp_path: Path) -> None:
    secret = {"secretName": "store", "keyToEnv": [{"secretKey": "accesskey", "envVar": "AWS_ACCESS_KEY_ID"}]}
    executors = {"exec-train": {"secretAsEnv": [secret]}}
    platform = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}}
    path = compiled(tmp_path, lambda _: None, platform)
    connect(kfp, path).start(ORDER)
    spec = yaml.safe_load(COMPILED.read_text())
    assert kfp.runs[0]["pipeline_spec"] == {"pipeline_spec": spec, "platform_spec": platform}


def test_each_task_runs_in_a_pod_as_the_settings_say(kfp: KfpStandIn, connect: Connect) -> None:
    connect(kfp, pods=PODS).start(ORDER)
    (run,) = kfp.runs
    spec = yaml.safe_load(COMPILED.read_text())
    for executor in spec["deploymentSpec"]["executors"].values():
        executor["container"]["resources"] = {
            "resourceCpuRequest": "20m",
            "resourceMemoryRequest": "384Mi",
            "resourceCpuLimit": "2",
            "resourceMemoryLimit": "2Gi",
        }
    config = {
        "configMapAsEnv": [
            {
                "configMapName": "fraud-settings",
                "configMapNameParameter": {"runtimeValue": {"constant": "fraud-settings"}},
                "keyToEnv": [
                    {"configMapKey": "AWS_REGION", "envVar": "AWS_REGION"},
                    {"configMapKey": "HOME", "envVar": "HOME"},
                ],
                "optional": True,
            }
        ],
        "secretAsEnv": [
            {
                "secretName": "fraud-bundles",
                "secretNameParameter": {"runtimeValue": {"constant": "fraud-bundles"}},
                "keyToEnv": [
                    {"secretKey": "AWS_ACCESS_KEY_ID", "envVar": "AWS_ACCESS_KEY_ID"},
                    {"secretKey": "AWS_SECRET_ACCESS_KEY", "envVar": "AWS_SECRET_ACCESS_KEY"},
                ],
                "optional": True,
            }
        ],
        "podMetadata": {"labels": {"azure.workload.identity/use": "true", "team": "fraud"}},
        "imagePullSecret": [
            {"secretName": name, "secretNameParameter": {"runtimeValue": {"constant": name}}}
            for name in ("registry", "mirror")
        ],
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {"runAsUser": 10001, "runAsGroup": 10001, "runAsNonRoot": True},
        "nodeSelector": {"labels": {"pool": "fraud"}},
        "tolerations": [
            {"key": "spot", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60},
            {"key": "pool", "operator": "Equal", "value": "fraud", "effect": "NoSchedule"},
        ],
    }
    names = ("prepare", "train", "evaluate", "register", "roll-out", "reject")
    executors = {f"exec-{name}": config for name in names}
    platform = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}}
    assert run["pipeline_spec"] == {"pipeline_spec": spec, "platform_spec": platform}


@pytest.mark.filterwarnings("ignore:This client only works with Kubeflow Pipeline v2:FutureWarning")
@pytest.mark.parametrize("shards", [1, 4])
def test_kfps_own_libraries_place_every_task_in_the_same_pod(
    kfp: KfpStandIn, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int
) -> None:
    from google.protobuf import json_format
    from kfp.client import Client
    from kfp.dsl import PipelineTask
    from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig

    from pipelines import training

    inside = training.inside

    def dressed(task: PipelineTask, image: object) -> PipelineTask:
        return by_kfp_kubernetes(inside(task, image))

    monkeypatch.setattr(training, "inside", dressed)
    package = tmp_path / "theirs.yaml"
    training.compile_pipeline(package, shards)
    monkeypatch.setenv("HOME", str(tmp_path))
    connect(kfp, pods=PODS, shards=shards).start(ORDER)
    arguments = kfp.runs[0]["runtime_config"]["parameters"]
    Client(host=kfp.url).create_run_from_pipeline_package(str(package), arguments=arguments)

    def placed(run: dict[str, Any]) -> dict[str, Any]:
        found = {}
        containers = run["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"]
        kubernetes = run["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]
        for name, config in kubernetes["deploymentSpec"]["executors"].items():
            resources = containers.pop(name)["container"]["resources"]
            # Beside these there are KFP's older fields, in numbers.
            told = {key: value for key, value in resources.items() if key.startswith("resource")}
            found[name] = json_format.ParseDict(config, KubernetesExecutorConfig()), told
        assert not containers, "of these Kubernetes is told nothing"
        return found

    ours, theirs = (placed(run) for run in kfp.runs)
    assert ours == theirs
    assert len(ours) == (6 if shards == 1 else 7)


def by_kfp_kubernetes(task: Any) -> Any:
    """A task with what `PODS` says, by KFP's own libraries."""
    from kfp import kubernetes as k8s

    k8s.use_config_map_as_env(task, "fraud-settings", {"AWS_REGION": "AWS_REGION", "HOME": "HOME"}, optional=True)
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    k8s.use_secret_as_env(task, "fraud-bundles", {key: key for key in keys}, optional=True)
    for label, value in PODS.labels.items():
        k8s.add_pod_label(task, label, value)
    k8s.set_image_pull_secrets(task, ["registry", "mirror"])
    k8s.set_image_pull_policy(task, "IfNotPresent")
    k8s.set_security_context(task, run_as_user=10001, run_as_group=10001, run_as_non_root=True)
    k8s.add_node_selector(task, "pool", "fraud")
    k8s.add_toleration(task, key="spot", operator="Exists", effect="NoExecute", toleration_seconds=60)
    k8s.add_toleration(task, key="pool", operator="Equal", value="fraud", effect="NoSchedule")
    task.set_cpu_request("20m").set_cpu_limit("2")
    return task.set_memory_request("384Mi").set_memory_limit("2Gi")


def test_what_the_compiled_pipeline_asks_of_kubernetes_stays_unless_the_settings_say_otherwise(
    kfp: KfpStandIn, connect: Connect, tmp_path: Path
) -> None:
    own = {"activeDeadlineSeconds": "60", "imagePullPolicy": "Never"}
    deadline = {"pipelineConfig": {"activeDeadlineSeconds": 60}}
    kubernetes = deadline | {"deploymentSpec": {"executors": {"exec-train": own}}}
    path = compiled(tmp_path, lambda _: None, {"platforms": {"kubernetes": kubernetes}})
    connect(kfp, path, pods={"pull_policy": "Always"}).start(ORDER)
    told = kfp.runs[0]["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]
    assert told["pipelineConfig"] == deadline["pipelineConfig"]
    executors = told["deploymentSpec"]["executors"]
    assert executors.pop("exec-train") == {"activeDeadlineSeconds": "60", "imagePullPolicy": "Always"}
    assert list(executors.values()) == [{"imagePullPolicy": "Always"}] * 5


def test_with_more_than_one_shard_the_pipeline_is_compiled_for_them(kfp: KfpStandIn, connect: Connect) -> None:
    connect(kfp, shards=5).start(ORDER)
    (run,) = kfp.runs
    (loop,) = (
        task for task in run["pipeline_spec"]["root"]["dag"]["tasks"].values() if "parameterIterator" in task
    )
    assert loop["parameterIterator"]["items"] == {"raw": "[0, 1, 2, 3, 4]"}
    assert run["runtime_config"]["parameters"]["attempt"] == 1


def test_shards_that_cannot_be_compiled_are_said(kfp: KfpStandIn, connect: Connect) -> None:
    with pytest.raises(PermanentError, match=r"data.shards: the pipeline for 0 shards cannot be compiled: \w+"):
        connect(kfp, shards=0).start(ORDER)
    assert not kfp.runs


# Once


def test_an_order_is_started_once(kfp: KfpStandIn, connect: Connect) -> None:
    backend = connect(kfp)
    assert backend.start(ORDER) == backend.start(ORDER) == connect(kfp).start(ORDER)
    assert kfp.posts() == 1


def test_each_attempt_and_each_key_has_a_run_of_its_own(kfp: KfpStandIn, connect: Connect) -> None:
    backend = connect(kfp)
    orders = [ORDER, replace(ORDER, attempt=2), replace(ORDER, key="schedule-2026-11")]
    assert len({backend.start(order) for order in orders}) == 3


def test_a_run_that_was_archived_was_started(kfp: KfpStandIn, connect: Connect) -> None:
    archived = kfp.add_run(run_name(ORDER), storage_state="ARCHIVED", state="FAILED")
    assert connect(kfp).start(ORDER) == archived["run_id"]
    assert kfp.posts() == 0


def test_a_run_that_kfp_cannot_describe_was_started(kfp: KfpStandIn, connect: Connect) -> None:
    kfp.runs.append({"run_id": "undescribed", "error": {"code": 13, "message": "Failed to parse runtime config"}})
    backend = connect(kfp)
    assert backend.start(ORDER) == "undescribed"
    with pytest.raises(TemporaryError, match="Failed to parse runtime config"):
        backend.look(ORDER, "undescribed")


def test_a_name_that_differs_in_case_is_another_one_on_any_page(kfp: KfpStandIn, connect: Connect) -> None:
    kfp.page_size = 2
    for _ in range(5):
        kfp.add_run(run_name(ORDER).upper())
    backend = connect(kfp)
    assert backend.start(ORDER) == kfp.runs[-1]["run_id"]
    assert backend.start(ORDER) == kfp.runs[-1]["run_id"]
    assert len(kfp.runs) == 6
    assert [query.get("filter") is None for query in kfp.queries] == [False, True, True, True, False, True, True]


@pytest.mark.parametrize(
    "key", ["k" * 200, "manual 1+1=2 & more?#%41", "Übung/täglich", "😀" * 200, 'a"}]}', "x\ny", "a~b"]
)
def test_any_key_makes_a_name_that_kfp_finds_again(kfp: KfpStandIn, connect: Connect, key: str) -> None:
    backend = connect(kfp)
    order = replace(ORDER, key=key, attempt=10)
    assert backend.start(order) == backend.start(order)
    (run,) = kfp.runs
    assert run["runtime_config"]["parameters"]["trigger"] == key
    assert len(run["display_name"]) <= LONGEST_NAME
    assert run["display_name"].isascii()
    assert backend.start(replace(order, key=f"{key}_")) != run["run_id"]


def test_a_name_says_its_key_and_no_two_orders_share_one() -> None:
    assert run_name(ORDER) == f"{ORDER.key}.1"
    keys = ["a", "a.1", "a b", "a-b", "A", "k" * 127, "k" * 126, "k" * 125, "k" * 199, "k" * 200]
    names = {run_name(replace(ORDER, key=key, attempt=attempt)) for key in keys for attempt in (1, 2, 10, 11)}
    assert len(names) == 4 * len(keys)
    assert run_name(replace(ORDER, key="a b")).startswith("a-b~")


def test_a_lost_answer_starts_no_second_run(kfp: KfpStandIn, connect: Connect) -> None:
    kfp.lost = 1
    backend = connect(kfp)
    with pytest.raises(TemporaryError, match="did not answer"):
        backend.start(ORDER)
    assert backend.start(ORDER) == kfp.runs[0]["run_id"]
    assert kfp.posts() == 1


def test_a_restart_after_a_lost_answer_starts_no_second_run(kfp: KfpStandIn, connect: Connect) -> None:
    kfp.lost = 1
    with pytest.raises(TemporaryError):
        connect(kfp).start(ORDER)
    assert connect(kfp).start(ORDER) == kfp.runs[0]["run_id"]
    assert kfp.posts() == 1


def test_a_request_that_kfp_is_still_at_is_not_repeated(kfp: KfpStandIn, connect: Connect) -> None:
    kfp.hold = threading.Event()
    backend = connect(kfp, timeout_seconds=1.0)
    with pytest.raises(TemporaryError, match="Timeout"):
        backend.start(ORDER)
    with pytest.raises(TemporaryError, match="not known whether"):
        backend.start(ORDER)
    kfp.hold.set()
    deadline = time.monotonic() + 20
    while not kfp.runs and time.monotonic() < deadline:
        time.sleep(0.01)
    assert backend.start(ORDER) == kfp.runs[0]["run_id"]
    assert kfp.posts() == 1


def test_a_request_that_kfp_never_got_is_repeated_in_the_end(kfp: KfpStandIn, connect: Connect) -> None:
    backend = connect(kfp, timeout_seconds=1.0)
    kfp.answer(200, "{}")
    kfp.answer(503, "upstream connect error")
    with pytest.raises(TemporaryError, match="503"):
        backend.start(ORDER)
    time.sleep(1.0)
    assert backend.start(ORDER) == kfp.runs[0]["run_id"]


# Experiments and namespaces


def test_an_experiment_is_made_once(kfp: KfpStandIn, connect: Connect) -> None:
    backend = connect(kfp, experiment="fraud 1+1 %41")
    backend.start(ORDER)
    backend.start(replace(ORDER, attempt=2))
    (experiment,) = kfp.experiments
    assert experiment["display_name"] == "fraud 1+1 %41"
    assert [run["experiment_id"] for run in kfp.runs] == [experiment["experiment_id"]] * 2


@pytest.mark.parametrize("named", [None, "fraud"])
def test_with_several_users_runs_are_in_a_namespace(
    profiles: KfpStandIn, connect: Connect, named: str | None
) -> None:
    backend = connect(profiles, namespace="fraud-runs", experiment=named)
    assert backend.start(ORDER) == backend.start(ORDER)
    (experiment,) = profiles.experiments
    assert (experiment["display_name"], experiment["namespace"]) == (named or "Default", "fraud-runs")
    assert len(profiles.runs) == 1


def test_an_experiment_that_somebody_else_makes_is_taken_later(kfp: KfpStandIn, connect: Connect) -> None:
    backend = connect(kfp, experiment="fraud")
    for _ in range(2):
        kfp.answer(200, "{}")
    kfp.answer(409, '{"code": 6, "message": "The name fraud already exists"}')
    with pytest.raises(TemporaryError, match="already exists"):
        backend.start(ORDER)
    assert backend.start(ORDER) == kfp.runs[0]["run_id"]


def test_a_backend_that_was_closed_connects_again(kfp: KfpStandIn, connect: Connect) -> None:
    backend = connect(kfp)
    handle = backend.start(ORDER)
    assert not backend.close()
    assert backend.look(ORDER, handle) == Progress(Phase.RUNNING)


# Looking


@pytest.mark.parametrize(
    ("state", "phase", "retry"),
    [
        ("RUNTIME_STATE_UNSPECIFIED", Phase.RUNNING, False),
        ("PENDING", Phase.RUNNING, False),
        ("RUNNING", Phase.RUNNING, False),
        ("PAUSED", Phase.RUNNING, False),
        ("CANCELING", Phase.RUNNING, False),
        ("SUCCEEDED", Phase.ENDED, False),
        ("FAILED", Phase.FAILED, True),
        ("CANCELED", Phase.FAILED, False),
        ("SKIPPED", Phase.FAILED, False),
    ],
)
def test_every_state_says_how_far_a_run_is(
    kfp: KfpStandIn, connect: Connect, state: str, phase: Phase, retry: bool
) -> None:
    backend = connect(kfp)
    handle = backend.start(ORDER)
    kfp.set_state(state)
    progress = backend.look(ORDER, handle)
    assert (progress.phase, progress.retry, progress.result) == (phase, retry, None)
    assert bool(progress.message) == (phase is Phase.FAILED)


def test_a_run_without_a_state_is_under_way(kfp: KfpStandIn, connect: Connect) -> None:
    handle = kfp.add_run("new")["run_id"]
    del kfp.runs[-1]["state"]
    assert connect(kfp).look(ORDER, handle) == Progress(Phase.RUNNING)


def test_a_state_of_a_later_kfp_is_not_guessed_at(kfp: KfpStandIn, connect: Connect) -> None:
    handle = kfp.add_run("new", state="DEFERRED")["run_id"]
    with pytest.raises(TemporaryError, match="DEFERRED"):
        connect(kfp).look(ORDER, handle)


def test_a_failed_run_says_why_and_which_tasks(kfp: KfpStandIn, connect: Connect) -> None:
    backend = connect(kfp)
    handle = backend.start(ORDER)
    tasks = [("root", "FAILED"), ("prepare", "SUCCEEDED"), ("train", "FAILED"), ("executor", "FAILED")]
    kfp.set_state(
        "FAILED",
        error={"code": 13, "message": "OOMKilled"},
        run_details={"task_details": [{"display_name": name, "state": state} for name, state in tasks]},
    )
    message = backend.look(ORDER, handle).message
    assert message == f"run {handle} failed on Kubeflow Pipelines; OOMKilled; failed: train"


def test_a_failed_run_whose_history_knows_why_says_it(kfp: KfpStandIn, connect: Connect) -> None:
    backend = connect(kfp)
    handle = backend.start(ORDER)
    history = [{"state": "RUNNING"}, {"state": "FAILED", "error": {"code": 13, "message": "no node has room"}}]
    kfp.set_state("FAILED", state_history=history)
    assert "no node has room" in backend.look(ORDER, handle).message


def test_a_run_that_was_deleted_may_be_tried_again(kfp: KfpStandIn, connect: Connect) -> None:
    progress = connect(kfp).look(ORDER, "gone")
    assert (progress.phase, progress.retry) == (Phase.FAILED, True)
    assert "gone" in progress.message


@pytest.mark.parametrize("body", ["default backend - 404", '{"code": 5, "message": "Not Found", "details": []}'])
def test_a_404_that_is_not_kfps_word_on_the_run_ends_nothing(kfp: KfpStandIn, connect: Connect, body: str) -> None:
    handle = kfp.add_run("there")["run_id"]
    kfp.answer(404, body)
    with pytest.raises(TemporaryError, match=r"launcher\.kfp\.url"):
        connect(kfp).look(ORDER, handle)


def test_a_look_that_is_refused_ends_nothing(kfp: KfpStandIn, connect: Connect, token: Path) -> None:
    backend = connect(kfp, token=token)
    handle = backend.start(ORDER)
    kfp.forbidden = {("get", "runs")}
    with pytest.raises(TemporaryError, match=r"right to get runs\.pipelines\.kubeflow\.org"):
        backend.look(ORDER, handle)
    token.unlink()
    with pytest.raises(TemporaryError, match="cannot read"):
        backend.look(ORDER, handle)


# The token


def test_a_renewed_token_is_read(kfp: KfpStandIn, connect: Connect, token: Path) -> None:
    kfp.token = TOKEN
    backend = connect(kfp, token=token)
    handle = backend.start(ORDER)
    kfp.token = "renewed"  # noqa: S105
    token.write_text("renewed")
    assert backend.look(ORDER, handle).phase is Phase.RUNNING
    assert kfp.tokens == [f"Bearer {TOKEN}"] * 2 + ["Bearer renewed"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"two\nlines", "no token"),
        (b"\xff", "no token"),
    ],
)
def test_a_file_without_a_token_is_named(
    kfp: KfpStandIn, connect: Connect, tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "projected"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PermanentError, match=said) as raised:
        connect(kfp, token=path).start(ORDER)
    assert str(path) in str(raised.value)
    assert "lines" not in str(raised.value)
    assert kfp.requests == []


# Errors


def refusal(backend: KfpBackend) -> FraudError:
    with pytest.raises(FraudError) as raised:
        backend.start(ORDER)
    return raised.value


def test_a_token_that_is_not_accepted_is_named_by_its_file(kfp: KfpStandIn, connect: Connect, token: Path) -> None:
    kfp.token = "another"  # noqa: S105
    error = refusal(connect(kfp, token=token))
    assert isinstance(error, PermanentError)
    assert f"does not accept the token in {token}" in str(error)
    assert "launcher.kfp.token" in str(refusal(connect(kfp)))


@pytest.mark.parametrize(
    ("verb", "what"), [("list", "runs"), ("create", "runs"), ("list", "experiments"), ("create", "experiments")]
)
def test_a_missing_right_is_named_with_who_lacks_it(
    profiles: KfpStandIn, connect: Connect, token: Path, verb: str, what: str
) -> None:
    profiles.forbidden = {(verb, what)}
    error = refusal(connect(profiles, namespace="fraud-runs", token=token))
    assert isinstance(error, PermanentError)
    needs = f"needs the right to {verb} {what}.pipelines.kubeflow.org in namespace fraud-runs"
    assert f"system:serviceaccount:fraud:launcher {needs}" in str(error)
    token.write_text("opaque")
    assert f"the ServiceAccount of the token in {token} {needs}" in str(
        refusal(connect(profiles, namespace="fraud-runs", token=token))
    )
    assert "carry no token" in str(refusal(connect(profiles, namespace="fraud-runs")))


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_temporary(kfp: KfpStandIn, connect: Connect, status: int) -> None:
    backend = connect(kfp)
    kfp.answer(status, "busy")
    error = refusal(backend)
    assert isinstance(error, TemporaryError)
    assert f"{status} (busy)" in str(error)
    assert backend.start(ORDER) == kfp.runs[0]["run_id"]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, '{"code": 3, "message": "no such parameter"}', "400 (no such parameter)"),
        (302, "", "a login"),
        (200, "<!doctype html>", "launcher.kfp.url"),
        (200, "[]", "launcher.kfp.url"),
        (404, "404 page not found", "launcher.kfp.url right? (404 page not found)"),
    ],
)
def test_what_will_not_pass_says_what_to_change(
    kfp: KfpStandIn, connect: Connect, status: int, body: str, said: str
) -> None:
    kfp.answer(status, body, location="http://elsewhere/login")
    error = refusal(connect(kfp))
    assert isinstance(error, PermanentError)
    assert said in str(error)


def test_an_answer_that_is_not_kfps_to_a_start_leaves_it_open(kfp: KfpStandIn, connect: Connect) -> None:
    kfp.answer(200, "{}")
    kfp.answer(200, "{}")
    assert isinstance(refusal(connect(kfp)), TemporaryError)


def test_a_pipeline_that_kfp_does_not_take_is_kfps_to_explain(
    kfp: KfpStandIn, connect: Connect, tmp_path: Path
) -> None:
    more = compiled(tmp_path, lambda spec: parameters_of(spec).update(new={"parameterType": "STRING"}))
    error = refusal(connect(kfp, more))
    assert isinstance(error, PermanentError)
    assert "parameter new is missing" in str(error)


def test_a_url_with_a_path_too_many_is_asked_about(kfp: KfpStandIn, connect: Connect) -> None:
    error = refusal(connect(kfp, url=f"{kfp.url}/apis"))
    assert isinstance(error, PermanentError)
    assert "launcher.kfp.url" in str(error)


def test_a_url_may_end_with_a_slash(kfp: KfpStandIn, connect: Connect) -> None:
    assert connect(kfp, url=f"{kfp.url}/").start(ORDER) == kfp.runs[0]["run_id"]


@pytest.mark.parametrize("url", ["ml-pipeline:8888", "http://host:port", ""])
def test_what_is_no_url_is_said_to_be_none(kfp: KfpStandIn, connect: Connect, url: str) -> None:
    error = refusal(connect(kfp, url=url))
    assert isinstance(error, PermanentError)
    assert "launcher.kfp.url" in str(error)


def test_nobody_there_is_temporary(connect: Connect) -> None:
    with running() as kfp:
        pass
    error = refusal(connect(kfp))
    assert isinstance(error, TemporaryError)
    assert kfp.url in str(error)


def test_no_message_has_the_token(kfp: KfpStandIn, connect: Connect, token: Path) -> None:
    backend = connect(kfp, token=token)
    for status in (400, 401, 403, 404, 418, 500):
        kfp.answer(status, json.dumps({"code": 3, "message": f"who is Bearer {TOKEN}?"}))
        assert re.search(r"who is Bearer …\?", str(refusal(backend)))


def test_the_environment_names_no_proxy(
    kfp: KfpStandIn, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert connect(kfp).start(ORDER) == kfp.runs[0]["run_id"]


def test_kfps_own_client_is_not_loaded() -> None:
    script = "import sys, pipelines.launcher.kfp; print(*{'kfp', 'kfp_server_api', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
