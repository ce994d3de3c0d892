"""What operations ask for: how often leases expired, and what runs spent."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

NEW: tuple[tuple[str, str, sa.types.TypeEngine[int] | sa.types.TypeEngine[float]], ...] = (
    ("tasks", "expiries", sa.Integer()),
    ("shards", "expiries", sa.Integer()),
    ("runs", "cpu_seconds", sa.Double()),
    ("runs", "gpu_seconds", sa.Double()),
)


def upgrade() -> None:
    for table, name, kind in NEW:
        op.add_column(table, sa.Column(name, kind, nullable=False, server_default="0"))


def downgrade() -> None:
    for table, name, _ in reversed(NEW):
        op.drop_column(table, name)
