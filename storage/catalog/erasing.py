"""Delete or rename rows for an erasure. Each function is one transaction and can be repeated."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import Engine, delete, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from engine.core.batches import batches
from storage.catalog.api_tokens import ApiTokenRow
from storage.catalog.label_tables import CategoryListRow, LabelRow, SuggesterRow
from storage.catalog.sessions import Sessions, typed_errors
from storage.catalog.states import ShardState, TaskState
from storage.catalog.tables import (
    AnnotatorRow,
    AuditRow,
    DatasetRow,
    DraftRow,
    GoldImageRow,
    GoldScoreRow,
    ImageAliasRow,
    ImageRow,
    LoopRow,
    QuarantineRow,
    ReleaseRow,
    RoundImageRow,
    RoundRow,
    RunRow,
    ShardRow,
    SignInRow,
    TaskRow,
    VerdictRow,
)
from storage.catalog.tasks import not_gold
from storage.catalog.team_tables import (
    DeliveryRow,
    GuidelinePictureRow,
    GuidelinesRow,
    SettingChangeRow,
    WebhookRow,
)
from storage.catalog.thread_tables import CommentRow, ConsensusRow

BATCH = 500
"""Ids in one statement."""
_FREE_TEXT: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (AuditRow, ("subject", "detail")),
    (RunRow, ("config", "metrics", "error")),
    (VerdictRow, ("reason",)),
    (CommentRow, ("text",)),
    (GuidelinesRow, ("markdown",)),
    (DeliveryRow, ("payload",)),
)
"""Columns of free text that may contain names."""
_WRITTEN: tuple[Any, ...] = (
    *(CategoryListRow, GuidelinesRow, GuidelinePictureRow),
    *(SettingChangeRow, WebhookRow),
)
"""Tables whose rows have an author, by name."""


def forget_images(
    sessions: Sessions, image_ids: Collection[int], releases: Collection[str], words: Sequence[str]
) -> None:
    """Delete images and all rows about them, and mark the releases that contain them.

    Args:
        words: file names to remove from free text.
    """
    with sessions.session() as session:
        for ids in batches(sorted(image_ids), BATCH):
            tasks = list(session.scalars(select(TaskRow.id).where(TaskRow.image_id.in_(ids))))
            _delete_tasks(session, tasks)
            for owner in ("late_of", "return_of"):  # late versions and returns of deleted tasks
                owned = RunRow.config[owner].as_integer()
                session.execute(delete(RunRow).where(owned.in_(tasks)))
            for table in (ImageAliasRow, RoundImageRow, QuarantineRow, GoldImageRow, LabelRow):
                session.execute(delete(table).where(table.image_id.in_(ids)))
            datasets = select(ImageRow.dataset_id).where(ImageRow.id.in_(ids))
            session.execute(delete(SuggesterRow).where(SuggesterRow.dataset_id.in_(datasets)))
            session.execute(delete(ImageRow).where(ImageRow.id.in_(ids)))
        for names in batches(words, BATCH):
            session.execute(delete(QuarantineRow).where(QuarantineRow.path.in_(names)))
        _forget_in_shards(session, set(image_ids))
        _withdraw(session, releases, len(image_ids), sessions.now().isoformat(timespec="seconds"))
        _scrub(session, words, "erased")
        session.commit()


def forget_dataset(sessions: Sessions, dataset_id: int, name: str) -> None:
    """Delete a dataset with all rows that belong to it, including runs and releases."""
    images = select(ImageRow.id).where(ImageRow.dataset_id == dataset_id)
    runs = select(RunRow.id).where(RunRow.dataset_id == dataset_id)
    with sessions.session() as session:
        _delete_tasks(session, select(TaskRow.id).where(TaskRow.dataset_id == dataset_id))
        session.execute(delete(ShardRow).where(ShardRow.run_id.in_(runs)))
        owned_too = (LabelRow, CategoryListRow, SuggesterRow, GuidelinesRow, GuidelinePictureRow)
        for named in owned_too:
            session.execute(delete(named).where(named.dataset_id == dataset_id))
        for table in (ImageAliasRow, RoundImageRow, GoldImageRow):
            session.execute(delete(table).where(table.image_id.in_(images)))
        for owned in (QuarantineRow, RunRow, RoundRow, LoopRow, ImageRow, ReleaseRow):
            session.execute(delete(owned).where(owned.dataset_id == dataset_id))
        session.execute(delete(DatasetRow).where(DatasetRow.id == dataset_id))
        # an id may be reused: access to this dataset must not grant access to the next one
        for person in session.scalars(select(AnnotatorRow)):
            if person.datasets and dataset_id in person.datasets:
                person.datasets = [one for one in person.datasets if one != dataset_id]
        _scrub(session, [name], "erased")
        session.commit()


def forget_person(sessions: Sessions, annotator_id: int, name: str, pseudonym: str) -> None:
    """Rename a person to a pseudonym, sign them out, and release their tasks. Their work stays,
    under the pseudonym."""
    mine = TaskRow.annotator_id == annotator_id
    freed = {"state": TaskState.OPEN, "lease_id": None, "annotator_id": None}
    with sessions.session() as session:
        session.execute(
            update(TaskRow)
            .where(mine, TaskRow.state.in_([TaskState.LEASED, TaskState.OPEN]))
            .values(**freed, lease_expires_at=None)
        )
        reserved = update(TaskRow).where(TaskRow.reserved_for == annotator_id)
        waiting = reserved.where(~not_gold(), TaskRow.state == TaskState.OPEN)
        session.execute(waiting.values(state=TaskState.SKIPPED))
        session.execute(reserved.where(not_gold()).values(reserved_for=None))
        for table in (SignInRow, ApiTokenRow, DraftRow):
            session.execute(delete(table).where(table.annotator_id == annotator_id))
        session.execute(
            update(AnnotatorRow)
            .where(AnnotatorRow.id == annotator_id)
            .values(name=pseudonym, token_hash=None, token_expires_at=None)
        )
        for written in _WRITTEN:
            by_them = update(written).where(written.author == name)
            session.execute(by_them.values(author=pseudonym))
        _scrub(session, [name], pseudonym)
        session.commit()


def rename_results(sessions: Sessions, renamed: dict[str, str]) -> None:
    """Replace old object keys by new ones in tasks and runs."""
    named: tuple[tuple[Any, str, str], ...] = (
        (TaskRow, "result", "trajectories"),
        (TaskRow, "payload", "prefill"),
        (RunRow, "config", "masks"),
    )
    with sessions.session() as session:
        for old, new in renamed.items():
            session.execute(update(TaskRow).where(TaskRow.result_key == old).values(result_key=new))
            for table, column, name in named:
                where = getattr(table, column)[name].as_string() == old
                for row in session.scalars(select(table).where(where)):
                    setattr(row, column, {**getattr(row, column), name: new})
        session.commit()


def shrink(engine: Engine) -> None:
    """Remove deleted rows from an SQLite file, where they otherwise stay until overwritten.
    PostgreSQL's autovacuum does so itself."""
    if engine.dialect.name != "sqlite":
        return
    with typed_errors(engine):
        raw = engine.raw_connection()
        try:
            raw.cursor().execute("VACUUM")
            raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except engine.dialect.loaded_dbapi.OperationalError as error:
            raise OperationalError("VACUUM", None, error) from error
        finally:
            raw.close()


def _delete_tasks(session: Session, tasks: Any) -> None:
    for table in (DraftRow, VerdictRow, GoldScoreRow, CommentRow, ConsensusRow):
        session.execute(delete(table).where(table.task_id.in_(tasks)))
    given_in = update(LabelRow).where(LabelRow.task_id.in_(tasks))  # on images of other tasks
    session.execute(given_in.values(task_id=None))
    session.execute(delete(TaskRow).where(TaskRow.id.in_(tasks)))


def _forget_in_shards(session: Session, image_ids: set[int]) -> None:
    for row in session.scalars(select(ShardRow)).partitions(BATCH):
        for shard in row:
            if image_ids & set(shard.image_ids):
                shard.image_ids = [i for i in shard.image_ids if i not in image_ids]


def _withdraw(session: Session, names: Collection[str], images: int, at: str) -> None:
    for row in session.scalars(select(ReleaseRow).where(ReleaseRow.name.in_(names))):
        row.card = {**row.card, "erased": {"images": images, "at": at}}


def _scrub(session: Session, words: Sequence[str], instead: str) -> None:
    """Replace whole words in free text by `instead`."""
    note = TaskRow.payload["note"].as_string()
    for some in batches(sorted({*words} - {""}, key=len, reverse=True), BATCH):
        pattern = re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, some))})(?![\w-])")
        for table, columns in _FREE_TEXT:
            for row in _rows(session, table):
                for column in columns:
                    value = getattr(row, column)
                    clean = _cleaned(value, lambda text: pattern.sub(instead, text))  # noqa: B023
                    if clean != value:
                        setattr(row, column, clean)
        for task in session.scalars(select(TaskRow).where(note.is_not(None))):
            task.payload = {**task.payload, "note": pattern.sub(instead, task.payload["note"])}


def _rows(session: Session, table: Any) -> Iterator[Any]:
    for page in session.scalars(select(table).order_by(table.id)).partitions(BATCH):
        yield from page


def _cleaned(value: Any, clean: Callable[[str], str]) -> Any:
    """Apply `clean` to each string in a JSON value."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(key): _cleaned(item, clean) for key, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item, clean) for item in value]
    return value


def busy_with(
    sessions: Sessions, *, dataset_id: int, image_ids: Collection[int] | None = None
) -> list[str]:
    """Names of the tasks and runs with a valid lease on these images of a dataset; None: on any."""
    now = sessions.now()
    tasks = select(TaskRow.id, TaskRow.image_id).where(
        TaskRow.dataset_id == dataset_id,
        TaskRow.state == TaskState.LEASED,
        TaskRow.lease_expires_at > now,
    )
    shards = select(ShardRow).join(RunRow, RunRow.id == ShardRow.run_id)
    shards = shards.where(
        RunRow.dataset_id == dataset_id,
        ShardRow.lease_expires_at > now,
        ShardRow.state == ShardState.LEASED,
    )
    with sessions.reading() as session:
        held = [
            f"task {task}"
            for task, image in session.execute(tasks)
            if image_ids is None or image in image_ids
        ]
        for shard in session.scalars(shards):
            if image_ids is None or not shard.image_ids or set(shard.image_ids) & set(image_ids):
                held.append(f"run {shard.run_id}")
    return held
