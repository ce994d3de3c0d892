"""Models of several kinds, each with a current one; copies of a task; tasks for one annotator."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ONE_CURRENT = "uq_models_one_current"
CURRENT = sa.text("state = 'current'")


def upgrade() -> None:
    kind = sa.Column("kind", sa.String(length=32), nullable=False, server_default="segmenter")
    op.add_column("models", kind)
    _one_current("kind", "state")
    op.add_column("tasks", sa.Column("copy_of", BIG_ID, nullable=True))
    op.add_column("tasks", sa.Column("reserved_for", sa.Integer(), nullable=True))
    op.create_index("ix_tasks_copy_of", "tasks", ["copy_of"])
    op.create_index("ix_tasks_reserved_for_state", "tasks", ["reserved_for", "state"])


def downgrade() -> None:
    op.drop_index("ix_tasks_reserved_for_state", "tasks")
    op.drop_index("ix_tasks_copy_of", "tasks")
    op.drop_column("tasks", "reserved_for")
    op.drop_column("tasks", "copy_of")
    op.execute(
        "DELETE FROM promotions WHERE version IN "
        "(SELECT version FROM models WHERE kind <> 'segmenter')"
    )
    op.execute("DELETE FROM models WHERE kind <> 'segmenter'")
    _one_current("state")
    op.drop_column("models", "kind")


def _one_current(*columns: str) -> None:
    op.drop_index(ONE_CURRENT, "models")
    op.create_index(
        ONE_CURRENT,
        "models",
        list(columns),
        unique=True,
        sqlite_where=CURRENT,
        postgresql_where=CURRENT,
    )
