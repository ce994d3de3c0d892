"""Which images of a release are to train on, to validate with and to test with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.core.errors import DataEngineError
from flows.workspace.workspace import Workspace
from storage import layout
from storage.catalog import Release, ReleaseState, Split

TRAIN, VAL, TEST = SPLITS = ("train", "val", "test")
SPLITS_FILE = "splits.parquet"
"""Beside a release's other files, once it was split."""
_PLAN = b"dataengine.splits"


class SplitsError(DataEngineError):
    """The shares are no shares, or the release is split already, in another way."""


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """How to split: the shares of TRAIN, VAL and TEST, and what stays together. Near-duplicates
    always do.

    Raises:
        SplitsError: the shares are not three numbers from 0 that sum to 1.
    """

    shares: tuple[float, ...]
    by: Literal["image", "folder"] = "image"

    def __post_init__(self) -> None:
        fine = len(self.shares) == len(SPLITS) and all(0 <= share <= 1 for share in self.shares)
        if not fine or abs(sum(self.shares) - 1) > 1e-6:
            given = ",".join(f"{share:g}" for share in self.shares)
            raise SplitsError(
                f"splits are {given}, expected shares of {', '.join(SPLITS)} that sum to 1, "
                "such as 0.8,0.1,0.1"
            )

    def __str__(self) -> str:
        return f"{','.join(f'{share:g}' for share in self.shares)} by {self.by}"

    @classmethod
    def parse(cls, text: str, by: Literal["image", "folder"] = "image") -> SplitPlan:
        """The plan of `0.8,0.1,0.1`."""
        try:
            return cls(tuple(float(part) for part in text.split(",")), by)
        except ValueError as error:
            raise SplitsError(f"splits are {text!r}, expected shares like 0.8,0.1,0.1") from error


def held_out_splits(images: pa.Table) -> np.ndarray:
    """VAL for the images that are held out in the catalog, TRAIN for the others; str (I,)."""
    held = np.array([split == Split.HELD_OUT for split in images.column("split").to_pylist()], bool)
    return np.where(held, VAL, TRAIN)


def planned_splits(images: pa.Table, plan: SplitPlan) -> np.ndarray:
    """The split of each image, str (I,): by hashes, so that an image keeps its split when others
    are added. Images that are held out in the catalog are not in TRAIN.

    Args:
        images: a release's images, with `near_image_id` if known.
        plan: how to split.
    """
    ids = images.column("image_id").to_pylist()
    hashes = dict(zip(ids, images.column("sha256").to_pylist(), strict=True))
    known = "near_image_id" in images.column_names
    first = dict(
        zip(ids, images.column("near_image_id").to_pylist() if known else ids, strict=True)
    )
    names = images.column("file_name").to_pylist()
    held_out = held_out_splits(images) == VAL
    found = []
    for image_id, name, is_held_out in zip(ids, names, held_out, strict=True):
        if plan.by == "folder":
            digest = hashlib.sha256(str(PurePosixPath(name).parent).encode()).hexdigest()
        else:
            digest = hashes[_root(image_id, first)]
        found.append(_split_of(digest, plan.shares, is_held_out))
    return np.array(found, dtype="U5")


def kept_splits(
    workspace: Workspace, begun: Release, images: pa.Table, plan: SplitPlan | None
) -> np.ndarray | None:
    """The split of each image as the release was split first; None if it never was, and there is
    no plan. With a plan, a finished release without splits is split now, for good.

    Raises:
        SplitsError: the release was split by another plan.
        StorageError: the store fails.
    """
    key = layout.inside(begun.key, SPLITS_FILE)
    if begun.state != ReleaseState.DONE or not workspace.objects.exists(key):
        if plan is None:
            return None
        found = planned_splits(images, plan)
        if begun.state == ReleaseState.DONE:
            workspace.objects.put(key, _written(images, found, plan))
        return found
    table = pq.read_table(pa.BufferReader(workspace.objects.get(key)))
    values: dict[str, Any] = json.loads(table.schema.metadata[_PLAN])
    before = SplitPlan(tuple(values["shares"]), values["by"])
    if plan is not None and plan != before:
        raise SplitsError(
            f"release {begun.name!r} is split {before} already, and a release's splits are kept: "
            "give the same ones, or make another release"
        )
    split_of = dict(
        zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True)
    )
    return np.array([split_of[image_id] for image_id in images.column("image_id").to_pylist()])


def _written(images: pa.Table, found: np.ndarray, plan: SplitPlan) -> bytes:
    table = pa.table({"image_id": images.column("image_id"), "split": pa.array(found.tolist())})
    described = json.dumps({"shares": plan.shares, "by": plan.by}).encode()
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({_PLAN: described}), sink, compression="zstd")
    return bytes(sink.getvalue())


def _root(image_id: int, first: dict[int, int | None]) -> int:
    """The image that this one repeats, over others, within the release."""
    seen = {image_id}
    while (near := first.get(image_id)) is not None and near in first and near not in seen:
        seen.add(near)
        image_id = near
    return image_id


def _split_of(digest: str, shares: tuple[float, ...], is_held_out: bool) -> str:
    place = int(digest[:8], 16) / 0x1_0000_0000
    if place < shares[2]:
        return TEST
    if place < shares[2] + shares[1]:
        return VAL
    if is_held_out and max(shares[1:]) > 0:
        return VAL if shares[1] > 0 else TEST
    return TRAIN
