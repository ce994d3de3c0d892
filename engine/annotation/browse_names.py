"""The labels and suggested categories of a dataset's masks, kept up to date in memory.

N = masks of a dataset at one version of the mask table.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from engine.annotation.browse_columns import MaskNames
from engine.core.categories import NONE_OF_THESE, UNLABELLED
from storage.catalog import Catalog
from storage.catalog.labels import LabelState
from storage.mask_index import MaskIndex

SUGGESTIONS_SECONDS = 10.0
"""How old suggestions may be."""
FIRST_SECONDS = 2.0
"""How long a page waits for suggestions; later pages have them."""
NO_LABEL = -1
"""In place of a category's id; 0 stands for none of these."""


@dataclass(frozen=True, slots=True)
class SuggestedCategories:
    """Suggestions for M masks.

    Attributes:
        key: of this state; another key means that suggestions have changed.
        mask_ids: Arrow string array (M,).
        image_M: int64.
        category_M: category ids, 0 for none of these.
        probability_M: float32 in [0, 1].
    """

    key: str
    mask_ids: pa.StringArray
    image_M: np.ndarray
    category_M: np.ndarray
    probability_M: np.ndarray


SuggestionsOf = Callable[[int, str | None], SuggestedCategories | None]
"""Returns a dataset's suggestions by its id; None if there are none, or if those of the given key
are still the newest."""


class MaskNamer:
    """Labels and suggestions for the masks of an index. Not thread-safe."""

    def __init__(self, dataset_id: int, index: MaskIndex, fixes: Sequence[dict[str, Any]]) -> None:
        """
        Args:
            fixes: the masks that supersede others, as `MaskTable.superseding` returns them.
        """
        self._id, self._index = dataset_id, index
        self._own_N = np.full(len(index), NO_LABEL, np.int32)
        self._suggested_N = np.full(len(index), NO_LABEL, np.int32)
        self._probability_N = np.full(len(index), np.nan, np.float32)
        images = np.array([row["image_id"] for row in fixes], np.int64)
        pairs = [
            index.rows_of(images, pa.array([row[name] for row in fixes], pa.string()))
            for name in ("mask_id", "supersedes")
        ]
        known = (pairs[0] >= 0) & (pairs[1] >= 0)
        self._fixes, self._fixed = pairs[0][known], pairs[1][known]
        self._state = LabelState(0, 0)
        self._ids = np.zeros(0, np.int64)
        """Of the categories, in the list's order."""

    def read(self, catalog: Catalog, *, is_changed: bool = False) -> MaskNames | None:
        """Return labels and suggestions if there are new labels, another category list, or
        `is_changed`; else None."""
        state = catalog.labels.state(self._id)
        if not is_changed and state == self._state:
            return None
        listed = catalog.categories.current(self._id)
        found = catalog.labels.after(self._id, self._state.label_id)
        if found:
            rows = self._index.rows_of(
                np.array([label.image_id for label in found], np.int64),
                pa.array([label.mask_id for label in found], pa.string()),
            )
            ids = np.array([label.category_id or 0 for label in found], np.int32)
            self._own_N[rows[rows >= 0]] = ids[rows >= 0]  # in order: the latest one stays
        self._state = state
        names = listed.categories.names
        self._ids = np.array(list(names), np.int64)
        return MaskNames(
            [UNLABELLED, NONE_OF_THESE, *names.values()],
            self._places(self._inherited()),
            self._places(self._suggested_N),
            self._probability_N,
        )

    def take(self, suggested: SuggestedCategories) -> None:
        """Use these suggestions from the next `read` on."""
        self._suggested_N = np.full(len(self._index), NO_LABEL, np.int32)
        self._probability_N = np.full(len(self._index), np.nan, np.float32)
        rows = self._index.rows_of(suggested.image_M, suggested.mask_ids)
        known = rows >= 0
        self._suggested_N[rows[known]] = suggested.category_M[known]
        self._probability_N[rows[known]] = suggested.probability_M[known]

    def _inherited(self) -> np.ndarray:
        """Return each mask's label; a fixed mask without its own has that of the mask it fixes."""
        found = self._own_N.copy()
        while len(open_ := np.flatnonzero(found[self._fixes] == NO_LABEL)):
            given = found[self._fixed[open_]]
            if (given == NO_LABEL).all():
                break
            found[self._fixes[open_]] = given
        return found

    def _places(self, category_N: np.ndarray) -> np.ndarray:
        """Return the places in `MaskNames.values` of category ids; those of removed categories are
        unlabelled."""
        order = np.argsort(self._ids, kind="stable")
        ids = self._ids[order]
        place = np.searchsorted(ids, category_N)
        known = np.append(ids, 0)[place] == category_N
        found = np.where(known & (category_N > 0), np.append(order, 0)[place] + 2, 0)
        found[category_N == 0] = 1
        return found.astype(np.int32)


class SuggestionFeed:
    """Asks for suggestions in a thread, as they can take a minute for a million masks."""

    def __init__(self, dataset_id: int, suggestions_of: SuggestionsOf) -> None:
        self._id, self._ask = dataset_id, suggestions_of
        self._asked_at = -SUGGESTIONS_SECONDS
        self._key: str | None = None
        self._thread: threading.Thread | None = None
        self._found: SuggestedCategories | None = None

    def newer(self) -> SuggestedCategories | None:
        """Return suggestions that this has not returned before, if there are any by now."""
        if self._thread is None:
            if time.monotonic() - self._asked_at < SUGGESTIONS_SECONDS:
                return None
            self._asked_at = time.monotonic()
            self._thread = threading.Thread(target=self._run, name="suggestions", daemon=True)
            self._thread.start()
            self._thread.join(FIRST_SECONDS)
        if self._thread.is_alive():
            return None
        self._thread, found, self._found = None, self._found, None
        if found is not None:
            self._key = found.key
        return found

    def _run(self) -> None:
        self._found = self._ask(self._id, self._key)
