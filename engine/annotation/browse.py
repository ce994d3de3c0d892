"""Browse: the masks and images of a dataset by filters, and the history of an image's masks."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from cachetools import LRUCache

from engine.annotation.browse_columns import (
    VERDICTS,
    Columns,
    DatasetImages,
    MaskNames,
    Passing,
    bins_of,
    places,
    score_bins,
)
from engine.annotation.browse_names import MaskNamer, SuggestionFeed, SuggestionsOf
from engine.annotation.browse_releases import ReleasedMasks
from engine.annotation.browse_schemas import (
    Count,
    Figures,
    Filters,
    Histogram,
    ImageCard,
    ImagePage,
    Judged,
    MaskCard,
    MaskPage,
    PageOf,
)
from engine.annotation.browse_search import FindMasks, Search, Selected, SelectedBy, Selections
from engine.annotation.errors import RefusedError, not_found
from engine.annotation.task_views import image_view
from engine.core.records import Stage
from storage.catalog import Catalog, Image, NotFoundError
from storage.mask_index import WORDS, read_index
from storage.masks import MaskTable, MaskVersionNotFoundError
from storage.objects import ObjectStore, StorageError, StorageUnavailableError

VERSIONS = 2
"""Of datasets, kept in memory; each has about 100 bytes a mask."""
IMAGES_SECONDS = 10.0
"""How old the list of a dataset's images may be."""
VERDICTS_AGAIN = 1_000
"""Verdicts that are read again: transactions may commit them in another order than their ids."""
MAX_COUNTS = 100
"""Values whose masks are counted; the most frequent ones."""


class Place(NamedTuple):
    """The image and the stage of a mask."""

    image_id: int
    stage: Stage


class Browse:
    """One per server. Thread-safe. Methods raise RefusedError if the version of the mask table does
    not exist or is no longer stored."""

    def __init__(
        self,
        catalog: Catalog,
        masks: MaskTable,
        objects: ObjectStore,
        suggestions_of: SuggestionsOf = lambda dataset_id, key: None,
        find: FindMasks = lambda dataset_id, words, like, count: (),
        selected_by: SelectedBy = lambda dataset_id, run: Selected(),
    ) -> None:
        self._search, self._selections = Search(find), Selections(selected_by)
        self.releases = ReleasedMasks(catalog, objects)
        self._catalog, self._masks, self._suggestions_of = catalog, masks, suggestions_of
        self._lock = threading.Lock()
        self._kept: LRUCache[tuple[int, int | None], _Dataset] = LRUCache(VERSIONS)

    def masks(self, dataset_id: int, asked: PageOf) -> MaskPage:
        """A page of masks."""
        columns = self._columns(dataset_id, asked)
        total, rows = Passing(columns, asked).page(asked)
        return MaskPage(
            version=columns.index.version, total=total, masks=self._mask_cards(columns, rows)
        )

    def images(self, dataset_id: int, asked: PageOf) -> ImagePage:
        """A page of images."""
        columns = self._columns(dataset_id, asked)
        total, found, masks = Passing(columns, asked).image_page(asked)
        images = self._images(columns.images.ids_I[found].tolist())
        cards = [
            ImageCard(
                **image_view(image).model_dump(),
                masks=number,
                is_near_duplicate=image.near_image_id is not None,
            )
            for image, number in zip(images, masks.tolist(), strict=True)
        ]
        return ImagePage(version=columns.index.version, total=total, images=cards)

    def figures(self, dataset_id: int, asked: Filters) -> Figures:
        """Numbers of masks by value, and histograms."""
        columns = self._columns(dataset_id, asked)
        passing, index = Passing(columns, asked), columns.index
        counts = {}
        for name in WORDS:
            words = index.words[name]
            codes = words.codes_N[passing.but_for(name)]
            numbers = np.bincount(codes + 1, minlength=len(words.values) + 1)[1:]
            counts[name] = _counts(words.values, numbers)
        judged = np.bincount(columns.verdict_N[passing.but_for("verdict")], minlength=len(VERDICTS))
        counts["verdict"] = _counts(VERDICTS, judged)
        names = columns.names
        for name, places_N in (("label", names.label_N), ("suggested", names.suggested_N)):
            numbers = np.bincount(places_N[passing.but_for(name)], minlength=len(names.values))
            counts[name] = _counts(names.values, numbers)
        histograms = {}
        for name, bins in columns.bins.items():
            *numbers, unknown = bins.counts(passing.but_for(name)).tolist()
            histograms[name] = Histogram(edges=bins.edges, masks=numbers, unknown=unknown)
        return Figures(
            version=index.version,
            total=len(passing.rows()),
            counts=counts,
            histograms=histograms,
        )

    def current_masks(self, dataset_id: int, mask_ids: Sequence[str]) -> dict[str, Place]:
        """Where these masks are, without those that the dataset does not have, and superseded and
        rejected ones."""
        columns = self._columns(dataset_id, None)
        index, stages = columns.index, columns.index.words["stage"]
        wanted = pa.array(mask_ids, pa.string())
        rows = pc.index_in(wanted, value_set=index.mask_ids).fill_null(-1).to_numpy()
        stays = ~index.is_superseded_N & (columns.verdict_N != VERDICTS.index("reject"))
        stays &= columns.place_N >= 0
        return {
            mask_id: Place(int(index.image_N[row]), Stage(stages.values[stages.codes_N[row]]))
            for mask_id, row in zip(mask_ids, rows.tolist(), strict=True)
            if row >= 0 and stays[row]
        }

    def suggested_of(self, dataset_id: int, mask_ids: Sequence[str]) -> dict[str, str]:
        """The suggested category of each of these masks by its name, or `none of these`; masks
        without a suggestion are left out."""
        columns = self._columns(dataset_id, None)
        names, wanted = columns.names, pa.array(mask_ids, pa.string())
        rows = pc.index_in(wanted, value_set=columns.index.mask_ids).fill_null(-1).to_pylist()
        return {
            mask_id: names.values[place]
            for mask_id, row in zip(mask_ids, rows, strict=True)
            if row >= 0 and (place := int(names.suggested_N[row]))
        }

    def masks_on(self, dataset_id: int, image_ids: Sequence[int]) -> dict[int, list[str]]:
        """The masks of each of these images that are neither superseded nor rejected."""
        columns = self._columns(dataset_id, None)
        index = columns.index
        stays = ~index.is_superseded_N & (columns.verdict_N != VERDICTS.index("reject"))
        found = {}
        for image_id in image_ids:
            first, end = np.searchsorted(index.image_N, [image_id, image_id + 1]).tolist()
            rows = first + np.flatnonzero(stays[first:end])
            found[image_id] = index.mask_ids.take(pa.array(rows)).to_pylist()
        return found

    def _mask_cards(self, columns: Columns, rows: np.ndarray) -> list[MaskCard]:
        index = columns.index
        ids = index.image_N[rows].tolist()
        by_id = {image.id: image for image in self._images(sorted(set(ids)))}
        names = index.mask_ids.take(pa.array(rows)).to_pylist()
        cards = []
        for row, mask_id, image_id in zip(rows.tolist(), names, ids, strict=True):
            words: dict[str, Any] = {
                name: None if (code := found.codes_N[row]) < 0 else found.values[code]
                for name, found in index.words.items()
            }
            numbers: dict[str, Any] = {
                name: None if np.isnan(values[row]) else values[row].item()
                for name, values in index.numbers.items()
            }
            numbers["created_at"] = datetime.fromtimestamp(numbers["created_at"], UTC)
            cards.append(
                MaskCard(
                    mask_id=mask_id,
                    image=image_view(by_id[image_id]),
                    verdict=_judged(int(columns.verdict_N[row])),
                    is_superseded=bool(index.is_superseded_N[row]),
                    label=columns.names.values[columns.names.label_N[row]],
                    suggested=columns.names.values[columns.names.suggested_N[row]],
                    probability=_known(columns.names.probability_N[row]),
                    score=None if columns.found is None else _known(columns.found.score_N[row]),
                    **words,
                    **numbers,
                )
            )
        return cards

    def _images(self, image_ids: Sequence[int]) -> list[Image]:
        try:
            return self._catalog.images.get_many(image_ids)
        except NotFoundError as error:
            with self._lock:
                self._kept.clear()
            raise RefusedError(
                409, "outdated", "images were erased meanwhile; load the page again"
            ) from error

    def _columns(self, dataset_id: int, asked: Filters | None) -> Columns:
        """The dataset at the version that is asked for, else at the newest."""
        given = None if asked is None else asked.version
        version = self._masks.version() if given is None else given
        with self._lock:
            kept = self._kept.get((dataset_id, version))
            if kept is None:
                kept = self._kept[dataset_id, version] = self._read(dataset_id, version, given)
            kept.refresh(self._catalog)
            columns = kept.columns
        if asked is None:
            return columns
        return replace(
            columns,
            found=self._search.run(dataset_id, columns.index, asked),
            selected=self._selections.run(dataset_id, columns.index, columns.images.ids_I, asked),
            released_N=self.releases.run(dataset_id, columns.index, asked),
        )

    def _read(self, dataset_id: int, version: int | None, given: int | None) -> _Dataset:
        name = self._catalog.datasets.get_by_id(dataset_id).name
        known = [found for (of, _), found in self._kept.items() if of == dataset_id]
        earlier = [one for one in known if (one.columns.index.version or 0) < (version or 0)]
        base = max(earlier, key=lambda one: one.columns.index.version or 0, default=None)
        try:
            index = read_index(
                self._masks, name, version, None if base is None else base.columns.index
            )
        except StorageUnavailableError:
            raise
        except MaskVersionNotFoundError as error:
            raise not_found(f"the mask table has no version {version}") from error
        except StorageError as error:
            if given is None:
                raise
            raise not_found(
                f"version {version} of the mask table is no longer stored; remove `version` from "
                "the address"
            ) from error
        fixes = self._masks.superseding(version=version, dataset=name)
        namer = MaskNamer(dataset_id, index, fixes)
        no_images = DatasetImages(np.zeros(0, np.int64), np.zeros(0, bool))
        verdicts = np.zeros(len(index), np.uint8)
        places_N, names = places(index, no_images), MaskNames.of_none(len(index))
        bins = {**bins_of(index), "probability": score_bins(names.probability_N)}
        columns = Columns(index, bins, no_images, verdicts, places_N, names)
        return _Dataset(
            dataset_id, columns, namer, SuggestionFeed(dataset_id, self._suggestions_of)
        )


class _Dataset:
    """One version of a dataset in memory, with the catalog's part as of now."""

    def __init__(
        self, dataset_id: int, columns: Columns, namer: MaskNamer, feed: SuggestionFeed
    ) -> None:
        self._id, self.columns = dataset_id, columns
        self._namer, self._feed = namer, feed
        self._latest_verdict = 0
        self._counts: tuple[int, int] | None = None
        self._counted_at = -IMAGES_SECONDS

    def refresh(self, catalog: Catalog) -> None:
        """Read new verdicts, labels and suggestions, and the list of images if it is old and has
        changed."""
        latest = catalog.verdicts.latest_id()
        if latest > self._latest_verdict:
            self._read_verdicts(catalog)
            self._latest_verdict = latest
        if time.monotonic() - self._counted_at >= IMAGES_SECONDS:
            images = catalog.images
            counts = images.count(self._id), images.count_near_duplicates(self._id)
            if counts != self._counts:
                self._read_images(catalog)
            self._counts, self._counted_at = counts, time.monotonic()

        suggested = self._feed.newer()
        if suggested is not None:
            self._namer.take(suggested)
        names = self._namer.read(catalog, is_changed=suggested is not None)
        if names is not None:
            bins = {**self.columns.bins, "probability": score_bins(names.probability_N)}
            self.columns = replace(self.columns, names=names, bins=bins)

    def _read_verdicts(self, catalog: Catalog) -> None:
        found = catalog.verdicts.after(self._id, self._latest_verdict - VERDICTS_AGAIN)
        if not found:
            return
        rows = self.columns.index.rows_of(
            np.array([verdict.image_id for verdict in found], np.int64),
            pa.array([verdict.mask_id for verdict in found], pa.string()),
        )
        codes = np.array([VERDICTS.index(str(verdict.verdict)) for verdict in found], np.uint8)
        self.columns.verdict_N[rows[rows >= 0]] = codes[rows >= 0]  # in order: the latest one stays

    def _read_images(self, catalog: Catalog) -> None:
        ids = np.fromiter(catalog.images.ids(self._id), np.int64)
        near = np.fromiter(catalog.images.near_duplicates(self._id), np.int64)
        images = DatasetImages(ids, np.isin(ids, near))
        place_N = places(self.columns.index, images)
        self.columns = replace(self.columns, images=images, place_N=place_N)


def _known(score: np.float32) -> float | None:
    return None if np.isnan(score) else float(score)


def _judged(code: int) -> Judged:
    return VERDICTS[code]  # type: ignore[return-value]  # pydantic checks it


def _counts(values: Sequence[str | int], numbers: np.ndarray) -> list[Count]:
    """The most frequent values with masks."""
    found = sorted(zip(numbers.tolist(), map(str, values), strict=True), key=lambda one: -one[0])
    return [Count(value=value, masks=masks) for masks, value in found[:MAX_COUNTS] if masks]
