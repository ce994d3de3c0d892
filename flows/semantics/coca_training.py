"""Trains a CoCa on a user's pairs of images and captions, into a folder for `coca:FOLDER`."""

from __future__ import annotations

import csv
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from engine.core.errors import DataEngineError
from flows.workspace import progress
from storage.formats.images import BadImageError, read_image

if TYPE_CHECKING:
    from engine.semantics.contrastive import Pair

MOST_PAIRS = 1_000_000
LARGEST_LIST = 500_000_000
"""Of the file of pairs, in bytes."""


class CocaPairsError(DataEngineError):
    """The pairs cannot be used; the message names file and line, and says what is wrong."""


def train_coca(
    pairs: Path,
    out: Path,
    *,
    base: str | None,
    steps: int,
    batch: int,
    learning_rate: float | None,
    max_pixels: int,
    device: str,
) -> dict[str, Any]:
    """Train a CoCa with the contrastive and the captioning loss together.

    Args:
        pairs: CSV without a header: path of an image, beside the file or absolute, and a caption.
        out: new folder for the model.
        base: `coca:NAME` to start from; None: a small one with random weights.
        steps, batch: of the training.
        learning_rate: its peak; None: 2e-3 for random weights, else 1e-5.
        max_pixels: of an image.
        device: torch device.

    Returns:
        `model`, as `--model` takes it, `pairs`, `skipped` images that cannot be read, with why,
        and `seconds`.

    Raises:
        CocaPairsError: the file is malformed, or `out` exists.
        EncoderError: there is no such base.
        ContrastiveError: two pairs with two texts are not there, or the loss is not finite.
    """
    from engine.semantics.clip import ClipEncoder, save_clip
    from engine.semantics.coca import CAPTION_WEIGHT, fresh_coca, load_coca
    from engine.semantics.contrastive import TowersConfig, train_towers

    if out.exists():
        raise CocaPairsError(f"{out} exists; name a new folder")
    if base is None:
        fresh = fresh_coca()
        encoder = ClipEncoder(fresh.name, fresh.model, fresh.tokenizer, fresh.config, device)
    else:
        encoder = load_coca(base, device=device).encoder
    rate = learning_rate or (2e-3 if base is None else 1e-5)
    found, skipped = _read_pairs(pairs, encoder.side, max_pixels)
    config = TowersConfig(steps=steps, batch=batch, learning_rate=rate)
    began = time.monotonic()
    with progress.current().track("train", steps, "step") as advance:
        trained = train_towers(
            encoder,
            found,
            config,
            lambda step, loss: advance(1, f"loss {loss:.3f}"),
            caption_weight=CAPTION_WEIGHT,
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".dataengine-") as temporary:
        save_clip(trained.model, trained.config, Path(temporary) / "model")
        shutil.move(Path(temporary) / "model", out)
    return {
        "model": f"coca:{out}",
        "pairs": len(found),
        "skipped": skipped,
        "config": asdict(config),
        "seconds": round(time.monotonic() - began, 1),
    }


def _read_pairs(path: Path, side: int, max_pixels: int) -> tuple[list[Pair], dict[str, str]]:
    """Return the pairs, their images as squares of `side` pixels, and by path why the others cannot
    be read."""
    from engine.semantics.contrastive import Pair

    found: list[Pair] = []
    skipped: dict[str, str] = {}
    rows = _rows_of(path)
    with progress.current().track("read pairs", len(rows), "image") as advance:
        for image, caption in rows:
            try:
                pixels = read_image(image.read_bytes(), max_pixels=max_pixels)
                square = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
                found.append(Pair(np.asarray(square), (caption,)))
            except (BadImageError, OSError) as error:
                skipped[str(image)] = str(error)
            advance()
    return found, skipped


def _rows_of(path: Path) -> list[tuple[Path, str]]:
    if not path.is_file() or path.stat().st_size > LARGEST_LIST:
        raise CocaPairsError(f"{path} is no file of at most {LARGEST_LIST:,} bytes")
    found: list[tuple[Path, str]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if not row:
                    continue
                if len(row) != 2 or not all(map(str.strip, row)):
                    raise CocaPairsError(
                        f"{path}, line {number}: expected the path of an image and a caption, got "
                        f"{len(row)} columns"
                    )
                if len(found) == MOST_PAIRS:
                    raise CocaPairsError(f"{path}, line {number}: more than {MOST_PAIRS:,} pairs")
                found.append((path.parent / row[0].strip(), " ".join(row[1].split())))
    except (UnicodeDecodeError, csv.Error) as error:
        raise CocaPairsError(f"{path} is not a CSV file in UTF-8: {error}") from error
    return found
