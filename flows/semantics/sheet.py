"""A contact sheet: a picture of masks, cut out with their surroundings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.semantics.mask_pictures import outlined
from flows.semantics.find import FoundMask
from flows.workspace.workspace import Workspace
from storage.formats.images import BadImageError, write_png

SIDE = 160
COLUMNS = 8
GAP = 6


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
        [tile] = outlined(pixels, [rles[one.mask_id]], SIDE)
        y, x = GAP + number // COLUMNS * step, GAP + number % COLUMNS * step
        sheet[y : y + SIDE, x : x + SIDE] = tile
    with path.open("xb") as file:
        file.write(write_png(sheet))
