"""Which ingest an image came in by."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("images", sa.Column("run_id", sa.String(length=32), nullable=True))


def downgrade() -> None:
    op.drop_column("images", "run_id")
