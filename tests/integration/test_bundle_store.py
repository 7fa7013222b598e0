"""Bundles and frozen holdouts in a folder, and in an object store that a real S3 API stands for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from ports import free_port

from fraudkit.bundle import MANIFEST, SCORER, Bundle, Origin, child_of, child_origin, load
from fraudkit.bundle_store import BundleStore
from fraudkit.errors import BundleError, TemporaryError
from fraudkit.scoring import Thresholds
from fraudkit.settings import load_settings
from pipelines.data.synthesize import synthesize, write
from pipelines.local import Finished, run_pipeline
from pipelines.provenance import Run
from serving.rollout.evidence import Evidence

BUCKET, PREFIX = "fraud", "bundles"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", free_port(), verbose=False)
    server.start()
    yield f"http://127.0.0.1:{server._port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """An empty bucket, and the variables by which everybody finds it."""
    variables = {
        "ENDPOINT_URL": endpoint,
        "ACCESS_KEY_ID": "id",
        "SECRET_ACCESS_KEY": "key",
        "REGION": "us-east-1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    yield client
    for one in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=one["Key"])
    client.delete_bucket(Bucket=BUCKET)


def store_of(folder: Path) -> BundleStore:
    """The store, as a process that has not seen it before finds it."""
    return BundleStore.of(load_settings(state=folder, bundles=f"s3://{BUCKET}/{PREFIX}"))


def origin_of(bundle: Bundle) -> Origin:
    return Origin(**bundle.manifest.model_dump(include=set(Origin.model_fields)))


def keys(s3: object) -> set[str]:
    return {one["Key"] for one in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])}  # type: ignore[attr-defined]


def test_what_one_process_seals_another_loads(s3: object, bundle: Bundle, tmp_path: Path) -> None:
    sealed = store_of(tmp_path / "one").seal(bundle.path, origin_of(bundle))
    other = store_of(tmp_path / "other")
    assert other.has(bundle.version)
    loaded = other.load(bundle.version)
    assert (loaded.version, loaded.manifest) == (bundle.version, sealed.manifest)
    assert loaded.path.is_relative_to(tmp_path / "other")
    assert keys(s3) == {
        f"{PREFIX}/{bundle.version}/{path.relative_to(sealed.path).as_posix()}"
        for path in sealed.path.rglob("*")
        if path.is_file()
    }
    assert [path.name for path in (tmp_path / "other" / "bundles").iterdir()] == [bundle.version]


def test_the_same_content_sealed_elsewhere_is_the_bundle_that_is_there(
    s3: object, bundle: Bundle, tmp_path: Path
) -> None:
    first = store_of(tmp_path / "one").seal(bundle.path, origin_of(bundle))
    again = store_of(tmp_path / "other").seal(bundle.path, origin_of(bundle).model_copy(update={"run": "again"}))
    assert again.manifest == first.manifest


def test_a_bundle_whose_manifest_is_not_there_yet_is_not_there(s3: object, bundle: Bundle, tmp_path: Path) -> None:
    store_of(tmp_path / "one").seal(bundle.path, origin_of(bundle))
    s3.delete_object(Bucket=BUCKET, Key=f"{PREFIX}/{bundle.version}/{MANIFEST}")  # type: ignore[attr-defined]
    other = store_of(tmp_path / "other")
    assert not other.has(bundle.version)
    assert other.versions() == ()
    with pytest.raises(BundleError, match=f"there is no bundle s3://{BUCKET}/{PREFIX}/{bundle.version}"):
        other.load(bundle.version)
    other.seal(bundle.path, origin_of(bundle))  # who was killed at it can do it again
    assert store_of(tmp_path / "third").versions() == (bundle.version,)


def test_of_two_that_seal_the_same_at_once_both_have_what_is_in_the_store(
    s3: object, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = store_of(tmp_path / "one"), store_of(tmp_path / "other")
    upload = BundleStore._upload

    def late(store: BundleStore, *what: object) -> None:
        upload(store, *what)  # type: ignore[arg-type]
        monkeypatch.setattr(BundleStore, "_upload", upload)
        other._upload(tmp_path / "theirs" / bundle.version, bundle.version, MANIFEST)

    theirs = BundleStore(tmp_path / "theirs").seal(
        bundle.path, origin_of(bundle).model_copy(update={"run": "theirs"})
    )
    monkeypatch.setattr(BundleStore, "_upload", late)
    assert one.seal(bundle.path, origin_of(bundle)).manifest == theirs.manifest


def test_a_file_that_was_changed_in_the_store_is_refused(s3: object, bundle: Bundle, tmp_path: Path) -> None:
    store_of(tmp_path / "one").seal(bundle.path, origin_of(bundle))
    s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}/{bundle.version}/card.md", Body=b"changed")  # type: ignore[attr-defined]
    with pytest.raises(BundleError, match=r"card\.md is not what the manifest says"):
        store_of(tmp_path / "other").load(bundle.version)


def test_children_are_sealed_there_too_and_all_versions_are_listed(
    s3: object, bundle: Bundle, tmp_path: Path
) -> None:
    store = store_of(tmp_path / "one")
    parent = store.seal(bundle.path, origin_of(bundle))
    scorer = replace(parent.scorer, thresholds=Thresholds(0.1, 0.7))
    with child_of(parent) as draft:
        (draft / SCORER).write_bytes(scorer.to_json())
        child = store.seal(draft, child_origin(draft, parent, what="thresholds.", by="a test", reason="to see"))
    other = store_of(tmp_path / "other")
    assert other.versions() == tuple(sorted([parent.version, child.version]))
    assert other.load(child.version).manifest.parent == parent.version


def test_a_store_that_is_away_is_temporary_and_nothing_is_left_half_made(
    s3: object, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
    nobody = f"s3://{BUCKET}/{PREFIX}?endpoint_override=127.0.0.1:{free_port()}&scheme=http&region=us-east-1"
    away = BundleStore(tmp_path / "copies", nobody)
    with pytest.raises(TemporaryError, match=r"the bundles at s3://.* cannot be reached: .*connect"):
        away.seal(bundle.path, origin_of(bundle))
    assert not (tmp_path / "copies" / bundle.version).exists()
    (tmp_path / "no bucket").mkdir()
    nowhere = BundleStore(tmp_path / "no bucket", "s3://nowhere/bundles")
    with pytest.raises(TemporaryError, match="cannot be reached"):
        nowhere.seal(bundle.path, origin_of(bundle))


def test_a_copy_serves_while_the_store_is_away(bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / bundle.version)
    nobody = f"s3://{BUCKET}/{PREFIX}?endpoint_override=127.0.0.1:{free_port()}&scheme=http&region=us-east-1"
    assert BundleStore(tmp_path, nobody).load(bundle.version).manifest == bundle.manifest


def test_two_runs_on_two_machines_have_one_holdout_and_one_champion(s3: object, tmp_path: Path) -> None:
    write(tmp_path / "base.parquet", synthesize(20_000, 1, fraud_rate=0.02))
    tracking = {"uri": f"sqlite:///{tmp_path / 'mlflow.db'}"}

    def train(machine: str) -> Finished:
        uri = f"s3://{BUCKET}/{PREFIX}"
        settings = load_settings(state=tmp_path / machine, bundles=uri, tracking=tracking)
        return run_pipeline(
            str(tmp_path / "base.parquet"), settings, Run(name=machine, trigger=f"manual-{machine}")
        )

    first, again = train("one"), train("other")
    assert first.evaluation.verdict.reason == "first_model"
    assert again.evaluation.verdict.reason == "no_gain"
    assert again.evaluation.verdict.facts.champion == first.conclusion.version
    (frozen,) = {key.split("/")[2] for key in keys(s3) if key.startswith(f"{PREFIX}/holdouts/")}
    copies = [tmp_path / machine / "bundles" / "holdouts" / frozen / "record.json" for machine in ("one", "other")]
    assert copies[0].read_bytes() == copies[1].read_bytes()


def test_a_folder_is_a_store_of_its_own(bundle: Bundle, tmp_path: Path) -> None:
    store = BundleStore(tmp_path / "bundles")
    with pytest.raises(TemporaryError, match=r"the folder of the bundles, .*, is not there"):
        store.reach()
    assert (store.has(bundle.version), store.versions()) == (False, ())
    sealed = store.seal(bundle.path, origin_of(bundle))
    store.reach()
    assert store.versions() == (bundle.version,)
    assert sealed.path == tmp_path / "bundles" / bundle.version
    assert load(sealed.path).manifest == store.load(bundle.version).manifest


def test_the_controller_scores_with_its_copies_while_the_store_is_away(bundle: Bundle, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    shutil.copytree(bundle.path, copies / bundle.version)
    nobody = f"s3://{BUCKET}/{PREFIX}?endpoint_override=127.0.0.1:{free_port()}&scheme=http&region=us-east-1"
    evidence = Evidence(BundleStore(copies, nobody), "http://127.0.0.1:9", 1e-6)
    assert evidence.scorer(bundle.version) == bundle.scorer
    with pytest.raises(TemporaryError, match="is not there"):
        Evidence(BundleStore(tmp_path / "gone"), "http://127.0.0.1:9", 1e-6).scorer(bundle.version)
    with pytest.raises(BundleError, match="there is no bundle"):
        Evidence(BundleStore(tmp_path), "http://127.0.0.1:9", 1e-6).scorer("0" * 12)


@pytest.mark.parametrize("text", ["", "..", "../bundles", "holdouts", "ABCDEF012345", "0123456789abc"])
def test_text_that_is_no_version_is_not_looked_for(text: str, tmp_path: Path) -> None:
    (tmp_path / "bundles" / "holdouts").mkdir(parents=True)
    store = BundleStore(tmp_path / "bundles")
    assert not store.has(text)
    with pytest.raises(BundleError, match="there is no bundle"):
        store.load(text)
