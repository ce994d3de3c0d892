"""Packs folders of annotated photographs into one file for training the base model.

    python -m flows.cli.pack_photos photos/a photos/b --out photos.npz

Each folder holds `images/` and `instances.json`, read as `ingest` and `evaluate` read them
(docs/inputs.md): what is not used is counted and listed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from zipfile import BadZipFile

from engine.training.pack import pack
from engine.training.photo_pool import set_names
from engine.training.samples import Example
from flows.cli.tables import print_left_out
from flows.data.inputs import Input, scan_folder
from flows.training.scores import LeftOut, annotated
from flows.workspace import progress
from flows.workspace.console import console
from storage.formats.coco import BadAnnotationsError

Sets = dict[str, Input]


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


def pack_folders(sets: Sets, out: Path, *, workers: int = 2) -> dict[str, LeftOut]:
    """Write the file; returns what was left out of each set.

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
        pack(chosen, out, workers=workers)
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
    given = parser.parse_args(arguments)
    progress.use(progress.on(console))
    try:
        sets = read_folders(given.folders)
        if given.out.exists():
            if _sets_in(given.out) == list(sets):
                print(f"{given.out} already holds these sets; delete it to pack them again")
                return 0
            raise ValueError(f"{given.out} holds something else: delete it, or choose another name")
        left_out = pack_folders(sets, given.out, workers=given.workers)
    except (BadAnnotationsError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for found in left_out.values():
        print_left_out(found.passed_over.rows(), found.problems)
    return 0


if __name__ == "__main__":
    sys.exit(main())
