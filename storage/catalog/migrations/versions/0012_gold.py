"""Gold images, whose true masks are known, and the scores of answers to gold tasks."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "gold_images",
        sa.Column("image_id", BIG_ID, sa.ForeignKey("images.id"), nullable=False),
        sa.Column("dataset_id", sa.Integer(), sa.ForeignKey("datasets.id"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("image_id"),
    )
    op.create_index("ix_gold_images_dataset_id", "gold_images", ["dataset_id"])
    op.create_table(
        "gold_scores",
        sa.Column("task_id", BIG_ID, sa.ForeignKey("tasks.id"), nullable=False),
        sa.Column("annotator_id", sa.Integer(), sa.ForeignKey("annotators.id"), nullable=False),
        sa.Column("dataset_id", sa.Integer(), sa.ForeignKey("datasets.id"), nullable=False),
        sa.Column("image_id", BIG_ID, nullable=False),
        *(
            sa.Column(name, sa.Integer(), nullable=False)
            for name in ("truths", "found_50", "found_75", "extra")
        ),
        sa.Column("iou", sa.Double(), nullable=True),
        sa.Column("boundary_f", sa.Double(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("task_id"),
    )
    op.create_index(
        "ix_gold_scores_annotator_id_created_at", "gold_scores", ["annotator_id", "created_at"]
    )


def downgrade() -> None:
    op.drop_table("gold_scores")
    op.drop_table("gold_images")
    gold = "(SELECT id FROM runs WHERE kind = 'gold')"
    op.execute(f"DELETE FROM drafts WHERE task_id IN (SELECT id FROM tasks WHERE run_id IN {gold})")  # noqa: S608
    op.execute(f"DELETE FROM tasks WHERE run_id IN {gold}")  # noqa: S608
    op.execute("DELETE FROM runs WHERE kind = 'gold'")
