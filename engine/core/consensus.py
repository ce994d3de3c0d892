"""How far several people agree on the masks of one image, and one set of masks from theirs.

Masks of different people belong together if their IoU is at least MATCH_IOU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from engine.core.metrics import match
from engine.core.rle import RLE, box_xyxy, decode, from_window, iou_matrix

MATCH_IOU = 0.5

Member = tuple[int, int]
"""A mask: index of its person, and its index among that person's masks."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Means over all pairs of people, in [0, 1]."""

    f1: float
    """Harmonic mean of the shares of both people's masks that match one of the other's; 1 if
    neither has a mask."""
    iou: float
    """IoU of the masks that match, 1 if there are none."""

    @property
    def score(self) -> float:
        """The lower of both: people must find the same objects, and outline them alike."""
        return min(self.f1, self.iou)


@dataclass(frozen=True, slots=True)
class Merged:
    """A mask that people share, and whose masks it is made of."""

    rle: RLE
    members: tuple[Member, ...]


def agreement(people: Sequence[Sequence[RLE]]) -> Agreement:
    """Return how far two or more people agree on an image.

    Args:
        people: each person's masks, all of one size.
    """
    f1s, ious = [], list[float]()
    for left, right in combinations(people, 2):
        overlap = iou_matrix(list(left), list(right))
        pairs = match(overlap, MATCH_IOU)
        ious += [float(overlap[pair]) for pair in pairs]
        total = len(left) + len(right)
        f1s.append(2 * len(pairs) / total if total else 1.0)
    return Agreement(f1=float(np.mean(f1s)), iou=float(np.mean(ious)) if ious else 1.0)


def merge(people: Sequence[Sequence[RLE]], quorum: int) -> list[Merged]:
    """Return one mask for each object that at least `quorum` people have masked.

    A pixel is set if more than half of the masks of the object have it: of two masks, what both
    have.

    Args:
        people: each person's masks, all of one size.
    """
    found = []
    for members in _groups(people):
        if len(members) < quorum:
            continue
        rle = _majority([people[person][index] for person, index in members])
        if rle is not None:
            found.append(Merged(rle, members))
    return found


def _groups(people: Sequence[Sequence[RLE]]) -> list[tuple[Member, ...]]:
    """Group the masks, at most one of each person; pairs with the highest IoU are joined first."""
    edges: list[tuple[float, Member, Member]] = []
    for (p, left), (q, right) in combinations(enumerate(people), 2):
        overlap = iou_matrix(list(left), list(right))
        rows, columns = np.nonzero(overlap >= MATCH_IOU)
        edges += [
            (-float(overlap[i, j]), (p, int(i)), (q, int(j)))
            for i, j in zip(rows, columns, strict=True)
        ]
    group_of: dict[Member, list[Member]] = {
        (p, i): [(p, i)] for p, masks in enumerate(people) for i in range(len(masks))
    }
    for _, left_mask, right_mask in sorted(edges):
        one, other = group_of[left_mask], group_of[right_mask]
        if one is other or {p for p, _ in one} & {p for p, _ in other}:
            continue
        one += other
        for member in other:
            group_of[member] = one
    unique = {id(group): tuple(sorted(group)) for group in group_of.values()}
    return sorted(unique.values())


def _majority(masks: Sequence[RLE]) -> RLE | None:
    """The pixels that more than half of the masks have; None if there are none."""
    boxes = np.array([box_xyxy(mask) for mask in masks])
    x0, y0 = boxes[:, :2].min(axis=0)
    x1, y1 = boxes[:, 2:].max(axis=0)
    votes_HW = np.zeros((y1 - y0, x1 - x0), np.uint16)
    for mask in masks:
        votes_HW += decode(mask)[y0:y1, x0:x1]
    shared_HW = votes_HW > len(masks) / 2
    if not shared_HW.any():
        return None
    return from_window(shared_HW, int(x0), int(y0), masks[0].size)
