"""Which model version was current after which.

Of a database made before this, only the current version is known; it gets the time it was made.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "promotions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(length=200), nullable=False),
        sa.Column("promoted_at", TIME, nullable=False),
        sa.Column("undone_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["version"], ["models.version"], name=op.f("fk_promotions_version_models")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotions")),
    )
    op.execute(
        "INSERT INTO promotions (version, promoted_at) "
        "SELECT version, created_at FROM models WHERE state = 'current'"
    )


def downgrade() -> None:
    op.drop_table("promotions")
