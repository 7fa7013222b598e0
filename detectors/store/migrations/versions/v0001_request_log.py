"""Request log labels windows verdicts and outbox."""

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
        "answers",
        sa.Column("id", sa.Text(), nullable=False, comment="of the request"),
        sa.Column("version", sa.Text(), nullable=False, comment="of the model that answered"),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("alert", sa.SmallInteger(), nullable=False, comment="the highest of its rows"),
        sa.Column("probabilities", sa.LargeBinary(), nullable=False, comment="[rows] float64"),
        sa.Column("alerts", sa.LargeBinary(), nullable=False, comment="[rows] int8"),
        sa.Column(
            "row_ids",
            sa.Text(),
            nullable=True,
            comment="JSON: a list, or what all begin with; null for <id>-<row>",
        ),
        sa.PrimaryKeyConstraint("id", "version"),
    )
    op.create_index("answers_time", "answers", ["time"], unique=False)
    op.create_table(
        "arrivals",
        sa.Column("replica", sa.Text(), nullable=False),
        sa.Column("high", sa.Double(), nullable=False, comment="latest time of an event"),
        sa.Column("received", sa.Double(), nullable=False, comment="when the last one was stored"),
        sa.PrimaryKeyConstraint("replica"),
    )
    op.create_table(
        "bindings",
        sa.Column("id", sa.Text(), nullable=False, comment="of the event"),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False, comment="of the promotion"),
        sa.Column("received", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    clock = op.create_table(
        "clock",
        sa.Column("one", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("closed", sa.BigInteger(), nullable=False, comment="buckets below this one are closed"),
        sa.PrimaryKeyConstraint("one"),
    )
    op.bulk_insert(clock, [{"one": 1, "closed": 0}])
    op.create_table(
        "decisions",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("decision", sa.Text(), nullable=False, comment="JSON"),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Text(), nullable=False, comment="of the event"),
        sa.Column("sink", sa.Text(), nullable=False),
        sa.Column("next_try", sa.Double(), nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("delivered", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", "sink"),
    )
    op.create_index(
        "deliveries_due",
        "deliveries",
        ["next_try"],
        unique=False,
        sqlite_where=sa.text("delivered IS NULL"),
        postgresql_where=sa.text("delivered IS NULL"),
    )
    evaluator = op.create_table(
        "evaluator",
        sa.Column("one", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column(
            "step",
            sa.BigInteger(),
            nullable=False,
            comment="rises by one with each change: two evaluators would notice",
        ),
        sa.Column("state", sa.Text(), nullable=False, comment="JSON"),
        sa.PrimaryKeyConstraint("one"),
    )
    op.bulk_insert(evaluator, [{"one": 1, "step": 0, "state": ""}])
    op.create_table(
        "events",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False, comment="the CloudEvent in structured mode"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("events_created", "events", ["created"], unique=False)
    op.create_table(
        "labels",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("row_id", sa.Text(), nullable=False),
        sa.Column(
            "id",
            sa.Text(),
            nullable=False,
            comment="of the request, as `row_id` says unless `row_ids` knows better",
        ),
        sa.Column("row", sa.BigInteger(), nullable=False, comment="likewise; -1 where it says none"),
        sa.Column("label", sa.SmallInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False, comment="when it was found out"),
        sa.Column("received", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("row_id", "at", "label", "source", "by", name="labels_once"),
    )
    op.create_index("labels_at", "labels", ["at"], unique=False)
    op.create_index("labels_id", "labels", ["id"], unique=False)
    op.create_table(
        "rejected",
        sa.Column("id", sa.Text(), nullable=False, comment="of the event"),
        sa.Column("digest", sa.LargeBinary(), nullable=False, comment="of its body"),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("bucket", sa.BigInteger(), nullable=False),
        sa.Column("late", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", "digest"),
    )
    op.create_index("rejected_bucket", "rejected", ["bucket"], unique=False)
    op.create_table(
        "requests",
        sa.Column("id", sa.Text(), nullable=False, comment="of the event"),
        sa.Column(
            "digest",
            sa.LargeBinary(),
            nullable=False,
            comment="of what was asked: an id may come again with other rows",
        ),
        sa.Column("time", sa.Double(), nullable=False, comment="when the logger saw it"),
        sa.Column("bucket", sa.BigInteger(), nullable=False),
        sa.Column(
            "late", sa.Boolean(), nullable=False, comment="its bucket was closed when it came: it is in no window"
        ),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("inputs", sa.LargeBinary(), nullable=False, comment="[rows, 30] float64"),
        sa.PrimaryKeyConstraint("id", "digest"),
    )
    op.create_index("requests_bucket", "requests", ["bucket"], unique=False)
    op.create_index("requests_time", "requests", ["time", "id"], unique=False)
    op.create_table(
        "row_ids",
        sa.Column("row_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False, comment="of the request"),
        sa.Column(
            "row", sa.Integer(), nullable=False, comment="-1: `row_id` is what all ids of the request begin with"
        ),
        sa.Column("time", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("row_id", "id", "row"),
    )
    op.create_index("row_ids_time", "row_ids", ["time"], unique=False)
    op.create_table(
        "windows",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False, comment="first bucket"),
        sa.Column("end", sa.BigInteger(), nullable=False, comment="bucket after the last"),
        sa.Column("begins", sa.Double(), nullable=False),
        sa.Column("ends", sa.Double(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False, comment="JSON: reason, message, readings, influence"),
        sa.Column("hours", sa.Text(), nullable=False, comment="JSON: rows by hour of day"),
        sa.Column("histogram", sa.LargeBinary(), nullable=False, comment="[30, 50] uint32"),
        sa.Column(
            "traces",
            sa.LargeBinary(),
            nullable=False,
            comment="sums of the alert rate, up and down: [2, points] float64",
        ),
        sa.Column("evaluated", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("windows_version_start", "windows", ["version", "start"], unique=False)
