"""The captions of an image and its masks, as the page Browse shows them."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from contextlib import suppress
from functools import lru_cache

from engine.annotation.browse_schemas import CaptionBy
from storage import layout
from storage.catalog import Catalog, Image, RunKind, RunState
from storage.objects import ObjectNotFoundError, ObjectStore
from storage.shard_rows import ShardRows

RUNS = 50
"""Latest finished runs of a dataset whose captions are shown."""
PLANS = 200
"""Runs whose shards are kept in memory."""


class Captions:
    """One per server. Thread-safe."""

    def __init__(self, catalog: Catalog, objects: ObjectStore) -> None:
        self._catalog = catalog
        self._files = ShardRows(objects, layout.CAPTIONS)
        self._firsts = lru_cache(maxsize=PLANS)(self._read_firsts)

    def of_image(self, image: Image) -> defaultdict[str | None, list[CaptionBy]]:
        """The captions by mask id, None for those of the whole image, the oldest first."""
        found = defaultdict[str | None, list[CaptionBy]](list)
        runs = self._catalog.runs.all(
            dataset_id=image.dataset_id, kind=RunKind.CAPTIONS, limit=RUNS
        )
        for run in reversed([one for one in runs if one.state == RunState.FINISHED]):
            shard = self._shard(run.id, image.id)
            if shard is None:
                continue
            with suppress(ObjectNotFoundError):  # an erasure replaces files
                for row in self._files.read(run.id, shards=[shard]):
                    if row["image_id"] == image.id:
                        one = CaptionBy(caption=row["caption"], model=row["model"])
                        found[row["mask_id"]].append(one)
        return found

    def _shard(self, run_id: str, image_id: int) -> int | None:
        """The shard of a run in which the image is, if it is in one: shards hold ascending ids."""
        firsts = self._firsts(run_id)
        place = bisect_right(firsts, (image_id, len(firsts)))
        return firsts[place - 1][1] if place else None

    def _read_firsts(self, run_id: str) -> list[tuple[int, int]]:
        """The first image id and the number of each shard, ascending."""
        shards = self._catalog.shards.all(run_id)
        return sorted((min(one.image_ids), one.shard) for one in shards if one.image_ids)
