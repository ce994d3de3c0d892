"""The run in which a model said that an image is complete; NULL: none did."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("images", sa.Column("complete_run", sa.String(length=32), nullable=True))


def downgrade() -> None:
    op.drop_column("images", "complete_run")
