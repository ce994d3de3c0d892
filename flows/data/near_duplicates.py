"""Finds the images of a dataset that a new image nearly repeats, and puts both on the same side of
the split, so that no model is compared on what it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.core.near_duplicates import (
    MAX_BITS,
    bits_apart,
    mean_colours,
    perceptual_hash,
    shows_the_same,
)
from flows.workspace.retry import retry_during_outage
from flows.workspace.workspace import Workspace
from storage.catalog import Image, NewImage, NotFoundError
from storage.formats.images import BadImageError, read_image, thumbnail
from storage.objects import ObjectNotFoundError

CANDIDATES = 32
"""Images with the closest hashes that are compared with a new one."""
FIRST_ROOM = 1_000
"""Room for hashes that a new dataset has."""
KEPT = 50_000
"""Thumbnails of 3 KB that are kept in memory; others are made again when they are needed."""


@dataclass(frozen=True, slots=True)
class NearPair:
    """The names of an image and of the image of the dataset that it nearly repeats."""

    name: str
    other: str


class NearDuplicates:
    """The images of a dataset by their perceptual hashes.

    An image nearly repeats at most one other, a first one, which repeats none itself: so no chain
    of small changes makes a near-duplicate of a different image.
    """

    def __init__(self, workspace: Workspace, dataset_id: int) -> None:
        self._workspace, self._dataset_id = workspace, dataset_id
        self.found: list[NearPair] = []
        self._outage_seconds = workspace.settings.outage_seconds
        rows = list(workspace.catalog.images.hashes(dataset_id))
        self._hashes = np.array([int(digits, 16) for _, digits, _ in rows], np.uint64)
        self._ids = [image_id for image_id, _, _ in rows]
        self._new: dict[int, NewImage] = {}
        """Images that have no id yet, by their place in the list of ids."""
        self._firsts = {place for place, (_, _, near) in enumerate(rows) if near is None}
        stay = {self._ids[place] for place in self._firsts}
        for place, (_, _, near) in enumerate(rows):
            if near is not None and near not in stay:  # erased: the next of its group stands for it
                stay.add(near)
                self._firsts.add(place)
        self._thumbnails: dict[int, np.ndarray | None] = {}

    def place(
        self, rows: Sequence[NewImage], thumbnails: Sequence[np.ndarray | None]
    ) -> list[NewImage]:
        """Return the rows with hash, colours, the image that they nearly repeat, and its split.
        Their images count from now on; images that were compared before are left as they are, and
        stored ones keep their split.

        Args:
            rows: new or known images of the dataset; the caller stores them afterwards.
            thumbnails: of the rows, RGB uint8 (32, 32, 3); rows without one are left as they are.
        """
        contents = [row.sha256 for row in (*rows, *self._new.values())]
        known = retry_during_outage(
            self._outage_seconds,
            lambda: self._workspace.catalog.images.find_by_sha256(self._dataset_id, contents),
        )
        for place, added in list(self._new.items()):
            if added.sha256 in known:
                self._ids[place] = known[added.sha256].id
                del self._new[place]
        placed: dict[str, NewImage] = {}
        for row, seen in zip(rows, thumbnails, strict=True):
            stored = known.get(row.sha256)
            is_compared = stored is not None and stored.perceptual_hash is not None
            bits = None if seen is None or is_compared else perceptual_hash(seen)
            if seen is not None and bits is not None and row.sha256 not in placed:
                placed[row.sha256] = self._placed(row, stored, bits, seen)
        return [replace(placed.get(row.sha256, row), file_name=row.file_name) for row in rows]

    def _placed(
        self, row: NewImage, stored: Image | None, bits: int, seen_HWC: np.ndarray
    ) -> NewImage:
        near, place = self._near(bits, seen_HWC), len(self._ids)
        firsts = [one for one in near if one in self._firsts]
        other = self._image((firsts or near)[0]) if near else None
        if firsts and other is not None:
            self.found.append(NearPair(row.file_name, other.file_name))
        else:
            self._firsts.add(place)
        row = replace(
            row,
            split=(stored or other or row).split,
            perceptual_hash=f"{bits:016x}",
            colours=mean_colours(seen_HWC).tobytes().hex(),
            near_sha256=other.sha256 if firsts and other is not None else None,
        )
        self._keep(place, seen_HWC)
        self._ids.append(0)
        self._new[place] = row
        if place == len(self._hashes):  # twice the room, so that a million are not copied each time
            self._hashes = np.append(self._hashes, np.zeros(max(place, FIRST_ROOM), np.uint64))
        self._hashes[place] = bits
        return row

    def _near(self, bits: int, seen_HWC: np.ndarray) -> list[int]:
        """Places of the images that show the same, the closest hash first."""
        apart = bits_apart(self._hashes[: len(self._ids)], bits)
        close = np.flatnonzero(apart <= MAX_BITS)
        close = close[np.argsort(apart[close], kind="stable")][:CANDIDATES]
        return [
            int(place)
            for place in close
            if (other := self._thumbnail(int(place))) is not None
            and shows_the_same(seen_HWC, other)
        ]

    def _image(self, place: int) -> Image | NewImage | None:
        """None if it was erased meanwhile."""
        if place in self._new:
            return self._new[place]
        images, image_id = self._workspace.catalog.images, self._ids[place]
        try:
            return retry_during_outage(self._outage_seconds, lambda: images.get(image_id))
        except NotFoundError:
            return None

    def _thumbnail(self, place: int) -> np.ndarray | None:
        """None if the stored image is lost or damaged: then nothing is compared with it."""
        if place not in self._thumbnails:
            image = self._image(place)
            self._keep(place, None if image is None else self._read(image))
        return self._thumbnails[place]

    def _read(self, image: Image | NewImage) -> np.ndarray | None:
        try:
            objects = self._workspace.objects
            data = retry_during_outage(self._outage_seconds, lambda: objects.get(image.key))
            most = self._workspace.settings.max_pixels
            return thumbnail(read_image(data, max_pixels=most))
        except (ObjectNotFoundError, BadImageError):
            return None

    def _keep(self, place: int, seen_HWC: np.ndarray | None) -> None:
        if len(self._thumbnails) >= KEPT:
            del self._thumbnails[next(iter(self._thumbnails))]
        self._thumbnails[place] = seen_HWC
