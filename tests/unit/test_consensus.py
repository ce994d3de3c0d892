"""Agreement of people on masks, and the masks that they share."""

from __future__ import annotations

import numpy as np
import pytest

from engine.core.consensus import Agreement, agreement, merge
from engine.core.rle import RLE, decode, encode


def box(x: int, y: int, side: int = 10) -> RLE:
    mask = np.zeros((40, 60), bool)
    mask[y : y + side, x : x + side] = True
    return encode(mask)


def test_people_who_find_the_same_objects_and_outline_them_alike_agree() -> None:
    assert agreement([[box(0, 0)], [box(0, 0)], [box(0, 0)]]) == Agreement(f1=1.0, iou=1.0)
    assert agreement([[], []]).score == 1.0
    assert agreement([[], [box(0, 0)]]).f1 == 0.0
    two_of_three = agreement([[box(0, 0), box(30, 0)], [box(0, 0)]])
    assert two_of_three.f1 == pytest.approx(2 / 3)
    assert two_of_three.iou == 1.0
    shifted = agreement([[box(0, 0)], [box(2, 0)]])
    assert shifted.f1 == 1.0
    assert shifted.iou == pytest.approx(80 / 120)
    assert shifted.score == shifted.iou


def test_a_pixel_is_set_if_more_than_half_of_the_people_who_see_the_object_have_it() -> None:
    (merged,) = merge([[box(0, 0)], [box(2, 0)], [box(1, 0)]], quorum=2)
    assert decode(merged.rle)[:10, 1:11].all()
    assert decode(merged.rle).sum() == 100
    assert merged.members == ((0, 0), (1, 0), (2, 0))
    (both,) = merge([[box(0, 0)], [box(2, 0)]], quorum=2)
    assert decode(both.rle).sum() == 80


def test_an_object_that_too_few_people_see_is_left_out() -> None:
    people = [[box(0, 0), box(30, 20)], [box(30, 20)], [box(30, 21)]]
    (merged,) = merge(people, quorum=2)
    assert merged.members == ((0, 1), (1, 0), (2, 0))
    assert len(merge(people, quorum=1)) == 2
    assert merge([[], []], quorum=1) == []


def test_no_mask_joins_two_objects_of_one_person() -> None:
    people = [[box(0, 0, 12), box(12, 0, 12)], [box(2, 0, 12), box(12, 0, 12)]]
    assert [one.members for one in merge(people, quorum=2)] == [((0, 0), (1, 0)), ((0, 1), (1, 1))]
    order = [people[1][::-1], people[0]]
    areas = sorted(int(decode(one.rle).sum()) for one in merge(order, quorum=2))
    assert areas == sorted(int(decode(one.rle).sum()) for one in merge(people, quorum=2))
