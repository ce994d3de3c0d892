"""Images of a dataset: one row per distinct file content, under however many names it was
ingested."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from engine.core.batches import batches
from storage.catalog.errors import NotFoundError
from storage.catalog.sessions import Repository, insert_new, to_record
from storage.catalog.states import RunKind, Split, TaskKind, TaskState
from storage.catalog.tables import (
    ImageAliasRow,
    ImageRow,
    RoundImageRow,
    RoundRow,
    RunRow,
    TaskRow,
)

IN_LIMIT = 1_000
"""Values in one IN (...) list."""
PAGE = 1_000
"""Images that `page` returns at most."""
ID_PAGE = 10_000
"""Ids read at once by `ids`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewImage:
    """An image whose object is already stored.

    Attributes:
        sha256: 64 hex digits, of the file's bytes.
        key: of its object.
        file_name: the user's name of the file.
        height: in pixels, like `width`.
        run_id: of the ingest that adds it.
        perceptual_hash: 16 hex digits; None if it has none.
        colours: its mean colours, uint8 as hex digits (`engine.core.near_duplicates`).
        near_sha256: of the image of the dataset that it nearly repeats.
    """

    sha256: str
    key: str
    file_name: str
    height: int
    width: int
    split: Split = Split.TRAIN
    run_id: str | None = None
    perceptual_hash: str | None = None
    colours: str | None = None
    near_sha256: str | None = None

    def __post_init__(self) -> None:
        if len(self.sha256) != 64:
            raise ValueError(f"sha256 must have 64 hex digits, got {self.sha256!r}")
        if self.height <= 0 or self.width <= 0:
            raise ValueError(f"an image needs pixels, got size {(self.height, self.width)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """An image of a dataset; size in pixels."""

    id: int
    dataset_id: int
    sha256: str
    key: str
    file_name: str
    height: int
    width: int
    split: Split
    created_at: datetime
    run_id: str | None
    """Of the ingest that added it; None if older than this column."""
    perceptual_hash: str | None = None
    """None if it is nearly one colour, or older than this column: then another ingest adds it."""
    near_image_id: int | None = None
    """The first image that this one nearly repeats; None if it repeats none."""
    complete_run: str | None = None
    """The run in which a model said that no object lacks a mask; None if none did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AddedImages:
    """Result of `Images.add_many`: the ids in the order of the given rows, and the number of new
    images."""

    ids: list[int]
    new: int


class Images(Repository):
    """Reached as `catalog.images`."""

    def add_many(self, dataset_id: int, rows: Sequence[NewImage]) -> AddedImages:
        """Add images, once per content: adding the same bytes again keeps the first row and stores
        another file name as an alias, and the perceptual hash where it is missing. Pass about a
        thousand rows at a time.

        Raises:
            ConstraintError: no such dataset.
        """
        common = {"dataset_id": dataset_id, "created_at": self._sessions.now()}
        first = {row.sha256: row for row in reversed(rows)}
        in_order = [first[sha256] for sha256 in sorted(first)]  # no deadlock between two ingests
        with self._sessions.session() as session:
            new = insert_new(session, ImageRow, [_plain(row) | common for row in in_order])
            known = self._by_sha256(session, dataset_id, list(first))
            self._set_looks(session, dataset_id, list(first.values()), known)
            aliases = {
                (known[row.sha256].id, row.file_name)
                for row in rows
                if row.file_name != known[row.sha256].file_name
            }
            insert_new(
                session,
                ImageAliasRow,
                [{"image_id": image, "file_name": name} for image, name in sorted(aliases)],
            )
            session.commit()
            return AddedImages(ids=[known[row.sha256].id for row in rows], new=len(new))

    def _set_looks(
        self,
        session: Session,
        dataset_id: int,
        rows: Sequence[NewImage],
        known: dict[str, ImageRow],
    ) -> None:
        wanted = {row.near_sha256 for row in rows if row.near_sha256 is not None}
        near = self._by_sha256(session, dataset_id, sorted(wanted))
        for row in rows:
            stored = known[row.sha256]
            if row.perceptual_hash is None or stored.perceptual_hash is not None:
                continue
            stored.perceptual_hash, stored.colours = row.perceptual_hash, row.colours
            if row.near_sha256 in near:
                other = near[row.near_sha256]
                stored.near_image_id = other.near_image_id or other.id

    @staticmethod
    def _by_sha256(session: Session, dataset_id: int, sha256s: list[str]) -> dict[str, ImageRow]:
        found: dict[str, ImageRow] = {}
        for part in batches(sha256s, IN_LIMIT):
            query = select(ImageRow).where(
                ImageRow.dataset_id == dataset_id, ImageRow.sha256.in_(part)
            )
            found |= {row.sha256: row for row in session.scalars(query)}
        return found

    def get(self, image_id: int) -> Image:
        """The image of that id.

        Raises:
            NotFoundError: no such image.
        """
        return self.get_many([image_id])[0]

    def get_many(self, image_ids: Sequence[int]) -> list[Image]:
        """The images of these ids, in the order of the ids.

        Raises:
            NotFoundError: one of them is missing.
        """
        found: dict[int, Image] = {}
        with self._sessions.reading() as session:
            for part in batches(image_ids, IN_LIMIT):
                for row in session.scalars(select(ImageRow).where(ImageRow.id.in_(part))):
                    found[row.id] = to_record(Image, row)
        missing = [image_id for image_id in image_ids if image_id not in found]
        if missing:
            raise NotFoundError(f"no image with id {missing[0]} ({len(missing)} missing)")
        return [found[image_id] for image_id in image_ids]

    def find_by_sha256(self, dataset_id: int, sha256s: Sequence[str]) -> dict[str, Image]:
        """The dataset's images with these contents, by their SHA-256."""
        with self._sessions.reading() as session:
            found = self._by_sha256(session, dataset_id, list(sha256s))
            return {sha256: to_record(Image, row) for sha256, row in found.items()}

    def hashes(self, dataset_id: int) -> Iterator[tuple[int, str, int | None]]:
        """Id, perceptual hash and `near_image_id` of each image with a hash, by id; read in
        pages."""
        found = (ImageRow.id, ImageRow.perceptual_hash, ImageRow.near_image_id)
        has = ImageRow.perceptual_hash.is_not(None)
        for row in self._rows(select(*found).where(ImageRow.dataset_id == dataset_id, has)):
            yield row[0], row[1], row[2]

    def near_duplicates(self, dataset_id: int) -> dict[int, int]:
        """The near-duplicates of a dataset, and the first image that each nearly repeats."""
        found = (ImageRow.id, ImageRow.near_image_id)
        has = ImageRow.near_image_id.is_not(None)
        rows = self._rows(select(*found).where(ImageRow.dataset_id == dataset_id, has))
        return {row[0]: row[1] for row in rows}

    def mark_complete(self, image_id: int, run_id: str) -> None:
        """Note that a model said, in this run, that no object of the image lacks a mask."""
        statement = update(ImageRow).where(ImageRow.id == image_id)
        self._sessions.change(statement.values(complete_run=run_id))

    def complete_ids(self, dataset_id: int, *, run_id: str | None = None) -> set[int]:
        """The images that a model said to be complete, in one run or any. What people completed is
        known by their tasks."""
        query = select(ImageRow.id).where(ImageRow.dataset_id == dataset_id)
        of = ImageRow.complete_run
        query = query.where(of.is_not(None) if run_id is None else of == run_id)
        return set(self._sessions.values(query))

    def colours(self, dataset_id: int) -> Iterator[tuple[int, str]]:
        """Id and mean colours, as hex digits, of each image that has them, by id."""
        has = ImageRow.colours.is_not(None)
        query = select(ImageRow.id, ImageRow.colours).where(ImageRow.dataset_id == dataset_id, has)
        for row in self._rows(query):
            yield row[0], row[1]

    def _rows(self, query: Select[*tuple[Any, ...]]) -> Iterator[Any]:
        """The rows of a query whose first column is the id, in pages; no transaction stays open
        between them."""
        after = 0
        while True:
            part = query.where(ImageRow.id > after).order_by(ImageRow.id).limit(ID_PAGE)
            with self._sessions.reading() as session:
                page = session.execute(part).all()
            yield from page
            if len(page) < ID_PAGE:
                return
            after = page[-1][0]

    def find_by_name(self, dataset_id: int, file_name: str) -> Image | None:
        """The newest image ingested under this name, or None. An image's own name takes precedence
        over aliases."""
        in_dataset = select(ImageRow).where(ImageRow.dataset_id == dataset_id)
        newest = in_dataset.order_by(ImageRow.id.desc()).limit(1)
        by_alias = newest.join(ImageAliasRow, ImageAliasRow.image_id == ImageRow.id)
        with self._sessions.reading() as session:
            row = session.scalars(newest.where(ImageRow.file_name == file_name)).first()
            row = (
                row or session.scalars(by_alias.where(ImageAliasRow.file_name == file_name)).first()
            )
            return None if row is None else to_record(Image, row)

    def repeated_names(self, dataset_id: int) -> dict[str, list[int]]:
        """File names shared by several images, with their ids, newest last."""
        named = select(ImageRow.file_name).where(ImageRow.dataset_id == dataset_id)
        several = named.group_by(ImageRow.file_name).having(func.count() > 1)
        query = select(ImageRow.file_name, ImageRow.id).where(
            ImageRow.dataset_id == dataset_id, ImageRow.file_name.in_(several)
        )
        found: dict[str, list[int]] = {}
        with self._sessions.reading() as session:
            for name, image_id in session.execute(query.order_by(ImageRow.id)):
                found.setdefault(name, []).append(image_id)
        return found

    def aliases(self, image_id: int) -> list[str]:
        """The other file names of the same bytes, in alphabetical order."""
        query = select(ImageAliasRow.file_name).where(ImageAliasRow.image_id == image_id)
        return self._sessions.values(query.order_by(ImageAliasRow.file_name))

    def page(
        self, dataset_id: int, *, split: Split | None = None, after_id: int = 0
    ) -> list[Image]:
        """The next images by id; pass the last id of a page as `after_id` of the next."""
        query = select(ImageRow).where(ImageRow.dataset_id == dataset_id, ImageRow.id > after_id)
        if split is not None:
            query = query.where(ImageRow.split == split)
        return self._sessions.records(Image, query.order_by(ImageRow.id).limit(PAGE))

    def each(self, dataset_id: int, *, split: Split | None = None) -> Iterator[Image]:
        """All images by id, read in pages; no transaction stays open between pages."""
        after = 0
        while page := self.page(dataset_id, split=split, after_id=after):
            yield from page
            after = page[-1].id

    def ids(
        self, dataset_id: int, *, split: Split | None = None, limit: int | None = None
    ) -> Iterator[int]:
        """The ids of all images, or the first `limit`, ascending; read in pages, for plans over
        millions of images. No transaction stays open between pages."""
        after, left = 0, limit
        while left is None or left > 0:
            rows = ID_PAGE if left is None else min(ID_PAGE, left)
            query = select(ImageRow.id).where(ImageRow.dataset_id == dataset_id)
            if split is not None:
                query = query.where(ImageRow.split == split)
            query = query.where(ImageRow.id > after).order_by(ImageRow.id).limit(rows)
            with self._sessions.reading() as session:
                page = list(session.scalars(query))
            if not page:
                return
            yield from page
            after = page[-1]
            left = None if left is None else left - len(page)

    def annotated_ids(self, dataset_id: int, *, before: datetime) -> set[int]:
        """Ids of the images annotated or completed in runs finished by `before`, with or without
        masks."""
        query = select(TaskRow.image_id).join(RunRow, RunRow.id == TaskRow.run_id)
        query = query.where(
            TaskRow.dataset_id == dataset_id,
            TaskRow.kind.in_((TaskKind.ANNOTATE, TaskKind.COMPLETE)),
            TaskRow.state == TaskState.SUBMITTED,
            TaskRow.result["quarantined"].as_string().is_(None),
            RunRow.finished_at <= before,
            RunRow.kind != RunKind.GOLD,
        )
        return set(self._sessions.values(query))

    def count(self, dataset_id: int, *, split: Split | None = None) -> int:
        """The number of the dataset's images, in one split or all."""
        query = select(func.count()).select_from(ImageRow).where(ImageRow.dataset_id == dataset_id)
        if split is not None:
            query = query.where(ImageRow.split == split)
        return self._sessions.value(query) or 0

    def count_near_duplicates(self, dataset_id: int) -> int:
        """The number of the dataset's images that nearly repeat another."""
        query = select(func.count()).select_from(ImageRow).where(ImageRow.dataset_id == dataset_id)
        return self._sessions.value(query.where(ImageRow.near_image_id.is_not(None))) or 0

    def unused_ids_in_loop(
        self, dataset_id: int, loop_id: int, *, limit: int | None, split: Split = Split.TRAIN
    ) -> list[int]:
        """The ids of the first images, or of all without a limit, that are assigned to no round of
        this loop (`rounds.assign_images`), so each round takes fresh ones."""
        used = (
            select(RoundImageRow.image_id)
            .join(RoundRow, RoundRow.id == RoundImageRow.round_id)
            .where(RoundRow.loop_id == loop_id, RoundImageRow.image_id == ImageRow.id)
        )
        wanted = (ImageRow.dataset_id == dataset_id, ImageRow.split == split, ~used.exists())
        query = select(ImageRow.id).where(*wanted).order_by(ImageRow.id)
        return self._sessions.values(query.limit(limit))


def _plain(row: NewImage) -> dict[str, Any]:
    """The columns of a new row, without what other rows decide (`_set_looks`)."""
    values = asdict(replace(row, perceptual_hash=None, colours=None))
    del values["near_sha256"]
    return values
