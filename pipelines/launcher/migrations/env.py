"""Run by Alembic, on the connection that `Database.migrate` brings."""

from __future__ import annotations

from alembic import context

from pipelines.launcher.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table="launcher_version",  # it may share a database with the detector
)
with context.begin_transaction():
    context.run_migrations()
