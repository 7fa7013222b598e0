"""`--migrate`, for an init container: the schema of this version, and no waiting for ever."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy
from ports import free_port

from detectors.__main__ import main as detector
from pipelines.launcher.__main__ import main as launcher

PARTS = [("DETECTOR", detector, "requests"), ("LAUNCHER", launcher, "runs")]


@pytest.mark.parametrize(("part", "main", "table"), PARTS)
def test_it_makes_the_tables_and_ends_however_often(
    part: str, main: Callable[[list[str]], int], table: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"FRAUD__{part}__DATABASE", database_url)
    assert main(["--migrate", "10"]) == 0
    assert main(["--migrate", "10"]) == 0
    engine = sqlalchemy.create_engine(database_url.replace("postgresql:", "postgresql+psycopg:"))
    assert table in sqlalchemy.inspect(engine).get_table_names()
    engine.dispose()


@pytest.mark.parametrize(("part", "main", "table"), PARTS)
def test_a_database_that_is_away_is_left_to_the_part_itself(
    part: str,
    main: Callable[[list[str]], int],
    table: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(f"FRAUD__{part}__DATABASE", f"postgresql://a:b@127.0.0.1:{free_port()}/fraud")
    assert main(["--migrate", "0"]) == 0
    assert "not migrated: the database is away" in capsys.readouterr().err


@pytest.mark.parametrize(("part", "main", "table"), PARTS)
def test_a_url_that_is_none_is_wrong_use(
    part: str, main: Callable[[list[str]], int], table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"FRAUD__{part}__DATABASE", "mysql://a/b")
    assert main(["--migrate", "0"]) == 2
