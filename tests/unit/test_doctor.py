from __future__ import annotations

import socket
from pathlib import Path

import pytest

from fraudctl.doctor import LICENCE, Finding, State, examine


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUD_STATE", str(tmp_path / "state"))


def found(what: str) -> Finding:
    return next(finding for finding in examine() if finding.what == what)


def test_this_environment_lacks_nothing() -> None:
    assert [finding for finding in examine() if finding.state is State.MISSING] == []


def test_the_licence_of_alibi_detect_is_said_where_it_is_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("drift engine") == Finding("drift engine", State.NOTE, LICENCE)
    monkeypatch.setenv("FRAUD__DETECTOR__ENGINE", "scipy")
    assert found("drift engine").state is State.OK


def test_a_package_that_is_missing_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fraudctl.doctor.PACKAGES", {"serving": ("kserve", "no-such-package")})
    assert found("packages: serving").said == "no-such-package: make env, or pip install 'fraud-platform[serving]'"


def test_settings_that_are_wrong_are_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUD__DETECTOR__ENGINE", "other")
    assert found("settings").state is State.MISSING
    assert "detector.engine" in found("settings").said


def test_a_port_in_use_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("FRAUD__DETECTOR__PORT", str(port))
        assert "FRAUD__DETECTOR__PORT" in found(f"port {port}").said


def test_a_state_folder_that_is_a_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FRAUD_STATE", str(tmp_path / "file"))
    assert found("state folder").state is State.MISSING
