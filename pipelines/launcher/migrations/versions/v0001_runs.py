"""Runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this version."""
    op.create_table(
        "runs",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column(
            "slot",
            sa.SmallInteger(),
            nullable=True,
            comment="1 while the run goes on: the database itself admits only one",
        ),
        sa.Column("trigger", sa.Text(), nullable=False, comment="drift, schedule, manual or bootstrap"),
        sa.Column("state", sa.Text(), nullable=False, comment="run or coalesced"),
        sa.Column(
            "into", sa.Text(), nullable=True, comment="key of the run that went on when this one was asked for"
        ),
        sa.Column("status", sa.Text(), nullable=False, comment="waiting, running or ended"),
        sa.Column("asked", sa.Double(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False, comment="JSON: the event that asked, with its verdict"),
        sa.Column("data_uri", sa.Text(), nullable=False),
        sa.Column(
            "since", sa.Double(), nullable=True, comment="from when on logged transactions are learned from"
        ),
        sa.Column("as_of", sa.Double(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=False, comment="of the next attempt"),
        sa.Column("handle", sa.Text(), nullable=True, comment="what the backend finds the run by"),
        sa.Column("started", sa.Double(), nullable=True),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("outcome_reason", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("version", sa.Text(), nullable=True, comment="of the model that was trained"),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("slot"),
    )
    op.create_table(
        "schedule",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column(
            "month", sa.Text(), nullable=False, comment="the last one whose run was asked for, or was not to be"
        ),
        sa.PrimaryKeyConstraint("id"),
    )
