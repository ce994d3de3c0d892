"""What images look like, and which are near-duplicates; NULL: unknown, as for all until now."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("images", sa.Column("perceptual_hash", sa.String(length=16), nullable=True))
    op.add_column("images", sa.Column("colours", sa.String(length=96), nullable=True))
    op.add_column("images", sa.Column("near_image_id", BIG_ID, nullable=True))


def downgrade() -> None:
    for name in ("near_image_id", "colours", "perceptual_hash"):
        op.drop_column("images", name)
