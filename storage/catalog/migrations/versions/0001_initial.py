"""The first schema.

Written without the application's classes: this file must mean the same for ever.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


TABLES = (
    "datasets",
    "annotators",
    "models",
    "images",
    "image_aliases",
    "quarantine",
    "loops",
    "rounds",
    "round_images",
    "runs",
    "shards",
    "tasks",
    "verdicts",
    "releases",
)


def upgrade() -> None:
    _create_names()
    _create_images()
    _create_rounds()
    _create_runs()
    _create_tasks()
    _create_results()


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)


def _create_names() -> None:
    op.create_table(
        "datasets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        sa.UniqueConstraint("name", name=op.f("uq_datasets_name")),
    )
    op.create_table(
        "annotators",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("token_hash", sa.String(length=128), nullable=True),
        sa.Column("role", sa.String(length=32), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_annotators")),
        sa.UniqueConstraint("name", name=op.f("uq_annotators_name")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_annotators_token_hash")),
    )
    op.create_table(
        "models",
        sa.Column("version", sa.String(length=200), nullable=False),
        sa.Column("parent", sa.String(length=200), nullable=True),
        sa.Column("architecture", sa.String(length=64), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("table_version", sa.BigInteger(), nullable=True),
        sa.Column("card", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_models")),
    )
    op.create_index(
        "uq_models_one_current",
        "models",
        ["state"],
        unique=True,
        sqlite_where=sa.text("state = 'current'"),
        postgresql_where=sa.text("state = 'current'"),
    )


def _create_images() -> None:
    op.create_table(
        "images",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("file_name", sa.Text(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("split", sa.String(length=32), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_images_dataset_id_datasets")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_images")),
        sa.UniqueConstraint("dataset_id", "sha256", name=op.f("uq_images_dataset_id_sha256")),
    )
    op.create_index(op.f("ix_images_dataset_id_file_name"), "images", ["dataset_id", "file_name"])
    op.create_index(op.f("ix_images_dataset_id_id"), "images", ["dataset_id", "id"])
    op.create_index(op.f("ix_images_dataset_id_split_id"), "images", ["dataset_id", "split", "id"])
    op.create_table(
        "image_aliases",
        sa.Column("image_id", BIG_ID, nullable=False),
        sa.Column("file_name", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_image_aliases_image_id_images")
        ),
        sa.PrimaryKeyConstraint("image_id", "file_name", name=op.f("pk_image_aliases")),
    )
    op.create_index(op.f("ix_image_aliases_file_name"), "image_aliases", ["file_name"])
    op.create_table(
        "quarantine",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("image_id", BIG_ID, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_quarantine_dataset_id_datasets")
        ),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_quarantine_image_id_images")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantine")),
        sa.UniqueConstraint(
            "dataset_id", "path", "reason", name=op.f("uq_quarantine_dataset_id_path_reason")
        ),
    )


def _create_rounds() -> None:
    op.create_table(
        "loops",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_loops_dataset_id_datasets")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_loops")),
    )
    op.create_index(op.f("ix_loops_dataset_id_id"), "loops", ["dataset_id", "id"])
    op.create_index(
        "uq_loops_one_running",
        "loops",
        ["dataset_id"],
        unique=True,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_table(
        "rounds",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("loop_id", sa.Integer(), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("model_in", sa.String(length=200), nullable=True),
        sa.Column("model_out", sa.String(length=200), nullable=True),
        sa.Column("run_id", sa.String(length=32), nullable=True),
        sa.Column("train_run_id", sa.String(length=32), nullable=True),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_rounds_dataset_id_datasets")
        ),
        sa.ForeignKeyConstraint(["loop_id"], ["loops.id"], name=op.f("fk_rounds_loop_id_loops")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rounds")),
        sa.UniqueConstraint("loop_id", "position", name=op.f("uq_rounds_loop_id_position")),
    )
    op.create_table(
        "round_images",
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("image_id", BIG_ID, nullable=False),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_round_images_image_id_images")
        ),
        sa.ForeignKeyConstraint(
            ["round_id"], ["rounds.id"], name=op.f("fk_round_images_round_id_rounds")
        ),
        sa.PrimaryKeyConstraint("round_id", "image_id", name=op.f("pk_round_images")),
    )
    op.create_index(
        op.f("ix_round_images_image_id_round_id"), "round_images", ["image_id", "round_id"]
    )


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=True),
        sa.Column("model", sa.String(length=200), nullable=True),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("code_version", sa.String(length=200), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_runs_dataset_id_datasets")
        ),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name=op.f("fk_runs_round_id_rounds")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    op.create_index(
        op.f("ix_runs_dataset_id_kind_started_at"), "runs", ["dataset_id", "kind", "started_at"]
    )
    op.create_index(op.f("ix_runs_round_id"), "runs", ["round_id"])
    op.create_table(
        "shards",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("shard", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("image_ids", sa.JSON(), nullable=False),
        sa.Column("lease_id", sa.String(length=32), nullable=True),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_expires_at", TIME, nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("masks", sa.Integer(), nullable=True),
        sa.Column("table_version", sa.BigInteger(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_shards_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "shard", name=op.f("pk_shards")),
    )
    op.create_index(op.f("ix_shards_run_id_state_shard"), "shards", ["run_id", "state", "shard"])


def _create_tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("image_id", BIG_ID, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=True),
        sa.Column("run_id", sa.String(length=32), nullable=True),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("skips", sa.Integer(), nullable=False),
        sa.Column("lease_id", sa.String(length=32), nullable=True),
        sa.Column("annotator_id", sa.Integer(), nullable=True),
        sa.Column("lease_expires_at", TIME, nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("result_key", sa.Text(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("leased_at", TIME, nullable=True),
        sa.Column("submitted_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["annotator_id"], ["annotators.id"], name=op.f("fk_tasks_annotator_id_annotators")
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_tasks_dataset_id_datasets")
        ),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name=op.f("fk_tasks_image_id_images")),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name=op.f("fk_tasks_round_id_rounds")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_tasks_run_id_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
        sa.UniqueConstraint(
            "run_id", "image_id", "kind", name=op.f("uq_tasks_run_id_image_id_kind")
        ),
    )
    op.create_index(
        "ix_tasks_dataset_queue",
        "tasks",
        ["dataset_id", "state", "skips", sa.literal_column("priority DESC"), "id"],
    )
    op.create_index(op.f("ix_tasks_image_id"), "tasks", ["image_id"])
    op.create_index(
        "ix_tasks_queue", "tasks", ["state", "skips", sa.literal_column("priority DESC"), "id"]
    )
    op.create_index(op.f("ix_tasks_round_id_state"), "tasks", ["round_id", "state"])
    op.create_index(op.f("ix_tasks_run_id_state_id"), "tasks", ["run_id", "state", "id"])
    op.create_index(op.f("ix_tasks_state_lease_expires_at"), "tasks", ["state", "lease_expires_at"])


def _create_results() -> None:
    op.create_table(
        "verdicts",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("mask_id", sa.String(length=64), nullable=False),
        sa.Column("task_id", BIG_ID, nullable=False),
        sa.Column("verdict", sa.String(length=32), nullable=False),
        sa.Column("annotator_id", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("fixed_mask_id", sa.String(length=64), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["annotator_id"], ["annotators.id"], name=op.f("fk_verdicts_annotator_id_annotators")
        ),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_verdicts_task_id_tasks")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_verdicts")),
        sa.UniqueConstraint("task_id", "mask_id", name=op.f("uq_verdicts_task_id_mask_id")),
    )
    op.create_index(op.f("ix_verdicts_mask_id_id"), "verdicts", ["mask_id", "id"])
    op.create_table(
        "releases",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("table_version", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("card", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_releases_dataset_id_datasets")
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_releases")),
    )
    op.create_index(
        op.f("ix_releases_dataset_id_state_created_at"),
        "releases",
        ["dataset_id", "state", "created_at"],
    )
