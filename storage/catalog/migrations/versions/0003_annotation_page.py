"""What the annotation page needs: sign-ins, drafts, an audit log, reasons of verdicts."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("verdicts", sa.Column("reason", sa.Text(), nullable=True))
    op.add_column("annotators", sa.Column("token_expires_at", TIME, nullable=True))
    op.create_table(
        "sign_ins",
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("annotator_id", sa.Integer(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["annotator_id"], ["annotators.id"], name=op.f("fk_sign_ins_annotator_id_annotators")
        ),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_sign_ins")),
    )
    op.create_index(op.f("ix_sign_ins_annotator_id"), "sign_ins", ["annotator_id"])
    op.create_table(
        "drafts",
        sa.Column("task_id", BIG_ID, nullable=False),
        sa.Column("annotator_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_drafts_task_id_tasks")),
        sa.ForeignKeyConstraint(
            ["annotator_id"], ["annotators.id"], name=op.f("fk_drafts_annotator_id_annotators")
        ),
        sa.PrimaryKeyConstraint("task_id", "annotator_id", name=op.f("pk_drafts")),
    )
    op.create_table(
        "audit_log",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("annotator_id", sa.Integer(), nullable=True),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["annotator_id"], ["annotators.id"], name=op.f("fk_audit_log_annotator_id_annotators")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_index(op.f("ix_audit_log_at"), "audit_log", ["at"])
    op.create_index(
        op.f("ix_tasks_annotator_id_state_submitted_at"),
        "tasks",
        ["annotator_id", "state", "submitted_at"],
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_tasks_annotator_id_state_submitted_at"), "tasks")
    op.drop_table("audit_log")
    op.drop_table("drafts")
    op.drop_table("sign_ins")
    op.drop_column("annotators", "token_expires_at")
    op.drop_column("verdicts", "reason")
