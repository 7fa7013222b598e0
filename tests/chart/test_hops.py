"""What the parts are told fits the code that reads it, hop by hop."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import ENGINE, PROFILES, ROOT, containers, environment, objects, pod_of, rendered, service, settings

from fraudkit.settings import KfpSettings, Settings, TaskPodSettings, load_settings
from pipelines.launcher.pods import KEYS
from serving.rollout.template import canonical

FED: dict[str, Any] = {
    "data": {"natural_rate": 0.002, "reference_rows": 1_000_000},
    "sampling": {"per_class": 1_000_000, "seed": 2**53},
    "alerts": {"policy": "budget", "budget": 0.001},
    "serving": {"max_rows": 500, "request_log": True},
    "drift": {"inputs": {"once": 2e-6}, "episode": {"confirm": 3}},
    "gate": {"scorer_error": 1e-12},
    "retrain": {"cooldown_hours": 0.5},
    "rollout": {"rules": {"steps": [{"percent": 5, "requests": 100}, {"percent": 100, "requests": 1_000_000}]}},
    "events": {"sinks": ["http://siem.example.com/"]},
    "launcher": {"data": "s3://fraud/base.parquet", "kfp": {"experiment": "fraud"}},
}

CHARTS_OWN = {("events", "sinks"), ("launcher", "kfp")}
"""Settings to which the chart adds what it knows."""


@pytest.fixture
def values(tmp_path: Path) -> str:
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps({"detector": {"engine": "scipy"}, "settings": FED}))
    return f"-f {file}"


def loaded(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings as a part reads them."""
    file = folder / "settings.yaml"
    file.write_text(text)
    monkeypatch.setenv("FRAUD_SETTINGS", str(file))
    return load_settings()


def config(*values: str) -> str:
    return str(objects(*values)["ConfigMap/settings"]["data"]["settings.yaml"])


@pytest.mark.parametrize("profile", PROFILES)
def test_every_part_reads_the_settings_that_it_is_given(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FRAUD_STATE", raising=False)
    read = loaded(config(*PROFILES[profile]), tmp_path, monkeypatch)
    assert read.rollout.target == "kserve"
    assert read.rollout.namespace == "models"
    assert read.rollout.poll_seconds == 5
    assert read.rollout.config_map == "fraud-rollout"
    detector = "http://fraud-detector.models.svc.cluster.local:8082"
    launcher = "http://fraud-launcher.models.svc.cluster.local:8083"
    assert read.detector.url == detector
    assert read.events.launcher == launcher
    assert read.events.sinks == (f"{launcher}/", f"{detector}/")
    for name, one in objects(*PROFILES[profile]).items():
        if name in ("Deployment/detector", "Deployment/evaluator", "Deployment/launcher", "Deployment/rollout"):
            for container in containers(one):
                with monkeypatch.context() as patched:
                    for variable, value in environment(container).items():
                        if variable != "FRAUD_SETTINGS":
                            patched.setenv(variable, value)
                    told = load_settings()
                    assert str(told.state) == "/state"
                    if name != "Deployment/rollout":
                        part = "launcher" if name.endswith("launcher") else "detector"
                        database = getattr(told, f"{part}_database")
                        assert database.startswith(("postgresql://", "<databases/")), database


def test_the_tree_of_the_values_is_that_of_the_python_settings(
    values: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = loaded(config(values), tmp_path, monkeypatch)
    wanted = Settings(**copy.deepcopy(FED))
    for section in ("data", "sampling", "training", "alerts", "gate", "serving", "drift", "retrain", "labels"):
        assert getattr(read, section) == getattr(wanted, section), section
    assert read.rollout.rules == wanted.rollout.rules
    assert read.launcher.data == "s3://fraud/base.parquet"
    assert read.events.sinks[2:] == ("http://siem.example.com/",)
    monkeypatch.delenv("FRAUD_SETTINGS")
    steps = load_settings(**json.loads(read.launcher.kfp.settings))
    for section in ("data", "sampling", "alerts", "gate", "retrain"):
        assert getattr(steps, section) == getattr(wanted, section), section
    assert (steps.bundles, steps.tracking, steps.detector.url) == (read.bundles, read.tracking, read.detector.url)
    assert steps.rollout.url == read.rollout.url
    assert steps.rollout.target == "local"


def test_every_python_setting_may_stand_in_the_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = Settings().model_dump(mode="json", exclude={"state"}, exclude_none=True)
    everything["detector"]["engine"] = "scipy"
    assert len(everything) > 12
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump({"settings": everything}))
    read = loaded(config(f"-f {file}", ENGINE), tmp_path, monkeypatch).model_dump(mode="json", exclude_none=True)
    for section, given in everything.items():
        kept = {key: read[section][key] for key in given if (section, key) not in CHARTS_OWN}
        assert kept == {key: value for key, value in given.items() if (section, key) not in CHARTS_OWN}


# Bundles, one setting for every reader

S3 = (ENGINE, "bundles.s3.endpoint=http://store.kubeflow:8333", "bundles.s3.accessKeyId=AKIA")
AZURE = (ENGINE, "bundles.kind=azure", "bundles.azure.account=acct", "bundles.azure.clientId=the-id")
VOLUME = (ENGINE, "bundles.kind=volume", "kfp.enabled=false")


@pytest.mark.parametrize(
    ("values", "path", "uri"),
    [
        (S3, "s3://fraud/bundles", "s3://fraud/bundles"),
        (
            AZURE,
            "abfs://fraud@acct.dfs.core.windows.net/bundles",
            "https://acct.blob.core.windows.net/fraud/bundles",
        ),
        (VOLUME, "/bundles/bundles", "pvc://fraud-bundles/bundles"),
    ],
)
def test_bundles_are_one_place_for_every_reader(values: tuple[str, ...], path: str, uri: str) -> None:
    told = settings(*values)
    assert told["bundles"] == path
    assert told["rollout"]["storage_uri"] == uri
    if "kfp" in told["launcher"]:
        assert json.loads(told["launcher"]["kfp"]["settings"])["bundles"] == path
    for part in ("detector", "evaluator", "launcher", "rollout"):
        mounts = containers(objects(*values)[f"Deployment/{part}"])
        assert any(mount["mountPath"] == "/bundles" for each in mounts for mount in each["volumeMounts"]) is (
            values == VOLUME
        )


def test_keys_of_s3_reach_parts_kserve_and_tasks() -> None:
    found = objects(*S3)
    for part in ("detector", "evaluator", "launcher", "rollout"):
        told = environment([*containers(found[f"Deployment/{part}"])][-1])
        assert told["AWS_ACCESS_KEY_ID"] == "<fraud-bundles/AWS_ACCESS_KEY_ID>"
        assert told["AWS_ENDPOINT_URL"] == "http://store.kubeflow:8333"
    assert found["ServiceAccount/predictor"]["secrets"] == [{"name": "fraud-bundles"}]
    assert found["Secret/bundles"]["metadata"]["annotations"] == {
        "serving.kserve.io/s3-endpoint": "store.kubeflow:8333",
        "serving.kserve.io/s3-usehttps": "0",
        "serving.kserve.io/s3-region": "us-east-1",
    }
    assert found["kfp/Secret/bundles"]["stringData"] == found["Secret/bundles"]["stringData"]
    assert found["kfp/ConfigMap/settings"]["data"]["AWS_ENDPOINT_URL"] == "http://store.kubeflow:8333"


def test_on_azure_every_reader_has_the_identity() -> None:
    found = objects(*AZURE)
    label = "azure.workload.identity/use"
    for part in ("detector", "evaluator", "launcher", "rollout"):
        assert found[f"Deployment/{part}"]["spec"]["template"]["metadata"]["labels"][label] == "true"
    assert service(*AZURE)["metadata"]["labels"][label] == "true"
    for account in (
        "ServiceAccount/fraud",
        "ServiceAccount/rollout",
        "ServiceAccount/predictor",
        "kfp/ServiceAccount/run",
    ):
        assert found[account]["metadata"]["annotations"] == {"azure.workload.identity/client-id": "the-id"}


# Tasks of Kubeflow Pipelines

IDENTITY = {"azure.workload.identity/use": "true"}
OWN_SECRET = (ENGINE, "bundles.s3.existingSecret=own", "kfp.existingSecret=like-it")
PLACED = (
    *(ENGINE, "uid=4711", "nodeSelector.pool=fraud", "kfp.resources.limits.cpu=2"),
    *("images.pullPolicy=Always", "images.pullSecrets={registry,mirror}"),
    *("tolerations[0].key=spot", "tolerations[0].operator=Exists", "tolerations[0].tolerationSeconds=60"),
)


def pods_of_tasks(*values: str) -> TaskPodSettings:
    return KfpSettings.model_validate(settings(*values)["launcher"]["kfp"]).pods


@pytest.mark.parametrize(
    ("values", "secret", "labels"),
    [
        (S3, "made", {}),
        (OWN_SECRET, "like-it", {}),
        ((ENGINE,), None, {}),
        (AZURE, None, IDENTITY),
        ((*AZURE, "bundles.s3.existingSecret=own", "kfp.existingSecret=like-it"), None, IDENTITY),
    ],
    ids=["s3 with keys", "s3 with a Secret", "s3 with an identity", "azure", "azure, once s3"],
)
def test_what_tasks_are_given_is_in_their_namespace(
    values: tuple[str, ...], secret: str | None, labels: dict[str, str]
) -> None:
    found, pods = objects(*values), pods_of_tasks(*values)
    variables = found["kfp/ConfigMap/settings"]
    assert pods.config_map == variables["metadata"]["name"]
    assert set(pods.variables) == set(variables["data"])
    assert variables["data"]["HOME"] == "/tmp"  # noqa: S108
    made = found.get("kfp/Secret/bundles")
    if made:
        assert set(made["stringData"]) == set(KEYS)
    assert pods.secret == (made["metadata"]["name"] if made else secret)
    assert bool(made) is (secret == "made")  # noqa: S105
    assert pods.labels == labels
    account = settings(*values)["launcher"]["kfp"]["service_account"]
    assert account == found["kfp/ServiceAccount/run"]["metadata"]["name"]


def test_tasks_run_where_and_as_the_other_pods_do() -> None:
    pods, other = pods_of_tasks(*PLACED), pod_of(objects(*PLACED)["Deployment/launcher"])
    assert pods.user == other["securityContext"]["runAsUser"] == 4711
    assert list(pods.pull_secrets) == [one["name"] for one in other["imagePullSecrets"]] == ["registry", "mirror"]
    assert pods.pull_policy == other["containers"][0]["imagePullPolicy"] == "Always"
    assert pods.node_selector == other["nodeSelector"] == {"pool": "fraud"}
    tolerations = [one.model_dump(exclude_none=True) for one in pods.tolerations]
    assert tolerations == other["tolerations"] == [{"key": "spot", "operator": "Exists", "tolerationSeconds": 60}]
    assert (pods.resources.limits.cpu, pods.resources.limits.memory) == ("2", "2Gi")


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != "one namespace"])
def test_tasks_have_requests_and_limits(profile: str) -> None:
    resources = pods_of_tasks(*PROFILES[profile]).resources
    assert None not in (*dict(resources.requests).values(), *dict(resources.limits).values())


# Serving


@pytest.mark.parametrize("profile", PROFILES)
def test_the_controller_takes_the_template_and_its_runtime_is_there(profile: str) -> None:
    found = objects(*PROFILES[profile])
    text = found["ConfigMap/template"]["data"]["template.yaml"]
    predictor = json.loads(canonical(text))["spec"]["predictor"]
    names = [one["metadata"]["name"] for one in found.values() if one["kind"] == "ServingRuntime"]
    assert [predictor["model"]["runtime"]] == names
    assert predictor["logger"]["mode"] == "all"
    assert predictor["logger"]["metadataHeaders"] == ["Inference-Header-Content-Length"]
    (controller,) = containers(found["Deployment/rollout"])
    mount = next(one for one in controller["volumeMounts"] if one["name"] == "template")
    assert f"{mount['mountPath']}/template.yaml" == settings(*PROFILES[profile])["rollout"]["template"]
    assert found["Deployment/rollout"]["spec"]["strategy"] == {"type": "Recreate"}
    assert found["Deployment/rollout"]["spec"]["replicas"] == 1


def test_log_events_go_to_the_detector_or_to_the_broker() -> None:
    direct, broker = service(ENGINE), service(ENGINE, "events.delivery=broker")
    assert direct["spec"]["predictor"]["logger"]["url"] == "http://fraud-detector.models.svc.cluster.local:8082/"
    ingress = "http://broker-ingress.knative-eventing.svc.cluster.local"
    assert broker["spec"]["predictor"]["logger"]["url"] == f"{ingress}/models/fraud"
    found = objects(ENGINE, "events.delivery=broker")
    types = {found[f"Trigger/{kind}"]["spec"]["filter"]["attributes"]["type"] for kind in ("request", "response")}
    assert types == {f"org.kubeflow.serving.inference.{kind}" for kind in ("request", "response")}


def runtime(*values: str) -> tuple[str, Any]:
    one = next(one for one in rendered(ENGINE, *values) if one["kind"] == "ServingRuntime")
    assert one["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(one["metadata"]["labels"])
    return one["metadata"]["name"], one


def test_a_runtime_is_named_by_its_content_and_nothing_else_changes_it() -> None:
    name, content = runtime()
    for values in (("detector.replicas=5",), ("serving.maxReplicas=3",), ("settings.drift.episode.confirm=2",)):
        assert runtime(*values) == (name, content)
    digest = f"images.predictor.digest=sha256:{'0' * 64}"
    others = [runtime(one) for one in (digest, "images.tag=0.2.0", "settings.serving.max_rows=5", "uid=1234")]
    assert len({name, *(other for other, _ in others)}) == 5
    assert others[0][1]["spec"]["containers"][0]["image"] == f"fraud-platform-predictor@sha256:{'0' * 64}"


def test_the_predictor_reads_its_section_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    content = runtime("settings.serving.max_rows=500", "settings.serving.request_log=true")[1]
    told = environment(content["spec"]["containers"][0])
    monkeypatch.setenv("FRAUD__SERVING", told["FRAUD__SERVING"])
    assert load_settings().serving.max_rows == 500
    assert load_settings().serving.request_log is True


# The others


def test_mlflow_answers_to_every_form_of_its_services_name() -> None:
    from mlflow.server.security_utils import is_allowed_host_header

    command = [*containers(objects(ENGINE, "mlflow.allowedHosts={mlflow.example.com}")["Deployment/mlflow"])][-1][
        "command"
    ]
    allowed = command[command.index("--allowed-hosts") + 1].split(",")
    name = "fraud-mlflow"
    for host in (name, f"{name}.models", f"{name}.models.svc", f"{name}.models.svc.cluster.local"):
        assert is_allowed_host_header(allowed, host)
        assert is_allowed_host_header(allowed, f"{host}:5000")
    assert is_allowed_host_header(allowed, "mlflow.example.com")
    assert not is_allowed_host_header(allowed, "evil.example.com")
    assert not is_allowed_host_header(allowed, f"{name}.other")


def test_mlflow_runs_without_the_processes_of_its_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.environment_variables import MLFLOW_SERVER_ENABLE_JOB_EXECUTION as JOBS

    assert JOBS.get() is True
    (server,) = pod_of(objects(ENGINE)["Deployment/mlflow"])["containers"]
    monkeypatch.setenv(JOBS.name, environment(server)[JOBS.name])
    assert JOBS.get() is False


def test_alerts_are_on_metrics_that_the_parts_have() -> None:
    rules = objects(ENGINE, "monitoring.prometheusRule=true")["PrometheusRule/fraud"]["spec"]["groups"][0]["rules"]
    named = {name for rule in rules for name in re.findall(r"fraud_\w+", rule["expr"])}
    files = ("detectors/metrics.py", "serving/rollout/metrics.py", "serving/predictor/metrics.py")
    source = "".join((ROOT / file).read_text() for file in files)
    there = set(re.findall(r'"(fraud_\w+)"', source))
    assert len(named) > 5
    assert {name.removesuffix("_total") for name in named} <= there
    assert {"FraudDrift", "FraudStale", "FraudEventsDropped", "FraudRolloutStuck", "FraudNoEvents"} <= {
        rule["alert"] for rule in rules
    }
    assert all('namespace="models"' in rule["expr"] for rule in rules)


def test_the_schedule_is_argos_of_version_4() -> None:
    cron = objects(ENGINE)["kfp/CronWorkflow/monthly"]["spec"]
    assert cron["schedules"] == ["0 0 1 * *"]
    assert cron["timezone"] == "Etc/UTC"
    told = environment(cron["workflowSpec"]["templates"][0]["container"])
    assert told["SCHEDULED_TIME"] == "{{workflow.scheduledTime}}"


def test_secrets_and_volumes_outlive_the_release() -> None:
    found = objects(ENGINE)
    for name in ("Secret/postgresql", "PersistentVolumeClaim/mlflow"):
        assert found[name]["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    claims = found["StatefulSet/postgresql"]["spec"]["volumeClaimTemplates"]
    assert [claim["metadata"]["name"] for claim in claims] == ["data"]
