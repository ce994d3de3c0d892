"""Blurs faces, or what other detectors find, in the copies of images that go with a release.

The originals stay in the store. A detector finds boxes in an image; the default one of faces is
scikit-image's LBP cascade, which finds upright frontal faces of 24 pixels and more, and misses many
others: it is a help for people who look through the images, not a proof that no face is left.

A package adds detectors as entry points of the group `dataengine.blur`: the entry's name is the
kind of region (`plates`, or `faces` to replace the default), its object a Detector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from engine.core.errors import DataEngineError
from flows.workspace.workspace import Workspace
from storage.catalog import Image
from storage.formats.images import BadImageError, write_jpeg

GROUP = "dataengine.blur"
MARGIN = 0.2
"""Each box grows by this share of its side on every side: cascades cut hair and chins off."""
CELLS = 8
"""A region keeps this many values along its longer side, which are then smoothed."""
SEARCHED_SIDE = 1024
"""Longer side in pixels that an image is shrunk to before faces are searched."""
QUALITY = 95

FindBoxes = Callable[[np.ndarray], Sequence[tuple[int, int, int, int]]]
"""Returns half-open pixel boxes XYXY in an RGB uint8 image (H, W, 3)."""


class PrivacyError(DataEngineError):
    """Images cannot be blurred as asked; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Detector:
    """Finds regions to blur."""

    name: str
    """With a version, for the manifest."""
    find: FindBoxes
    recall: str
    """What is known about what it misses, for the manifest and the card."""


@dataclass(frozen=True, slots=True)
class BlurredImage:
    """A written copy: its file name and SHA-256."""

    file: str
    sha256: str


class Blurring:
    """Blurs a release's images, one after the other, and counts.

    Raises:
        PrivacyError: a kind has no detector.
    """

    def __init__(self, workspace: Workspace, kinds: Sequence[str]) -> None:
        self._workspace = workspace
        self._detectors = {kind: detector_of(kind) for kind in kinds}
        self._regions = dict.fromkeys(kinds, 0)
        self._checked = self._blurred = 0
        self._unreadable: list[int] = []

    def blur(self, image: Image, folder: Path) -> BlurredImage | None:
        """Write a blurred copy into the folder if a detector finds something; None if none does.
        An image that cannot be read is counted.

        Raises:
            OSError: the disk is full.
        """
        try:
            pixels = self._workspace.pixels(image)
        except BadImageError:
            self._unreadable.append(image.id)
            return None
        self._checked += 1
        found = {kind: list(one.find(pixels)) for kind, one in self._detectors.items()}
        boxes = [box for some in found.values() for box in some]
        if not boxes:
            return None
        for kind, some in found.items():
            self._regions[kind] += len(some)
        self._blurred += 1
        data = write_jpeg(blurred(pixels, boxes), quality=QUALITY)
        name = f"blurred-{image.id}.jpg"
        (folder / name).write_bytes(data)
        return BlurredImage(name, hashlib.sha256(data).hexdigest())

    def result(self) -> dict[str, Any]:
        """What was done, for the manifest: per kind the detector, its known recall and the number
        of regions; images `checked` and `blurred`, ids of `unreadable` ones."""
        return {
            "kinds": {
                kind: {"detector": one.name, "recall": one.recall, "regions": self._regions[kind]}
                for kind, one in self._detectors.items()
            },
            "checked": self._checked,
            "blurred": self._blurred,
            "unreadable": self._unreadable,
        }


def detector_of(kind: str) -> Detector:
    """The detector of a kind of region: an installed package's, else the default one of faces.

    Raises:
        PrivacyError: there is none, or the package's cannot be loaded.
    """
    for entry in entry_points(group=GROUP, name=kind):
        try:
            found = entry.load()
        except Exception as error:
            raise PrivacyError(f"the detector {entry.value} of {kind} fails: {error}") from error
        if not isinstance(found, Detector):
            raise PrivacyError(f"{entry.value} is a {type(found).__name__}, expected a Detector")
        return found
    if kind != "faces":
        raise PrivacyError(
            f"no detector of {kind!r} is installed: only faces have a default one; a package adds "
            f"others as entry points of the group {GROUP!r} (docs/releases.md)"
        )
    return Detector(
        f"scikit-image {version('scikit-image')} LBP cascade, frontal faces",
        find_faces,
        "finds upright frontal faces of about 24 pixels and more; misses profiles, turned, covered "
        "and small faces. Look through the images.",
    )


def find_faces(image_HWC: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Boxes of upright frontal faces in an RGB uint8 image, grown by MARGIN."""
    height, width = image_HWC.shape[:2]
    scale = min(1.0, SEARCHED_SIDE / max(height, width))
    small = image_HWC
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(image_HWC, size, interpolation=cv2.INTER_AREA)
    shorter = min(small.shape[:2])
    if shorter <= 24:  # the cascade's window
        return []
    found = _cascade().detect_multi_scale(
        img=small, scale_factor=1.2, step_ratio=1, min_size=(24, 24), max_size=(shorter, shorter)
    )
    boxes = []
    for one in found:
        grown = round(one["width"] * MARGIN)
        x0, y0 = one["c"] - grown, one["r"] - grown
        x1, y1 = one["c"] + one["width"] + grown, one["r"] + one["height"] + grown
        box = [round(value / scale) for value in (x0, y0, x1, y1)]
        boxes.append((max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)))
    return boxes


def blurred(image_HWC: np.ndarray, boxes: Sequence[tuple[int, int, int, int]]) -> np.ndarray:
    """A copy of an RGB uint8 image whose boxes, half-open pixel XYXY, keep about 8 values along
    their longer side."""
    copy = image_HWC.copy()
    height, width = copy.shape[:2]
    for box in boxes:
        x0, y0, x1, y1 = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
        if x1 <= x0 or y1 <= y0:
            continue
        region = copy[y0:y1, x0:x1]
        cell = max(1, round(max(x1 - x0, y1 - y0) / CELLS))
        few = (max(1, (x1 - x0) // cell), max(1, (y1 - y0) // cell))
        small = cv2.resize(region, few, interpolation=cv2.INTER_AREA)
        copy[y0:y1, x0:x1] = cv2.resize(small, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    return copy


@cache
def _cascade() -> Any:
    from skimage import data  # slow to import
    from skimage.feature import Cascade

    name = data.lbp_frontal_face_cascade_filename()  # type: ignore[no-untyped-call]
    return Cascade(xml_file=name)
