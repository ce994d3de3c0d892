"""The catalog: one object with the repositories of a database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from storage.catalog.annotators import Annotators
from storage.catalog.api_tokens import ApiTokens
from storage.catalog.audit import AuditLog
from storage.catalog.categories import Categories
from storage.catalog.comments import Comments
from storage.catalog.consensus import Consensus
from storage.catalog.datasets import Datasets
from storage.catalog.drafts import Drafts
from storage.catalog.gold import Gold
from storage.catalog.guidelines import Guidelines
from storage.catalog.images import Images
from storage.catalog.labels import Labels
from storage.catalog.ledger import Ledger
from storage.catalog.locks import Locks
from storage.catalog.loops import Loops
from storage.catalog.models import Models
from storage.catalog.quarantine import Quarantine
from storage.catalog.releases import Releases
from storage.catalog.rounds import Rounds
from storage.catalog.runs import Runs
from storage.catalog.sessions import Clock, Sessions, StateT, connect, counts
from storage.catalog.setting_changes import SettingChanges
from storage.catalog.shards import Shards
from storage.catalog.sign_ins import SignIns
from storage.catalog.states import ModelState, ReleaseState, RoundState, RunState, Split, TaskState
from storage.catalog.suggesters import Suggesters
from storage.catalog.tables import (
    ImageRow,
    ModelRow,
    QuarantineRow,
    ReleaseRow,
    RoundRow,
    RunRow,
    TaskRow,
)
from storage.catalog.verdicts import Verdicts
from storage.catalog.webhooks import Webhooks


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Numbers of rows by split or state; every state is included, if only with 0."""

    images: dict[Split, int]
    quarantined: int
    tasks: dict[TaskState, int]
    runs: dict[RunState, int]
    rounds: dict[RoundState, int]
    models: dict[ModelState, int]
    """Of all datasets: a model belongs to no dataset."""
    releases: dict[ReleaseState, int]


class Catalog(Sessions):
    """One database and its repositories. Each of their methods is one short transaction; use
    `session()` only for what no method does. Thread-safe."""

    def __init__(self, url: str, *, clock: Clock | None = None) -> None:
        """A catalog on `sqlite:///path/to/file` or `postgresql+psycopg://...`, not connected yet:
        the first use checks the schema, and raises CatalogNotMigratedError until `migrate()` was
        called.

        Raises:
            ValueError: the URL is of another kind, or SQLite without a file.
        """
        super().__init__(connect(url), clock=clock)
        self.datasets = Datasets(self)
        self.images = Images(self)
        self.quarantine = Quarantine(self)
        self.models = Models(self)
        self.loops = Loops(self)
        self.rounds = Rounds(self)
        self.runs = Runs(self)
        self.shards = Shards(self)
        self.locks = Locks(self)
        self.annotators = Annotators(self)
        self.sign_ins = SignIns(self)
        self.api_tokens = ApiTokens(self)
        self.drafts = Drafts(self)
        self.audit = AuditLog(self)
        self.verdicts = Verdicts(self)
        self.comments = Comments(self)
        self.consensus = Consensus(self)
        self.releases = Releases(self)
        self.gold = Gold(self)
        self.categories = Categories(self)
        self.labels = Labels(self)
        self.suggesters = Suggesters(self)
        self.ledger = Ledger(self)
        self.guidelines = Guidelines(self)
        self.setting_changes = SettingChanges(self)
        self.webhooks = Webhooks(self)

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def summary(self) -> Summary:
        """Counts for a status report, of all datasets together."""
        quarantined = select(func.count()).select_from(QuarantineRow)
        with self.reading() as session:
            return Summary(
                images=_counts(session, ImageRow.split, Split),
                quarantined=session.scalar(quarantined) or 0,
                tasks=_counts(session, TaskRow.state, TaskState),
                runs=_counts(session, RunRow.state, RunState),
                rounds=_counts(session, RoundRow.state, RoundState),
                models=_counts(session, ModelRow.state, ModelState),
                releases=_counts(session, ReleaseRow.state, ReleaseState),
            )


def _counts(session: Session, column: Any, states: type[StateT]) -> dict[StateT, int]:
    return counts(session, select(column, func.count()).group_by(column), states)
