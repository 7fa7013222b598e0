"""What the chart renders: sound for helm and Kubernetes, the same as ever, changed by each switch as it says."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from charts import CHART, ENGINE, PROFILES, ROOT, helm, kubeconform, objects, rendered, service, text, tool

SNAPSHOT = Path(__file__).parent / "defaults.yaml"
MONITORS = tuple(f"monitoring.{kind}=true" for kind in ("serviceMonitor", "podMonitor", "prometheusRule"))


@pytest.mark.parametrize("profile", PROFILES)
def test_helm_finds_nothing_to_complain_of(profile: str) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", *PROFILES[profile])


@pytest.mark.parametrize("profile", PROFILES)
def test_the_api_servers_schemas_take_every_object(profile: str, tmp_path: Path) -> None:
    documents = [*rendered(*PROFILES[profile])]
    said = kubeconform(documents, tmp_path)
    assert said["resources"] == []
    assert said["summary"] == {"valid": len(documents), "invalid": 0, "errors": 0, "skipped": 0}
    assert len(documents) > 30


def test_the_schemas_refuse_what_the_api_server_would_drop(tmp_path: Path) -> None:
    documents = [*rendered(ENGINE)]
    for kind, path in (("Deployment", "spec.template.spec"), ("CronWorkflow", "spec"), ("ServingRuntime", "spec")):
        found = yaml.safe_load(yaml.safe_dump(next(one for one in documents if one["kind"] == kind)))
        place = found
        for key in path.split("."):
            place = place[key]
        place["schedule"] = "0 0 1 * *"
        said = kubeconform([found], tmp_path)
        assert [one["status"] for one in said["resources"]] == ["statusInvalid"], kind
        assert "schedule" in said["resources"][0]["msg"]


def test_the_inference_service_of_the_template_is_one_for_kserve(tmp_path: Path) -> None:
    for values in PROFILES.values():
        made = service(*values)
        made["metadata"] |= {"name": "fraud", "namespace": "models"}
        made["spec"]["predictor"]["model"]["storageUri"] = "s3://fraud/bundles/0123456789ab"
        document = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService"} | made
        assert kubeconform([document], tmp_path)["summary"]["valid"] == 1


def test_the_defaults_render_what_they_rendered() -> None:
    """`UPDATE=1 make chart-check` writes it anew."""
    now = re.sub(r"(?m)^(  (?:postgres|detector|launcher|mlflow)): \S+$", r"\1: ***", text(ENGINE))
    if os.environ.get("UPDATE"):
        SNAPSHOT.write_text(now)
    assert now == SNAPSHOT.read_text()


def test_schema_and_readme_are_those_of_the_values_and_settings() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/chart_docs.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_value_has_a_comment() -> None:
    readme = (CHART / "README.md").read_text()

    def paths(value: object, path: str) -> list[str]:
        if path == "settings" or not isinstance(value, dict) or not value or path.endswith("resources"):
            return [path]
        return [found for key, one in value.items() for found in paths(one, f"{path}.{key}".lstrip("."))]

    found = paths(yaml.safe_load((CHART / "values.yaml").read_text()), "")
    assert len(found) > 70
    assert [path for path in found if f"| `{path}` |" not in readme] == []


# Values that are refused


def test_without_an_engine_helm_says_why_one_must_be_chosen() -> None:
    said = helm("template", status=1)
    assert "detector.engine must be chosen" in said
    assert "Business Source License" in said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("detector.engin=scipy", "'engin' not allowed"),
        ("settings.drift.inputs.thrice=0.1", "'thrice' not allowed"),
        ("settings.gate.roc_auc=2", "/settings/gate/roc_auc"),
        ("serving.timeout=30", "minimum: got 30, want 60"),
        ("images.tag=latest", "/images/tag"),
        ("postgresql.image=postgres", "/postgresql/image"),
        ("postgresql.image=postgres:latest", "/postgresql/image"),
        ("postgresql.image=registry:5000/postgres", "/postgresql/image"),
        ("images.predictor.digest=sha256:0123", "/images/predictor/digest"),
        ("settings.detector.engine=alibi", "says otherwise than detector.engine"),
        ("kfp.resources.limits.gpu=1", "'gpu' not allowed"),
        ("tolerations[0].efect=NoSchedule", "'efect' not allowed"),
        ("bundles.kind=volume", "cannot mount a claim"),
        ("bundles.s3.existingSecret=own", "kfp.existingSecret"),
        ("bundles.kind=azure", "bundles.azure.account"),
        ("postgresql.enabled=false", "postgresql.existingSecret"),
        ("mlflow.enabled=false", "mlflow.uri"),
        ("ingress.enabled=true", "console.enabled"),
        ("console.enabled=true", "settings.console.user_header"),
    ],
)
def test_a_wrong_value_is_refused_by_name(value: str, said: str) -> None:
    assert said in helm("template", ENGINE, value, status=1)


# Switches


@pytest.mark.parametrize(
    ("values", "added", "removed"),
    [
        (
            ("console.enabled=true", "settings.console.user_header=X-Auth-Request-Email"),
            "Deployment/console Service/console PodDisruptionBudget/console NetworkPolicy/console",
            "",
        ),
        (
            (
                *(
                    "console.enabled=true",
                    "settings.console.user_header=X-Auth-Request-Email",
                    "ingress.enabled=true",
                    "ingress.host=fraud.example.com",
                ),
                *("networkPolicies.enabled=false", "podDisruptionBudgets.enabled=false"),
            ),
            "Deployment/console Service/console Ingress/fraud",
            "kfp/NetworkPolicy/api "
            + " ".join(
                f"{kind}/{part}"
                for kind in ("NetworkPolicy", "PodDisruptionBudget")
                for part in ("detector", "evaluator", "launcher", "rollout", "mlflow", "postgresql", "serving")
            ),
        ),
        (("settings.launcher.data=s3://fraud/base.parquet",), "Job/bootstrap", ""),
        (("settings.launcher.data=s3://fraud/base.parquet", "bootstrap.enabled=false"), "", ""),
        (("serving.domain.host=score.example.com",), "DomainMapping/score.example.com", ""),
        (
            ("kfp.cron.enabled=false",),
            "",
            " ".join(f"kfp/{kind}/monthly" for kind in ("CronWorkflow", "ServiceAccount", "Role", "RoleBinding")),
        ),
        (("networkPolicies.kfpApi=false",), "", "kfp/NetworkPolicy/api"),
        (
            ("kfp.enabled=false",),
            "",
            " ".join(f"kfp/{kind}/monthly" for kind in ("CronWorkflow", "ServiceAccount", "Role", "RoleBinding"))
            + " kfp/ServiceAccount/run kfp/Role/run kfp/RoleBinding/run"
            + " kfp/ConfigMap/settings kfp/NetworkPolicy/api",
        ),
        (("events.delivery=broker",), "Broker/fraud Trigger/request Trigger/response", ""),
        (
            ("postgresql.enabled=false", "postgresql.existingSecret=own"),
            "",
            " ".join(
                f"{kind}/postgresql"
                for kind in (
                    *("StatefulSet", "Service", "ConfigMap", "Secret", "PodDisruptionBudget", "NetworkPolicy"),
                )
            ),
        ),
        (("postgresql.existingSecret=own",), "", "Secret/postgresql"),
        (
            ("mlflow.enabled=false", "mlflow.uri=http://mlflow"),
            "",
            " ".join(
                f"{kind}/mlflow"
                for kind in (
                    "Deployment",
                    "Service",
                    "PersistentVolumeClaim",
                    "PodDisruptionBudget",
                    "NetworkPolicy",
                )
            ),
        ),
        (("mlflow.artifacts=s3://fraud/mlflow",), "", "PersistentVolumeClaim/mlflow"),
        (("bundles.s3.accessKeyId=AKIA",), "Secret/bundles kfp/Secret/bundles", ""),
        (("bundles.s3.accessKeyId=AKIA", "bundles.s3.existingSecret=own", "kfp.existingSecret=own"), "", ""),
        (MONITORS[:1], "ServiceMonitor/fraud", ""),
        (MONITORS[1:2], "PodMonitor/serving", ""),
        (MONITORS[2:], "PrometheusRule/fraud", ""),
        (
            ("uninstall.enabled=false",),
            "",
            " ".join(f"{kind}/uninstall" for kind in ("Job", "ServiceAccount", "Role", "RoleBinding")),
        ),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_a_switch_adds_and_removes_what_it_says(values: tuple[str, ...], added: str, removed: str) -> None:
    before, after = set(objects(ENGINE)), set(objects(ENGINE, *values))
    assert after - before == set(added.split())
    assert before - after == set(removed.split())


def test_a_volume_of_bundles_is_made_unless_there_is_one() -> None:
    volume = (ENGINE, "kfp.enabled=false", "bundles.kind=volume")
    made = objects(*volume)["PersistentVolumeClaim/bundles"]
    assert made["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "PersistentVolumeClaim/bundles" not in objects(*volume, "bundles.volume.existingClaim=own")


def notes(folder: Path, *values: str) -> str:
    """What helm says after an installation; it renders that for a cluster alone, so here an object holds it."""
    chart = shutil.copytree(CHART, folder / f"chart{len(values)}")
    said = (chart / "templates" / "NOTES.txt").read_text()
    (chart / "templates" / "_notes.tpl").write_text('{{- define "notes" }}' + said + "{{ end }}")
    (chart / "templates" / "notes.yaml").write_text(
        'kind: Notes\nsaid: |\n  {{- include "notes" . | nindent 2 }}\n'
    )
    (chart / "templates" / "NOTES.txt").unlink()
    options = [part for one in values for part in ("--set", one)]
    command = [tool("helm"), "template", "fraud", chart, "-n", "models", "-s", "templates/notes.yaml", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return str(yaml.safe_load(done.stdout)["said"])


def test_the_notes_are_a_checklist_for_these_values(tmp_path: Path) -> None:
    few = notes(tmp_path, ENGINE)
    assert "helm -n models test fraud" in few
    assert "settings.launcher.data names no base data" in few
    assert "Business Source License" not in few
    more = notes(tmp_path, "detector.engine=alibi", "settings.launcher.data=s3://fraud/base.parquet")
    assert "Business Source License" in more
    assert "names no base data" not in more
    assert "/v1/runs/bootstrap" in more


def test_without_go_the_tools_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = runpy.run_path(str(ROOT / "scripts" / "chart_tools.py"))
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(SystemExit, match="helm is missing, and Go to build it: install one of them"):
        tools["install"]("helm")
