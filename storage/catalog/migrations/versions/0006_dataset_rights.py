"""Which datasets an annotator sees; NULL, as for all until now: every one."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("annotators", sa.Column("datasets", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("annotators", "datasets")
