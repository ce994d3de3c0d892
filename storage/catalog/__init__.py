"""The catalog: small rows, states, and who did what when, in SQLite or PostgreSQL."""

from storage.catalog.annotators import Annotator
from storage.catalog.api_tokens import ApiToken
from storage.catalog.audit import AuditEntry
from storage.catalog.categories import CategoryInUseError, CategoryVersion
from storage.catalog.comments import Comment, NewComment
from storage.catalog.database import Catalog
from storage.catalog.datasets import Dataset
from storage.catalog.errors import (
    AlreadyExistsError,
    BadNameError,
    CatalogError,
    CatalogNotMigratedError,
    CatalogTooNewError,
    CatalogUnavailableError,
    ConstraintError,
    DatasetNotFoundError,
    LeaseLostError,
    LoopConflictError,
    NotFoundError,
    QuotaError,
    StaleStateError,
    TaskNotFoundError,
)
from storage.catalog.gold import NewGoldScore, StoredGoldScore
from storage.catalog.guidelines import GuidelinePicture, GuidelinesVersion
from storage.catalog.images import Image, NewImage
from storage.catalog.labels import Label, NewLabel
from storage.catalog.locks import Lock
from storage.catalog.loops import (
    CHOICES,
    DISAGREEMENT,
    DIVERSITY,
    MIX,
    OF_PROGRAM,
    PEOPLE,
    RANDOM,
    SIMULATED,
    Loop,
    PlannedRound,
)
from storage.catalog.models import Model
from storage.catalog.names import check_name
from storage.catalog.releases import Release
from storage.catalog.rounds import Round
from storage.catalog.runs import Run
from storage.catalog.sessions import new_id, sqlite_url, utc_now
from storage.catalog.setting_changes import SettingChange
from storage.catalog.shards import Shard, ShardTotals
from storage.catalog.states import (
    AnnotatorKind,
    DeliveryState,
    LabelSource,
    LearnedKind,
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
from storage.catalog.tasks import (
    GOLD,
    AnnotatorWork,
    NewTask,
    Task,
    TaskLabel,
    TaskResult,
    TaskVerdict,
)
from storage.catalog.verdicts import NewVerdict, Verdict
from storage.catalog.webhooks import Delivery, Parcel, Webhook

__all__ = [
    "CHOICES",
    "DISAGREEMENT",
    "DIVERSITY",
    "GOLD",
    "MIX",
    "OF_PROGRAM",
    "PEOPLE",
    "RANDOM",
    "SIMULATED",
    "AlreadyExistsError",
    "Annotator",
    "AnnotatorKind",
    "AnnotatorWork",
    "ApiToken",
    "AuditEntry",
    "BadNameError",
    "Catalog",
    "CatalogError",
    "CatalogNotMigratedError",
    "CatalogTooNewError",
    "CatalogUnavailableError",
    "CategoryInUseError",
    "CategoryVersion",
    "Comment",
    "ConstraintError",
    "Dataset",
    "DatasetNotFoundError",
    "Delivery",
    "DeliveryState",
    "GuidelinePicture",
    "GuidelinesVersion",
    "Image",
    "Label",
    "LabelSource",
    "LearnedKind",
    "LeaseLostError",
    "Lock",
    "Loop",
    "LoopConflictError",
    "LoopState",
    "Model",
    "ModelKind",
    "ModelState",
    "NewComment",
    "NewGoldScore",
    "NewImage",
    "NewLabel",
    "NewTask",
    "NewVerdict",
    "NotFoundError",
    "Parcel",
    "PlannedRound",
    "QuotaError",
    "Release",
    "ReleaseState",
    "Round",
    "RoundState",
    "Run",
    "RunKind",
    "RunState",
    "SettingChange",
    "Shard",
    "ShardState",
    "ShardTotals",
    "Split",
    "StaleStateError",
    "StoredGoldScore",
    "Task",
    "TaskKind",
    "TaskLabel",
    "TaskNotFoundError",
    "TaskResult",
    "TaskState",
    "TaskVerdict",
    "Verdict",
    "VerdictKind",
    "Webhook",
    "check_name",
    "new_id",
    "sqlite_url",
    "utc_now",
]
