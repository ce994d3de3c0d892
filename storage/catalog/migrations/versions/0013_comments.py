"""Comments on places of images, and agreement of several people on an image."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "comments",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("image_id", BIG_ID, nullable=False),
        sa.Column("task_id", BIG_ID, nullable=False),
        sa.Column("mask_id", sa.String(length=200), nullable=True),
        sa.Column("x", sa.Double(), nullable=True),
        sa.Column("y", sa.Double(), nullable=True),
        sa.Column("author", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("resolved_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_comments")),
        *(
            sa.ForeignKeyConstraint(
                [column], [f"{table}.id"], name=op.f(f"fk_comments_{column}_{table}")
            )
            for column, table in (
                ("dataset_id", "datasets"),
                ("image_id", "images"),
                ("task_id", "tasks"),
                ("author", "annotators"),
            )
        ),
    )
    op.create_index("ix_comments_image_id_id", "comments", ["image_id", "id"])
    op.create_index("ix_comments_task_id", "comments", ["task_id"])

    op.create_table(
        "consensus",
        sa.Column("task_id", BIG_ID, nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=True),
        sa.Column("people", sa.JSON(), nullable=False),
        sa.Column("f1", sa.Double(), nullable=False),
        sa.Column("iou", sa.Double(), nullable=False),
        sa.Column("review_run", sa.String(length=32), nullable=True),
        sa.Column("merged", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_consensus")),
        *(
            sa.ForeignKeyConstraint(
                [column], [f"{table}.id"], name=op.f(f"fk_consensus_{column}_{table}")
            )
            for column, table in (
                ("task_id", "tasks"),
                ("dataset_id", "datasets"),
                ("round_id", "rounds"),
            )
        ),
    )
    op.create_index("ix_consensus_dataset_id_round_id", "consensus", ["dataset_id", "round_id"])


def downgrade() -> None:
    op.drop_table("consensus")
    op.drop_table("comments")
