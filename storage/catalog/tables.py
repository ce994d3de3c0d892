"""The catalog's tables. Rows are small: ids, states, and who did what when.

Only repositories and the annotation queue use these classes; all other code gets the frozen
records that the repositories return. A round's runs and model versions, and a run's model, are
plain text, not foreign keys: a run is written after its round, and a model may be a public
checkpoint outside the registry.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, ForeignKey, Index, MetaData, String, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from engine.core.records import Stage
from storage.catalog.columns import BIG_ID, MASK_ID, RUN_ID, TYPES
from storage.catalog.states import (
    AnnotatorKind,
    ErasureKind,
    LoopState,
    ModelKind,
    ModelState,
    ReleaseState,
    RoundState,
    RunKind,
    RunState,
    ShardState,
    Split,
    TaskKind,
    TaskState,
    VerdictKind,
)


class Base(DeclarativeBase):
    """Base of the catalog's tables; constraints have names so that migrations can change them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = TYPES


class DatasetRow(Base):
    __tablename__ = "datasets"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    created_at: Mapped[datetime]


class ImageRow(Base):
    __tablename__ = "images"
    __table_args__ = (
        UniqueConstraint("dataset_id", "sha256"),
        Index(None, "dataset_id", "file_name"),
        Index(None, "dataset_id", "id"),
        Index(None, "dataset_id", "split", "id"),
    )

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    sha256: Mapped[str] = mapped_column(String(64))
    key: Mapped[str]
    file_name: Mapped[str]
    height: Mapped[int]
    width: Mapped[int]
    split: Mapped[Split]
    created_at: Mapped[datetime]
    run_id: Mapped[str | None] = mapped_column(RUN_ID)
    perceptual_hash: Mapped[str | None] = mapped_column(String(16))
    colours: Mapped[str | None] = mapped_column(String(96))
    near_image_id: Mapped[int | None] = mapped_column(BIG_ID)
    complete_run: Mapped[str | None] = mapped_column(RUN_ID)


class ImageAliasRow(Base):
    """Another file name under which the same bytes were ingested."""

    __tablename__ = "image_aliases"
    __table_args__ = (Index(None, "file_name"),)

    image_id: Mapped[int] = mapped_column(BIG_ID, ForeignKey("images.id"), primary_key=True)
    file_name: Mapped[str] = mapped_column(primary_key=True)


class QuarantineRow(Base):
    __tablename__ = "quarantine"
    __table_args__ = (UniqueConstraint("dataset_id", "path", "reason"),)

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    path: Mapped[str]
    reason: Mapped[str]
    stage: Mapped[str] = mapped_column(String(32))
    image_id: Mapped[int | None] = mapped_column(BIG_ID, ForeignKey("images.id"))
    created_at: Mapped[datetime]


class ModelRow(Base):
    __tablename__ = "models"
    __table_args__ = (
        Index(
            "uq_models_one_current",
            "kind",
            "state",
            unique=True,
            sqlite_where=text("state = 'current'"),
            postgresql_where=text("state = 'current'"),
        ),
    )

    version: Mapped[str] = mapped_column(String(200), primary_key=True)
    parent: Mapped[str | None] = mapped_column(String(200))
    architecture: Mapped[str] = mapped_column(String(64))
    key: Mapped[str]
    kind: Mapped[ModelKind] = mapped_column(server_default=ModelKind.SEGMENTER.value)
    state: Mapped[ModelState]
    table_version: Mapped[int | None] = mapped_column(BigInteger)
    card: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class PromotionRow(Base):
    """A promotion of a model version. Those not undone are the history of current models, by id."""

    __tablename__ = "promotions"

    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(String(200), ForeignKey("models.version"))
    promoted_at: Mapped[datetime]
    undone_at: Mapped[datetime | None]


class LoopRow(Base):
    __tablename__ = "loops"
    __table_args__ = (
        Index(None, "dataset_id", "id"),
        Index(
            "uq_loops_one_running",
            "dataset_id",
            unique=True,
            sqlite_where=text("state = 'running'"),
            postgresql_where=text("state = 'running'"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    plan: Mapped[list[dict[str, Any]]]
    state: Mapped[LoopState]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class RoundRow(Base):
    __tablename__ = "rounds"
    __table_args__ = (UniqueConstraint("loop_id", "position"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    loop_id: Mapped[int] = mapped_column(ForeignKey("loops.id"))
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    position: Mapped[int]
    stage: Mapped[Stage]
    number: Mapped[int]
    state: Mapped[RoundState]
    model_in: Mapped[str | None] = mapped_column(String(200))
    model_out: Mapped[str | None] = mapped_column(String(200))
    run_id: Mapped[str | None] = mapped_column(RUN_ID)
    train_run_id: Mapped[str | None] = mapped_column(RUN_ID)
    metrics: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class RoundImageRow(Base):
    """An image that a round works on."""

    __tablename__ = "round_images"
    __table_args__ = (Index(None, "image_id", "round_id"),)

    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id"), primary_key=True)
    image_id: Mapped[int] = mapped_column(BIG_ID, ForeignKey("images.id"), primary_key=True)


class RunRow(Base):
    __tablename__ = "runs"
    __table_args__ = (
        Index(None, "dataset_id", "kind", "started_at"),
        Index(None, "round_id"),
    )

    id: Mapped[str] = mapped_column(RUN_ID, primary_key=True)
    kind: Mapped[RunKind]
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    round_id: Mapped[int | None] = mapped_column(ForeignKey("rounds.id"))
    model: Mapped[str | None] = mapped_column(String(200))
    state: Mapped[RunState]
    config: Mapped[dict[str, Any]]
    code_version: Mapped[str] = mapped_column(String(200))
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    metrics: Mapped[dict[str, Any]]
    error: Mapped[str | None]
    cpu_seconds: Mapped[float] = mapped_column(server_default="0")
    gpu_seconds: Mapped[float] = mapped_column(server_default="0")
    alive_until: Mapped[datetime | None]


class LockRow(Base):
    """Work that only one process may do at a time, and which one does it."""

    __tablename__ = "locks"

    name: Mapped[str] = mapped_column(String(300), primary_key=True)
    lease_id: Mapped[str] = mapped_column(String(32))
    owner: Mapped[str]
    expires_at: Mapped[datetime]


class ShardRow(Base):
    __tablename__ = "shards"
    __table_args__ = (Index(None, "run_id", "state", "shard"),)

    run_id: Mapped[str] = mapped_column(RUN_ID, ForeignKey("runs.id"), primary_key=True)
    shard: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[ShardState]
    image_ids: Mapped[list[int]]
    lease_id: Mapped[str | None] = mapped_column(String(32))
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    attempts: Mapped[int]
    expiries: Mapped[int] = mapped_column(server_default="0")
    masks: Mapped[int | None]
    table_version: Mapped[int | None] = mapped_column(BigInteger)
    seconds: Mapped[float | None]


class AnnotatorRow(Base):
    __tablename__ = "annotators"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    kind: Mapped[AnnotatorKind]
    token_hash: Mapped[str | None] = mapped_column(String(128), unique=True)
    token_expires_at: Mapped[datetime | None]
    role: Mapped[str] = mapped_column(String(32))
    datasets: Mapped[list[int] | None]
    """Ids of the datasets they see; NULL: all."""
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]


class SignInRow(Base):
    __tablename__ = "sign_ins"
    __table_args__ = (Index(None, "annotator_id"),)

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotators.id"))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class AuditRow(Base):
    __tablename__ = "audit_log"
    __table_args__ = (Index(None, "at"),)

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    at: Mapped[datetime]
    annotator_id: Mapped[int | None] = mapped_column(ForeignKey("annotators.id"))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str]
    detail: Mapped[dict[str, Any]]


class TaskRow(Base):
    """`skips` comes first in the queue's order, so a skipped task waits behind all others."""

    __tablename__ = "tasks"
    __table_args__ = (
        UniqueConstraint("run_id", "image_id", "kind"),
        Index(None, "run_id", "state", "id"),
        Index(None, "round_id", "state"),
        Index(None, "state", "lease_expires_at"),
        Index(None, "annotator_id", "state", "submitted_at"),
        Index(None, "image_id"),
        Index(None, "copy_of"),
        Index(None, "reserved_for", "state"),
    )

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    image_id: Mapped[int] = mapped_column(BIG_ID, ForeignKey("images.id"))
    kind: Mapped[TaskKind]
    round_id: Mapped[int | None] = mapped_column(ForeignKey("rounds.id"))
    run_id: Mapped[str | None] = mapped_column(RUN_ID, ForeignKey("runs.id"))
    copy_of: Mapped[int | None] = mapped_column(BIG_ID)
    reserved_for: Mapped[int | None]
    state: Mapped[TaskState]
    priority: Mapped[int]
    skips: Mapped[int]
    skipped_by: Mapped[list[int] | None]
    lease_id: Mapped[str | None] = mapped_column(String(32))
    annotator_id: Mapped[int | None] = mapped_column(ForeignKey("annotators.id"))
    lease_expires_at: Mapped[datetime | None]
    attempts: Mapped[int]
    expiries: Mapped[int] = mapped_column(server_default="0")
    payload: Mapped[dict[str, Any]]
    result_key: Mapped[str | None]
    result: Mapped[dict[str, Any] | None]
    shard: Mapped[int | None]
    created_at: Mapped[datetime]
    leased_at: Mapped[datetime | None]
    submitted_at: Mapped[datetime | None]


_queue_order = (TaskRow.state, TaskRow.skips, TaskRow.priority.desc(), TaskRow.id)
Index("ix_tasks_queue", *_queue_order)
Index("ix_tasks_dataset_queue", TaskRow.dataset_id, *_queue_order)


class DraftRow(Base):
    """Unfinished work of an annotator on a task."""

    __tablename__ = "drafts"

    task_id: Mapped[int] = mapped_column(BIG_ID, ForeignKey("tasks.id"), primary_key=True)
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotators.id"), primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger)
    data: Mapped[dict[str, Any]]
    updated_at: Mapped[datetime]


class VerdictRow(Base):
    __tablename__ = "verdicts"
    __table_args__ = (
        UniqueConstraint("task_id", "mask_id"),
        Index(None, "mask_id", "id"),
    )

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    mask_id: Mapped[str] = mapped_column(MASK_ID)
    task_id: Mapped[int] = mapped_column(BIG_ID, ForeignKey("tasks.id"))
    verdict: Mapped[VerdictKind]
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotators.id"))
    seconds: Mapped[float]
    fixed_mask_id: Mapped[str | None] = mapped_column(MASK_ID)
    reason: Mapped[str | None]
    created_at: Mapped[datetime]


class GoldImageRow(Base):
    """An image whose true masks are known, for gold tasks."""

    __tablename__ = "gold_images"
    __table_args__ = (Index(None, "dataset_id"),)

    image_id: Mapped[int] = mapped_column(
        BIG_ID, ForeignKey("images.id"), primary_key=True, autoincrement=False
    )
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    created_at: Mapped[datetime]


class GoldScoreRow(Base):
    """How well the answer to a gold task matches the true masks."""

    __tablename__ = "gold_scores"
    __table_args__ = (Index(None, "annotator_id", "created_at"),)

    task_id: Mapped[int] = mapped_column(
        BIG_ID, ForeignKey("tasks.id"), primary_key=True, autoincrement=False
    )
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotators.id"))
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    image_id: Mapped[int] = mapped_column(BIG_ID)
    truths: Mapped[int]
    found_50: Mapped[int]
    found_75: Mapped[int]
    extra: Mapped[int]
    iou: Mapped[float | None]
    boundary_f: Mapped[float | None]
    created_at: Mapped[datetime]


class ReleaseRow(Base):
    __tablename__ = "releases"
    __table_args__ = (Index(None, "dataset_id", "state", "created_at"),)

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    table_version: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[ReleaseState]
    key: Mapped[str]
    card: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    label_id: Mapped[int | None] = mapped_column(BigInteger)
    categories_version: Mapped[int | None]


class GenerationRow(Base):
    """A mark of the store that this catalog has; see `generations`."""

    __tablename__ = "generations"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    at: Mapped[datetime]


class ErasureRow(Base):
    """Data to delete everywhere. `work` lists it, including names, and is NULL once the erasure is
    finished; `target` has no names and stays."""

    __tablename__ = "erasures"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[ErasureKind]
    target: Mapped[dict[str, Any]]
    work: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
