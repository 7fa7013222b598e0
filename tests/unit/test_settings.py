"""Settings: what is said first counts, and what is not a setting is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fraudkit.errors import InvalidInput
from fraudkit.settings import AlertSettings, Settings, load_settings


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("FRAUD"):
            monkeypatch.delenv(name)


@pytest.fixture
def yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that `FRAUD_SETTINGS` names; it is not there yet."""
    path = tmp_path / "settings.yaml"
    monkeypatch.setenv("FRAUD_SETTINGS", str(path))
    return path


def test_without_any_word_the_defaults_hold() -> None:
    settings = load_settings()
    assert settings == Settings()
    assert settings.sampling.per_class == 10_000
    assert settings.state == Path(".fraud")
    assert settings.bundle_folder == Path.cwd() / ".fraud/bundles"
    assert settings.tracking_uri == f"sqlite:///{Path.cwd()}/.fraud/mlflow.db"


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("FRAUD__SAMPLING__PER_CLASS", "5000", lambda s: s.sampling.per_class == 5_000),
        ("fraud__sampling__per_class", "5000", lambda s: s.sampling.per_class == 5_000),
        ("FRAUD__SAMPLING", '{"per_class": 5000}', lambda s: s.sampling.per_class == 5_000),
        ("FRAUD__DATA__NATURAL_RATE", "0.002", lambda s: s.data.natural_rate == 0.002),
        ("FRAUD__TRAINING__TUNE", "true", lambda s: s.training.tune),
        ("FRAUD__GATE__HOLDOUT_FRAUDS", "20", lambda s: s.gate.holdout_frauds == 20),
        ("FRAUD__BUNDLES", "/models", lambda s: s.bundle_folder == Path("/models")),
        ("FRAUD__BUNDLES", "/models", lambda s: s.bundle_uri is None),
        ("FRAUD__BUNDLES", "s3://fraud/bundles/", lambda s: s.bundle_uri == "s3://fraud/bundles"),
        ("FRAUD__BUNDLES", "abfs://c@a.dfs.core.windows.net/b", lambda s: s.bundle_folder.name == "bundles"),
        ("FRAUD__TRACKING__URI", "http://mlflow", lambda s: s.tracking_uri == "http://mlflow"),
        ("FRAUD_STATE", "/state", lambda s: s.bundle_folder == Path("/state/bundles")),
        ("FRAUD__STATE", "/state", lambda s: s.state == Path("/state")),
        ("FRAUD__SAMPLING__PER_CLASS", "", lambda s: s.sampling.per_class == 10_000),
        ("FRAUD_STATE", "", lambda s: s.state == Path(".fraud")),
    ],
)
def test_a_variable_sets_its_setting_and_an_empty_one_none(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, found: object
) -> None:
    monkeypatch.setenv(name, value)
    assert callable(found)
    assert found(load_settings())


def test_the_yaml_file_sets_what_it_names_and_nothing_else(yaml: Path) -> None:
    yaml.write_text("sampling: {per_class: 700}\nstate: /state\n")
    settings = load_settings()
    assert settings.sampling.per_class == 700
    assert settings.sampling.seed == 0
    assert settings.state == Path("/state")


@pytest.mark.parametrize("content", ["", "# nothing\n", "{}\n"])
def test_an_empty_yaml_file_sets_nothing(yaml: Path, content: str) -> None:
    yaml.write_text(content)
    assert load_settings() == Settings()


def test_arguments_go_before_variables_and_these_before_the_file(
    yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml.write_text("sampling: {per_class: 700, seed: 7, ratio: 7}\nstate: /file\n")
    monkeypatch.setenv("FRAUD__SAMPLING__PER_CLASS", "800")
    monkeypatch.setenv("FRAUD__SAMPLING__SEED", "8")
    monkeypatch.setenv("FRAUD_STATE", "/variable")
    settings = load_settings(sampling={"per_class": 900})
    assert (settings.sampling.per_class, settings.sampling.seed, settings.sampling.ratio) == (900, 8, 7)
    assert settings.state == Path("/variable")
    assert load_settings(state="/argument").state == Path("/argument")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("FRAUD__SAMPLING__PERCLASS", "5000", "sampling.perclass is not a setting"),
        ("FRAUD__SAMPLNG__PER_CLASS", "5000", "FRAUD__SAMPLNG__PER_CLASS is not a setting"),
        ("FRAUD__PER_CLASS", "5000", "FRAUD__PER_CLASS is not a setting"),
        ("FRAUD__BUNDLES", "ftp://x/y", "bundles: ftp:// is no store of bundles; a folder, s3:// or abfs:// or"),
        ("FRAUD__BUNDLES", "s3://key:secret@x/y", "bundles: keys do not belong in a URI; AWS_ACCESS_KEY_ID"),
        ("FRAUD__SAMPLING__PER_CLASS", "many", "sampling.per_class: Input should be a valid integer"),
        ("FRAUD__SAMPLING__PER_CLASS", "99", "sampling.per_class: Input should be greater than or equal to 100"),
        ("FRAUD__SAMPLING__SEED", "-1", "sampling.seed"),
        ("FRAUD__SAMPLING", "{", 'error parsing value for field "sampling"'),
        ("FRAUD__SAMPLING", "3", "sampling: Input should be a valid dictionary"),
        ("FRAUD__DATA__NATURAL_RATE", "1", "data.natural_rate: Input should be less than 1 (got '1')"),
        ("FRAUD__DATA__NATURAL_RATE", "nan", "data.natural_rate: Input should be a finite number"),
        ("FRAUD__DATA__HOLDOUT", "0.9", "data.holdout"),
        ("FRAUD__TRAINING__C", "inf", "training.c: Input should be a finite number"),
        ("FRAUD__ALERTS__POLICY", "luck", "alerts.policy: Input should be 'costs' or 'budget' (got 'luck')"),
        ("FRAUD__SERVING__PORT", "70000", "serving.port"),
    ],
)
def test_a_variable_that_is_wrong_is_refused_by_its_name_and_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput) as caught:
        load_settings()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"samplin: {seed: 1}\n", "samplin is not a setting"),
        (b"sampling: {sed: 1}\n", "sampling.sed is not a setting"),
        (b"sampling:\n", "sampling: Input should be a valid dictionary"),
        (b"- sampling\n", "does not hold settings by their names"),
        (b"sampling\n", "does not hold settings by their names"),
        (b"1: 2\n", "does not hold settings by their names"),
        (b"sampling: [1\n", "is not YAML: while parsing a flow sequence"),
        (b"sampling:\n\tseed: 1\n", "is not YAML: while scanning"),
        (b"state: \xe9\n", "is not YAML: 'utf-8' codec"),
        (b"state: !!python/object/apply:os.getcwd []\n", "is not YAML: could not determine a constructor"),
    ],
    ids=["section", "key", "null", "list", "text", "number", "open", "tab", "encoding", "code"],
)
def test_a_yaml_file_that_is_wrong_is_refused_with_the_reason(yaml: Path, content: bytes, said: str) -> None:
    yaml.write_bytes(content)
    with pytest.raises(InvalidInput) as caught:
        load_settings()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_settings_file_that_is_not_there_is_refused_by_its_name(yaml: Path) -> None:
    with pytest.raises(InvalidInput, match=r"settings\.yaml, which is not a file"):
        load_settings()


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(InvalidInput, match="smapling is not a setting"):
        load_settings(smapling={})


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidInput, match=r"per_class.*; sampling\.seed"):
        load_settings(sampling={"per_class": 1, "seed": -1})


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        ({"cost_review": 200.0, "cost_block": 300.0}, "must cost less than a missed fraud"),
        ({"cost_review": 20.0}, "and less than a wrong block"),
        ({"cost_review": 15.0, "cost_missed": 20.0}, "no transaction is worth a review"),
    ],
)
def test_costs_under_which_no_review_pays_are_refused(costs: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AlertSettings(**costs)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().state = Path("/other")  # type: ignore[misc]
