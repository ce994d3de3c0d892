"""Who skipped a task, the shard its answer is committed in, and ids of masks at full length."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

MASK_IDS = {"mask_id": False, "fixed_mask_id": True}
"""Columns of `verdicts`, and whether they may be empty."""


def upgrade() -> None:
    op.add_column("tasks", sa.Column("skipped_by", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("tasks", sa.Column("shard", sa.Integer(), nullable=True))
    _lengths(64, 200)


def downgrade() -> None:
    _lengths(200, 64)
    op.drop_column("tasks", "shard")
    op.drop_column("tasks", "skipped_by")


def _lengths(before: int, after: int) -> None:
    with op.batch_alter_table("verdicts") as table:
        for name, nullable in MASK_IDS.items():
            table.alter_column(
                name,
                existing_type=sa.String(length=before),
                type_=sa.String(length=after),
                existing_nullable=nullable,
            )
