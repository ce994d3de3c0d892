"""Category lists, labels of masks, and what a release pins of them."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "category_lists",
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("author", sa.String(length=200), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("dataset_id", "version", name=op.f("pk_category_lists")),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_category_lists_dataset_id_datasets")
        ),
    )
    op.create_table(
        "labels",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("mask_id", sa.String(length=200), nullable=False),
        sa.Column("image_id", BIG_ID, nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("category_id", sa.Integer(), nullable=True),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=True),
        sa.Column("annotator_id", sa.Integer(), nullable=True),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("task_id", BIG_ID, nullable=True),
        sa.Column("superseded_by", BIG_ID, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_labels")),
        *(
            sa.ForeignKeyConstraint(
                [column], [f"{table}.id"], name=op.f(f"fk_labels_{column}_{table}")
            )
            for column, table in (
                ("image_id", "images"),
                ("dataset_id", "datasets"),
                ("annotator_id", "annotators"),
            )
        ),
    )
    for name, columns, condition, unique in (
        ("uq_labels_one_current", ["mask_id"], "superseded_by IS NULL", True),
        ("ix_labels_current", ["dataset_id", "category_id", "id"], "superseded_by IS NULL", False),
        ("ix_labels_task_id", ["task_id"], "task_id IS NOT NULL", False),
    ):
        where = sa.text(condition)
        op.create_index(
            name, "labels", columns, unique=unique, sqlite_where=where, postgresql_where=where
        )
    op.create_index("ix_labels_image_id", "labels", ["image_id"])
    op.add_column("releases", sa.Column("label_id", sa.BigInteger(), nullable=True))
    op.add_column("releases", sa.Column("categories_version", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("releases", "categories_version")
    op.drop_column("releases", "label_id")
    op.drop_table("labels")
    op.drop_table("category_lists")
