"""The small columns of a dataset's masks in memory, to filter and sort a million of them at once.

N = the dataset's masks in one version of the mask table, by image id; about 100 bytes each. Masks
of one image are in no stated order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.mask_rows import SCHEMA
from storage.masks import MaskTable

WORDS = ("stage", "round", "source", "annotator", "model")
"""Columns with few different values."""
SCORES = ("predicted_iou", "stability_score")
NUMBERS = (*SCORES, "area", "created_at")
COLUMNS = ("mask_id", "image_id", *WORDS, *NUMBERS, "supersedes")
_NO_ROWS = pa.RecordBatch.from_pylist([], SCHEMA)
BATCH = 65_536
MAX_UINT32 = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Words:
    """A column with few different values.

    Attributes:
        codes_N: int32, the place of each mask's value in `values`; -1: it has none.
    """

    codes_N: np.ndarray
    values: list[str | int]


@dataclass(frozen=True, slots=True)
class MaskIndex:
    """Columns of a dataset's masks.

    Attributes:
        version: of the mask table; None: there is no table.
        mask_ids: N strings.
        image_N: int64, ascending.
        words: the columns WORDS.
        numbers: float32 (N,) of each of SCORES, NaN where unknown; uint32 (N,) `area` in pixels and
            `created_at` in seconds since 1970, both cut at the type's greatest value.
        is_superseded_N: bool, another mask of this version supersedes it.
    """

    version: int | None
    mask_ids: pa.StringArray
    image_N: np.ndarray
    words: dict[str, Words]
    numbers: dict[str, np.ndarray]
    is_superseded_N: np.ndarray

    def __len__(self) -> int:
        return len(self.image_N)

    def rows_of(self, image_ids: np.ndarray, mask_ids: pa.Array) -> np.ndarray:
        """The rows of masks, int64 (M,), from their images and ids; -1: not in this index.

        Args:
            image_ids: int64 (M,).
            mask_ids: M strings.
        """
        images = np.unique(image_ids)
        first = np.searchsorted(self.image_N, images)
        numbers = np.searchsorted(self.image_N, images, "right") - first
        ends = numbers.cumsum()
        rows = np.repeat(first - (ends - numbers), numbers) + np.arange(numbers.sum())
        found = pc.index_in(mask_ids, value_set=self.mask_ids.take(pa.array(rows)))
        places = found.fill_null(len(rows)).to_numpy()
        return np.asarray(np.append(rows, -1)[places])


def read_index(
    table: MaskTable, dataset: str, version: int | None, base: MaskIndex | None = None
) -> MaskIndex:
    """Read the masks of a dataset in one version of the table; None: there is no table.

    Args:
        base: the dataset's index at an earlier version. If the table was only appended to since
            then, only new files are read.

    Raises:
        MaskVersionNotFoundError: no such version.
        StorageError: files of the version are gone, or the store does not answer.
    """
    since = None if base is None else base.version
    if version is None or since is None or not table.appends_to(since, version):
        base = since = None
    coders = {name: _Coder([] if base is None else base.words[name].values) for name in WORDS}
    parts = [_of_index(base) if base is not None else _of_batch(_NO_ROWS, coders)]
    parts += (
        []
        if version is None
        else [
            _of_batch(batch, coders)
            for batch in table.scan(
                version=version, dataset=dataset, columns=COLUMNS, batch_size=BATCH, since=since
            )
        ]
    )
    replaced, replaced_images = _taken(parts, "replaced"), _taken(parts, "replaced_image")
    images = _taken(parts, "image_id")
    order = None if (images[:-1] <= images[1:]).all() else np.argsort(images, kind="stable")

    def column(name: str) -> Any:
        found = _taken(parts, name)
        return found if order is None else found.take(order)

    index = MaskIndex(
        version,
        column("mask_id"),
        images if order is None else images[order],
        {name: Words(column(name), coders[name].values) for name in WORDS},
        {name: column(name) for name in NUMBERS},
        column("is_superseded"),
    )
    rows = index.rows_of(replaced_images, replaced)
    index.is_superseded_N[rows[rows >= 0]] = True
    return index


class _Coder:
    """Numbers the values of a column in the order in which they come."""

    def __init__(self, values: Sequence[str | int]) -> None:
        self.values = list(values)
        self._codes = {value: code for code, value in enumerate(values)}

    def codes(self, column: pa.Array) -> np.ndarray:
        found = column.dictionary_encode()
        known = [self._code(value) for value in found.dictionary.to_pylist()]
        places = found.indices.fill_null(len(known)).to_numpy()
        return np.asarray(np.array([*known, -1], np.int32)[places])

    def _code(self, value: str | int) -> int:
        if value not in self._codes:
            self._codes[value] = len(self.values)
            self.values.append(value)
        return self._codes[value]


def _of_batch(batch: pa.RecordBatch, coders: dict[str, _Coder]) -> dict[str, Any]:
    """The batch's columns, each in its compact form."""
    images = batch.column("image_id").to_numpy()
    supersedes = batch.column("supersedes")
    seconds = batch.column("created_at").cast(pa.int64()).to_numpy() // 1_000_000
    return {
        "mask_id": batch.column("mask_id"),
        "image_id": images,
        "is_superseded": np.zeros(len(images), bool),
        "replaced": supersedes.drop_null(),
        "replaced_image": images[supersedes.is_valid().to_numpy(zero_copy_only=False)],
        "area": np.clip(batch.column("area").to_numpy(), 0, MAX_UINT32).astype(np.uint32),
        "created_at": np.clip(seconds, 0, MAX_UINT32).astype(np.uint32),
        **{name: coders[name].codes(batch.column(name)) for name in WORDS},
        **{name: batch.column(name).to_numpy(zero_copy_only=False) for name in SCORES},
    }


def _of_index(index: MaskIndex) -> dict[str, Any]:
    """The same of an earlier index."""
    return {
        "mask_id": index.mask_ids,
        "image_id": index.image_N,
        "is_superseded": index.is_superseded_N,
        "replaced": pa.array([], pa.string()),
        "replaced_image": np.zeros(0, np.int64),
        **{name: words.codes_N for name, words in index.words.items()},
        **index.numbers,
    }


def _taken(parts: list[dict[str, Any]], name: str) -> Any:
    """The column of all parts, which lose it."""
    found = [part.pop(name) for part in parts]
    return np.concatenate(found) if isinstance(found[0], np.ndarray) else pa.concat_arrays(found)
