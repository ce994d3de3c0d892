"""Labels of masks. A mask's newest label counts; it supersedes the one before, and masks are never
changed. A model's label supersedes only a model's, and one that a judge confirmed only by another
judge's."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    ColumnElement,
    Select,
    Text,
    and_,
    bindparam,
    func,
    literal,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, aliased

from engine.core.batches import batches
from engine.core.categories import CategoryError
from storage.catalog.errors import NotFoundError
from storage.catalog.label_tables import CategoryListRow, LabelRow
from storage.catalog.sessions import Repository, count_changed, to_record
from storage.catalog.states import LabelSource
from storage.catalog.tables import DatasetRow

CHUNK = 1_000
"""Labels in one statement."""
WRITTEN_AT_ONCE = 5_000
"""Labels in one transaction of `add_many`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewLabel:
    """A label for one mask of the mask table or of the ground truth.

    Attributes:
        mask_id: of the mask.
        image_id: of its image.
        category_id: None: the mask belongs to no category of the list.
        source: who gives it.
        model: its version; given exactly if the source is a model.
        annotator_id: who gave it, if known; with a model's, the model that confirmed it.
        score: calibrated probability, in [0, 1].
        seconds: the annotator's time on it.
        task_id: of the task in which it was given.

    Raises:
        ValueError: a value is not allowed.
    """

    mask_id: str
    image_id: int
    category_id: int | None
    source: LabelSource
    model: str | None = None
    annotator_id: int | None = None
    score: float | None = None
    seconds: float | None = None
    task_id: int | None = None

    def __post_init__(self) -> None:
        if (self.source == LabelSource.MODEL) != (self.model is not None):
            raise ValueError(f"a model's label names the model's version, others do not: {self}")
        if self.score is not None and not 0.0 <= self.score <= 1.0:
            raise ValueError(f"score is {self.score}, expected a number from 0 to 1")
        if self.seconds is not None and not 0.0 <= self.seconds < math.inf:
            raise ValueError(f"seconds is {self.seconds}, expected a number from 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Label(NewLabel):
    """A stored label. `superseded_by`: id of the mask's next label; None: it counts."""

    id: int
    dataset_id: int
    superseded_by: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class PlacedLabel:
    """A label by its id, mask and image. `category_id` None: the mask belongs to no category."""

    id: int
    image_id: int
    mask_id: str
    category_id: int | None


class LabelState(NamedTuple):
    """The highest id of a dataset's labels, and the version of its category list; 0: none."""

    label_id: int
    categories_version: int


class Labels(Repository):
    """Reached as `catalog.labels`."""

    def add_many(
        self,
        dataset_id: int,
        labels: Sequence[NewLabel],
        *,
        only_unlabelled: bool = False,
        once_per_task: bool = False,
    ) -> int:
        """Label masks of a dataset, at most one label for each mask. Labels that count so far are
        superseded, except those of people and imports by a model's, and those that an annotator of
        kind model confirmed by a model's without one. Each WRITTEN_AT_ONCE labels are
        one transaction: after an error, repeat the call.

        Args:
            dataset_id: id of the dataset.
            labels: the labels.
            only_unlabelled: skip masks that have a label.
            once_per_task: skip masks that have, or had, a label of the same task.

        Returns:
            The number of masks that have the new label.

        Raises:
            CategoryError: the dataset's category list lacks a category.
            ConstraintError: no such image or annotator.
            NotFoundError: no such dataset.
            ValueError: two labels are for the same mask.
        """
        if len({label.mask_id for label in labels}) != len(labels):
            raise ValueError("two of the labels are for the same mask")
        added = 0
        for some in batches(labels, WRITTEN_AT_ONCE):
            with self._sessions.session() as session:
                lock_dataset(session, dataset_id)
                _check_categories(session, dataset_id, some)
                if once_per_task:
                    some = _not_of_their_tasks(session, some)
                now = self._sessions.now()
                added += _write(session, dataset_id, some, now, only_unlabelled=only_unlabelled)
                session.commit()
        return added

    def current(self, mask_ids: Collection[str], *, as_of: int | None = None) -> dict[str, Label]:
        """The masks' own labels that count; masks without one are left out. `flows.labels` also
        gives a fixed mask the label of the mask that it supersedes.

        Args:
            mask_ids: of the masks.
            as_of: the labels that counted when this was the highest id (`state`).
        """
        return self._found(LabelRow.mask_id, sorted(set(mask_ids)), as_of)

    def of_images(
        self, image_ids: Collection[int], *, as_of: int | None = None
    ) -> dict[str, Label]:
        """As `current`, of all masks of these images."""
        return self._found(LabelRow.image_id, sorted(set(image_ids)), as_of)

    def after(self, dataset_id: int, label_id: int) -> list[PlacedLabel]:
        """The dataset's labels with higher ids, in order of id; of one mask the last one counts."""
        query = select(LabelRow.id, LabelRow.image_id, LabelRow.mask_id, LabelRow.category_id)
        query = query.where(LabelRow.dataset_id == dataset_id, LabelRow.id > label_id)
        with self._sessions.reading() as session:
            return [PlacedLabel(*row) for row in session.execute(query.order_by(LabelRow.id))]

    def of_category(
        self, dataset_id: int, category_id: int | None, *, after_id: int = 0, limit: int = CHUNK
    ) -> list[Label]:
        """The labels that count of one category, in order of id; the next page begins after the
        last id."""
        query = _of_category(dataset_id, category_id).where(LabelRow.id > after_id)
        return self._sessions.records(Label, query.order_by(LabelRow.id).limit(limit))

    def history(self, image_id: int, mask_id: str | None = None) -> list[Label]:
        """All labels that a mask has had, or all masks of an image, oldest first."""
        query = select(LabelRow).where(LabelRow.image_id == image_id).order_by(LabelRow.id)
        if mask_id is not None:
            query = query.where(LabelRow.mask_id == mask_id)
        return self._sessions.records(Label, query)

    def answered_proposals(self, dataset_id: int) -> list[Label]:
        """The labels by models that a person or an import confirmed or changed: of each mask the
        last one before the label that counts. Those that another model confirmed do not count."""
        now, before = LabelRow, aliased(LabelRow)
        same = and_(now.image_id == before.image_id, now.mask_id == before.mask_id)
        last = select(func.max(before.id)).join(now, same)
        last = last.where(
            now.dataset_id == dataset_id,
            now.superseded_by.is_(None),
            now.source != LabelSource.MODEL,
            before.source == LabelSource.MODEL,
            before.annotator_id.is_(None),
            before.id < now.id,
        )
        query = select(LabelRow).where(LabelRow.id.in_(last.group_by(before.mask_id)))
        return self._sessions.records(Label, query.order_by(LabelRow.id))

    def count_of_annotator(self, dataset_id: int, annotator_id: int, *, after_id: int) -> int:
        """The number of labels with higher ids that an annotator gave, superseded ones too."""
        query = select(func.count()).where(
            LabelRow.dataset_id == dataset_id,
            LabelRow.annotator_id == annotator_id,
            LabelRow.id > after_id,
        )
        return self._sessions.value(query) or 0

    def counts(
        self, dataset_id: int, *, source: LabelSource | None = None
    ) -> dict[int | None, int]:
        """The number of labels that count by category id; None: of masks of no category."""
        query = select(LabelRow.category_id, func.count()).group_by(LabelRow.category_id)
        query = query.where(LabelRow.dataset_id == dataset_id, LabelRow.superseded_by.is_(None))
        if source is not None:
            query = query.where(LabelRow.source == source)
        return self._sessions.pairs(query)

    def count_after(self, dataset_id: int, label_id: int, sources: Collection[LabelSource]) -> int:
        """The number of labels that count with higher ids, from some sources."""
        query = select(func.count()).where(
            LabelRow.dataset_id == dataset_id,
            LabelRow.id > label_id,
            LabelRow.superseded_by.is_(None),
            LabelRow.source.in_(sources),
        )
        with self._sessions.reading() as session:
            return session.scalar(query) or 0

    def state(self, dataset_id: int) -> LabelState:
        """What a release pins: read at one moment."""
        labels = select(func.max(LabelRow.id)).where(
            LabelRow.dataset_id == dataset_id, LabelRow.superseded_by.is_(None)
        )
        lists = select(func.max(CategoryListRow.version))
        lists = lists.where(CategoryListRow.dataset_id == dataset_id)
        with self._sessions.reading() as session:
            pair = select(labels.scalar_subquery(), lists.scalar_subquery())
            label_id, version = session.execute(pair).one()
        return LabelState(label_id or 0, version or 0)

    def _found(self, key: Any, wanted: Sequence[Any], as_of: int | None) -> dict[str, Label]:
        found: dict[str, Label] = {}
        with self._sessions.reading() as session:
            for some in batches(wanted, CHUNK):
                query = select(LabelRow).where(key.in_(some), *_counting(as_of))
                found |= {row.mask_id: to_record(Label, row) for row in session.scalars(query)}
        return found


def lock_dataset(session: Session, dataset_id: int) -> None:
    """Let no other process change the dataset's labels or category list until the session ends;
    on SQLite no other process writes anyway.

    Raises:
        NotFoundError: no such dataset.
    """
    query = select(DatasetRow.id).where(DatasetRow.id == dataset_id)
    if session.scalar(query.with_for_update(key_share=True)) is None:
        raise NotFoundError(f"no dataset with id {dataset_id}")


def used_categories(session: Session, dataset_id: int) -> set[int]:
    """Ids of the categories of labels that count."""
    query = select(LabelRow.category_id).distinct()
    mine = (LabelRow.dataset_id == dataset_id, LabelRow.superseded_by.is_(None))
    return set(session.scalars(query.where(*mine, LabelRow.category_id.is_not(None))))


def move_labels(
    session: Session, dataset_id: int, moves: Mapping[int, int | None], now: datetime
) -> int:
    """Supersede the labels of some categories by labels of others, or of none, with the same
    source and annotator; returns their number."""
    moved = 0
    for old, new in moves.items():
        query, last = _of_category(dataset_id, old).order_by(LabelRow.id).limit(CHUNK), 0
        while rows := list(session.scalars(query.where(LabelRow.id > last))):
            labels = [
                NewLabel(
                    mask_id=row.mask_id,
                    image_id=row.image_id,
                    category_id=new,
                    source=row.source,
                    model=row.model,
                    annotator_id=row.annotator_id,
                )
                for row in rows
            ]
            last = rows[-1].id
            moved += _write(session, dataset_id, labels, now, any_source=True)
            session.expunge_all()
    return moved


def _check_categories(session: Session, dataset_id: int, labels: Iterable[NewLabel]) -> None:
    wanted = {label.category_id for label in labels} - {None}
    if not wanted:
        return
    query = select(CategoryListRow.content).where(CategoryListRow.dataset_id == dataset_id)
    content = session.scalar(query.order_by(CategoryListRow.version.desc()).limit(1))
    known = {one["id"] for one in content["categories"]} if content else set()
    if missing := wanted - known:
        raise CategoryError(f"the dataset has no category with id {min(missing)}")  # type: ignore[type-var]


def _not_of_their_tasks(session: Session, labels: Sequence[NewLabel]) -> list[NewLabel]:
    """The labels whose masks never had one of the same task."""
    tasks = sorted({label.task_id for label in labels if label.task_id is not None})
    known = set[tuple[int | None, str]]()
    for some in batches(tasks, CHUNK):
        query = select(LabelRow.task_id, LabelRow.mask_id).where(LabelRow.task_id.in_(some))
        known |= {(row.task_id, row.mask_id) for row in session.execute(query)}
    return [label for label in labels if (label.task_id, label.mask_id) not in known]


def _write(
    session: Session,
    dataset_id: int,
    labels: Sequence[NewLabel],
    now: datetime,
    *,
    only_unlabelled: bool = False,
    any_source: bool = False,
) -> int:
    """Supersede and insert in the caller's transaction, with the dataset locked. A label whose mask
    keeps another one is refused by the unique index. Returns the number of inserted labels."""
    inserted = 0
    for some in batches(labels, CHUNK):
        rows = [
            {name: getattr(label, name) for name in _GIVEN}
            | {"id": number, "dataset_id": dataset_id, "superseded_by": None, "created_at": now}
            for number, label in zip(_fresh_ids(session, len(some)), some, strict=True)
        ]
        for rank in (_ANY, _CONFIRMED, _PROPOSED):
            mine = [row for row in rows if _rank(row) == rank]
            if mine and not only_unlabelled:
                _supersede(session, mine, _ANY if any_source else rank)
        inserted += _insert(session, dataset_id, rows)
    return inserted


_GIVEN = tuple(field.name for field in fields(NewLabel))


_ANY, _CONFIRMED, _PROPOSED = range(3)
"""What supersedes any label, those of models, and those of models that no model confirmed."""


def _rank(row: dict[str, Any]) -> int:
    if row["source"] != LabelSource.MODEL:
        return _ANY
    return _PROPOSED if row["annotator_id"] is None else _CONFIRMED


def _supersede(session: Session, rows: Sequence[dict[str, Any]], rank: int) -> None:
    """Mark the masks' labels that count as superseded by the rows: one conditional UPDATE."""
    where: list[ColumnElement[bool]] = [LabelRow.superseded_by.is_(None)]
    if rank != _ANY:
        where.append(LabelRow.source == LabelSource.MODEL)
    if rank == _PROPOSED:
        where.append(LabelRow.annotator_id.is_(None))
    if session.get_bind().dialect.name == "postgresql":
        masks = literal([row["mask_id"] for row in rows], ARRAY(Text))
        ids = literal([row["id"] for row in rows], ARRAY(BigInteger))
        # many statements for one mask would keep the plan of an empty table: a full scan each
        new = func.unnest(masks, ids).table_valued("mask_id", "id", name="new").render_derived()
        change = update(LabelRow).where(*where, LabelRow.mask_id == new.c.mask_id)
        count_changed(session, change.values(superseded_by=new.c.id))
    else:
        change = update(LabelRow).where(*where, LabelRow.mask_id == bindparam("of_mask"))
        given = [{"of_mask": row["mask_id"], "new": row["id"]} for row in rows]
        session.connection().execute(change.values(superseded_by=bindparam("new")), given)


def _insert(session: Session, dataset_id: int, rows: Sequence[dict[str, Any]]) -> int:
    """Insert the rows whose masks have no label that counts; returns their number."""
    if session.get_bind().dialect.name == "postgresql":  # quicker than a statement per row
        given = [{**row, "created_at": row["created_at"].isoformat()} for row in rows]
        names, call = list(rows[0]), func.json_populate_recordset
        new = call(text("NULL::labels"), literal(given, JSON)).table_valued(*names, name="new")
        chosen = select(*(new.c[name] for name in names))
        whole = postgresql.insert(LabelRow).from_select(names, chosen).on_conflict_do_nothing()
        session.execute(whole)
    else:
        session.connection().execute(sqlite.insert(LabelRow).on_conflict_do_nothing(), rows)
    within = LabelRow.id.between(rows[0]["id"], rows[-1]["id"])
    mine = select(func.count()).where(within, LabelRow.dataset_id == dataset_id)
    return session.scalar(mine) or 0


def _fresh_ids(session: Session, count: int) -> Iterator[int]:
    """Ids for new rows, ascending, which the labels before must name before the rows exist."""
    if session.get_bind().dialect.name == "postgresql":
        sequence = func.pg_get_serial_sequence("labels", "id")
        numbers = func.generate_series(1, count).table_valued("number")
        yield from sorted(session.scalars(select(func.nextval(sequence)).select_from(numbers)))
    else:  # the transaction holds the write lock
        last = session.scalar(select(func.max(LabelRow.id))) or 0
        yield from range(last + 1, last + 1 + count)


def _counting(as_of: int | None) -> tuple[ColumnElement[bool], ...]:
    if as_of is None:
        return (LabelRow.superseded_by.is_(None),)
    later = or_(LabelRow.superseded_by.is_(None), LabelRow.superseded_by > as_of)
    return (LabelRow.id <= as_of, later)


def _of_category(dataset_id: int, category_id: int | None) -> Select[Any]:
    mine = (LabelRow.dataset_id == dataset_id, LabelRow.superseded_by.is_(None))
    return select(LabelRow).where(*mine, LabelRow.category_id.is_not_distinct_from(category_id))
