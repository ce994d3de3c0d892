"""Masks of a folder of images without a workspace (`dataengine amg`)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.automatic import MaskGenerator
    from engine.core.records import Provenance


NO_RUN = "amg"
"""Dataset and run of masks that belong to none."""


@dataclass(frozen=True, slots=True)
class AmgResult:
    """Result of one image: number of masks, seconds and a note, or the error."""

    path: str
    masks: int = 0
    seconds: float = 0.0
    error: str | None = None
    note: str | None = None


def run_amg(
    generator: MaskGenerator,
    paths: list[Path],
    output: Path,
    *,
    pictures: bool = True,
    max_pixels: int | None = None,
) -> Iterator[AmgResult]:
    """Write `<stem>.json` and `<stem>.png` for every image, and continue after a broken one. The
    stem is the image's, with a number if another image or a foreign file has it.

    Args:
        generator: model and settings.
        paths: image files.
        output: folder; created if missing.
        pictures: also write overlays.
        max_pixels: larger images are refused; None: 200 million.

    Raises:
        OSError: a result cannot be written.
    """
    from engine.core.overlay import draw_masks
    from storage.formats.folders import distinct_names
    from storage.formats.images import (
        FLAT,
        MAX_PIXELS,
        BadImageError,
        is_flat,
        read_image,
        write_png,
    )
    from storage.formats.sa1b import write_sa1b
    from storage.outputs import OutputFolder

    origin = _origin(generator)
    folder = OutputFolder(output)
    names = distinct_names(paths)
    for number, (path, name) in enumerate(zip(paths, names, strict=True), start=1):
        try:
            pixels = read_image(path.read_bytes(), max_pixels=max_pixels or MAX_PIXELS)
        except (BadImageError, OSError) as error:
            yield AmgResult(str(path), error=str(error))
            continue
        began = time.perf_counter()
        found = generator.generate(pixels)
        seconds = time.perf_counter() - began
        height, width = pixels.shape[:2]
        rows = [mask.as_mask(origin, number, place) for place, mask in enumerate(found)]
        source = os.path.relpath(path, output)
        stem = folder.fresh_stem(path.stem, (".json", ".png") if pictures else (".json",), source)
        with folder.writing(f"{stem}.json", source) as fresh:
            write_sa1b(fresh, number, name, height, width, rows)
        if pictures:
            overlay = draw_masks(pixels, [mask.rle for mask in found], max_side=1600)
            folder.write(f"{stem}.png", write_png(overlay), source)
        note = FLAT if is_flat(pixels) else None
        yield AmgResult(str(path), len(found), seconds, note=note)


def _origin(generator: MaskGenerator) -> Provenance:
    from engine.core.records import Provenance, Source, Stage

    return Provenance(
        dataset=NO_RUN,
        stage=Stage.FULLY_AUTOMATIC,
        run_id=NO_RUN,
        model=generator.segmenter.version,
        source=Source.AUTOMATIC,
    )
