"""Which of a dataset's masks are in a release, for the page Browse."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
from cachetools import LRUCache

from engine.annotation.browse_schemas import Filters
from engine.annotation.errors import invalid
from storage.catalog import Catalog, Release, ReleaseState
from storage.mask_index import MaskIndex
from storage.objects import ObjectNotFoundError, ObjectStore
from storage.release_files import ReleaseFileError, ReleaseFiles

KEPT = 4
"""Results that are kept, of a byte a mask each."""
COLUMNS = ("image_id", "mask_id")


class ReleasedMasks:
    """One per server. Thread-safe."""

    def __init__(self, catalog: Catalog, objects: ObjectStore) -> None:
        self._catalog, self._objects = catalog, objects
        self._lock = threading.Lock()
        self._kept: LRUCache[tuple[str, str, int | None], np.ndarray] = LRUCache(KEPT)

    def names(self, dataset_id: int) -> list[str]:
        """The dataset's finished releases, the newest first."""
        done = self._finished(dataset_id)
        return [one.name for one in sorted(done, key=lambda one: one.created_at, reverse=True)]

    def run(self, dataset_id: int, index: MaskIndex, asked: Filters) -> np.ndarray | None:
        """Which masks of the index are in the release that is asked for, bool (N,); None: none is
        asked for.

        Raises:
            RefusedError: the dataset has no such finished release, or its files are damaged or
                erased.
        """
        if asked.release is None:
            return None
        release = self._release(dataset_id, asked.release)
        key = (release.name, release.key, index.version)
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                try:
                    found = self._kept[key] = self._read(release, index)
                except (ReleaseFileError, ObjectNotFoundError) as error:
                    raise invalid(f"release {release.name!r}: {error}") from error
        return found

    def _release(self, dataset_id: int, name: str) -> Release:
        for release in self._finished(dataset_id):
            if release.name == name:
                return release
        known = ", ".join(self.names(dataset_id)) or "none yet"
        raise invalid(f"the dataset has no finished release {name!r}; its releases: {known}")

    def _finished(self, dataset_id: int) -> list[Release]:
        found = self._catalog.releases.all(dataset_id)
        return [one for one in found if one.state == ReleaseState.DONE]

    def _read(self, release: Release, index: MaskIndex) -> np.ndarray:
        released = np.zeros(len(index), bool)
        with tempfile.TemporaryDirectory(prefix="dataengine-") as cache:
            files = ReleaseFiles(self._objects, release.key, Path(cache))
            for batch in files.batches(COLUMNS):
                images = batch.column("image_id").to_numpy()
                rows = index.rows_of(images, batch.column("mask_id").cast(pa.string()))
                released[rows[rows >= 0]] = True
        return released
