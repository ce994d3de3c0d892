"""Trained CLIPs, beside the suggesters of categories."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    kind = sa.Column("kind", sa.String(length=32), nullable=False, server_default="suggester")
    op.add_column("suggesters", kind)


def downgrade() -> None:
    op.execute("DELETE FROM suggesters WHERE kind <> 'suggester'")
    op.drop_column("suggesters", "kind")
