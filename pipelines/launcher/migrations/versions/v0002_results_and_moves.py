"""What runs tell of their end, and moves of models that MLflow is to show."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this version."""
    reported = sa.Column(
        "reported", sa.Text(), nullable=True, comment="JSON: how the attempt ended, as its last task told"
    )
    op.add_column("runs", reported)
    op.create_table(
        "moves",
        sa.Column("id", sa.Text(), nullable=False, comment="of the event"),
        sa.Column(
            "move",
            sa.Text(),
            nullable=False,
            comment="JSON: a promotion or a rollback that MLflow does not show yet",
        ),
        sa.PrimaryKeyConstraint("id"),
    )
