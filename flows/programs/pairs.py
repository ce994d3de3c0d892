"""Images of a dataset by their file names, one by one or in a file of pairs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from flows.programs.running import MOST_PAIRS, RunError
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset, Image

LARGEST = 50_000_000
"""Of a file, in bytes."""


def images_named(workspace: Workspace, dataset: Dataset, names: Sequence[str]) -> list[Image]:
    """Return images by their file names.

    Raises:
        RunError: the dataset has no image of a name.
    """
    found = []
    for name in names:
        image = workspace.catalog.images.find_by_name(dataset.id, name)
        if image is None:
            raise RunError(f"dataset {dataset.name!r} has no image {name!r}")
        found.append(image)
    return found


def read_pairs(workspace: Workspace, dataset: Dataset, path: Path) -> tuple[tuple[int, int], ...]:
    """Read a CSV file without a header: two file names a line, LEFT and RIGHT.

    Raises:
        RunError: a line has no two names, or an image is not there; the message names the line.
    """
    if path.stat().st_size > LARGEST:
        raise RunError(f"{path} has more than {LARGEST:,} bytes")
    pairs: list[tuple[int, int]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if not row:
                    continue
                if len(row) != 2 or len(pairs) == MOST_PAIRS:
                    what = f"{len(row)} columns, expected two file names"
                    if len(row) == 2:
                        what = f"more than {MOST_PAIRS:,} pairs"
                    raise RunError(f"{path}, line {number}: {what}")
                try:
                    left, right = images_named(workspace, dataset, [one.strip() for one in row])
                except RunError as error:
                    raise RunError(f"{path}, line {number}: {error}") from error
                pairs.append((left.id, right.id))
    except (UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"{path} is not a CSV file in UTF-8: {error}") from error
    if not pairs:
        raise RunError(f"{path} has no pairs")
    return tuple(pairs)
