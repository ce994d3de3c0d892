"""A contact sheet: a picture of masks, cut out with their surroundings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from engine.semantics.crops import cut_crops
from flows.semantics.find import FoundMask
from flows.workspace.workspace import Workspace
from storage.formats.images import BadImageError, write_png

SIDE = 160
COLUMNS = 8
SCALE = 1.6
GAP = 6
OUTLINE = (255, 0, 200)


def write_sheet(workspace: Workspace, found: Sequence[FoundMask], path: Path) -> None:
    """Write a PNG of found masks, the best first, from left to right and down.

    Masks whose image cannot be read are left blank.

    Raises:
        FileExistsError: the file exists.
    """
    rows = -(-len(found) // COLUMNS)
    step = SIDE + GAP
    sheet = np.full((max(rows, 1) * step + GAP, COLUMNS * step + GAP, 3), 245, np.uint8)
    images = {one.id: one for one in workspace.catalog.images.get_many([f.image_id for f in found])}
    wanted = {one.mask_id for one in found}
    rles = {
        mask.mask_id: mask.rle
        for mask in workspace.masks.masks(image_ids=sorted(images))
        if mask.mask_id in wanted
    }
    for number, one in enumerate(found):
        try:
            pixels = workspace.pixels(images[one.image_id])
        except BadImageError:
            continue
        crops = cut_crops(pixels, [rles[one.mask_id]], SCALE, SIDE)
        tile = np.ascontiguousarray(crops.pixels_NSSC[0])
        inside = (crops.cover_NSS[0] > 0.5).astype(np.uint8)
        lines, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(tile, lines, -1, OUTLINE, 1)
        y, x = GAP + number // COLUMNS * step, GAP + number % COLUMNS * step
        sheet[y : y + SIDE, x : x + SIDE] = tile
    with path.open("xb") as file:
        file.write(write_png(sheet))
