"""Packs folders of annotated photographs into one file for training the base model.

    python -m flows.cli.pack_photos photos/a photos/b --out photos.npz
    python -m flows.cli.pack_photos photos/a --out photos.npz --model lite    # seconds per image

Each folder holds `images/` and `instances.json`, read as `ingest` and `evaluate` read them
(docs/inputs.md): what is not used is counted and listed. With a model, its confident
automatic masks that fit the annotated ones are packed too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from engine.automatic import MaskGenerator, preset
from engine.core.rle import decode
from engine.sam import load_segmenter
from engine.sam.checkpoint import CheckpointError
from engine.training.pack import Propose, pack
from engine.training.photo_pool import set_names
from engine.training.samples import Example
from flows.cli.tables import print_left_out
from flows.data.inputs import Input, scan_folder
from flows.training.scores import LeftOut, annotated
from flows.workspace import progress
from flows.workspace.console import console
from storage.formats.coco import BadAnnotationsError

Sets = dict[str, Input]

PROPOSALS: dict[str, Any] = {
    "points_per_side": 20,
    "crop_layers": 0,
    "min_predicted_iou": 0.45,
    "min_stability": 0.85,
    "min_area": 60,
}
"""Changes of the preset `fast` for proposals: fewer, and more confident ones."""

LARGEST_PROPOSAL = 0.5
"""Proposals above this share of the image are dropped."""


def read_folders(folders: Sequence[Path]) -> Sets:
    """The contents of each folder, by the folder's name; no image is opened.

    Raises:
        ValueError: two folders have the same name.
        OSError, BadAnnotationsError: a folder or its annotations cannot be read.
    """
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise ValueError(f"each folder needs a name of its own, got {', '.join(names)}")
    return {
        name: scan_folder(folder / "images", folder / "instances.json")
        for name, folder in zip(names, folders, strict=True)
    }


@dataclass(frozen=True, slots=True)
class Proposer:
    """Makes a function that finds confident automatic masks with a model (`lite` or a file)."""

    model: str

    def __call__(self) -> Propose:
        """Load the model, and return the function."""
        generator = MaskGenerator(load_segmenter(self.model), preset("fast", **PROPOSALS))

        def propose(image_HWC: np.ndarray) -> list[np.ndarray]:
            masks = [decode(mask.rle) for mask in generator.generate(image_HWC)]
            return [mask for mask in masks if mask.mean() < LARGEST_PROPOSAL]

        return propose


def pack_folders(
    sets: Sets, out: Path, *, workers: int = 2, model: str | None = None
) -> dict[str, LeftOut]:
    """Write the file, with proposals of a model if one is given; returns what was left out of each
    set.

    Raises:
        ValueError: no image is left.
        OSError: the file cannot be written.
    """
    left_out = {name: LeftOut(found.passed_over) for name, found in sets.items()}

    def examples(name: str, found: Input, advance: progress.Advance) -> Iterator[Example]:
        pairs = list(zip(found.files, found.names, strict=True))
        for pixels, rles in annotated(pairs, found.truth, left_out[name], advance):
            yield Example(pixels, rles, name)
        left_out[name].add_folder_problems(found)

    total = sum(len(found.files) for found in sets.values())
    with progress.current().track("pack", total, "image") as advance:
        chosen = {name: examples(name, found, advance) for name, found in sets.items()}
        pack(chosen, out, workers=workers, make_propose=Proposer(model) if model else None)
    return left_out


def _sets_in(path: Path) -> list[str] | None:
    """Names of the sets in a packed file; None if it is another kind of file."""
    try:
        return set_names(path)
    except (ValueError, KeyError, BadZipFile):
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack; returns 2 after a message if something cannot be read or the file is in the way."""
    parser = argparse.ArgumentParser(prog="python -m flows.cli.pack_photos", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes")
    parser.add_argument("--model", help="adds automatic masks of `lite` or of a checkpoint file")
    given = parser.parse_args(arguments)
    progress.use(progress.on(console))
    try:
        sets = read_folders(given.folders)
        if given.out.exists():
            if _sets_in(given.out) == list(sets):
                told = "already holds these sets; delete it to pack them again, or with --model"
                print(f"{given.out} {told}")
                return 0
            raise ValueError(f"{given.out} holds something else: delete it, or choose another name")
        if given.model:
            load_segmenter(given.model)  # a bad file is named here, not in the processes
        left_out = pack_folders(sets, given.out, workers=given.workers, model=given.model)
    except (BadAnnotationsError, CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for found in left_out.values():
        print_left_out(found.passed_over.rows(), found.problems)
    return 0


if __name__ == "__main__":
    sys.exit(main())
