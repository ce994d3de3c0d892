"""Figures of a release's masks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engine.core import rle as rle_codec
from storage.release_stats import concavity


def hull_area(mask_HW: np.ndarray) -> float:
    """Area of the convex hull of all pixels' corners."""
    y, x = np.nonzero(mask_HW)
    corners = np.concatenate([np.stack([x + dx, y + dy], 1) for dx in (0, 1) for dy in (0, 1)])
    hull = cv2.convexHull(corners.astype(np.float32).reshape(-1, 1, 2))
    return float(cv2.contourArea(hull))


@settings(deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_concavity_is_that_of_the_pixels_hull(mask_HW: np.ndarray) -> None:
    rle = rle_codec.encode(mask_HW)
    if not mask_HW.any():
        with pytest.raises(ValueError, match="empty mask"):
            concavity(rle, 0)
        return
    area = int(mask_HW.sum())
    assert concavity(rle, area) == pytest.approx(1 - area / hull_area(mask_HW), abs=1e-6)


def test_a_box_is_convex_and_a_ring_is_not() -> None:
    mask = np.zeros((40, 50), bool)
    mask[5:35, 10:40] = True
    assert concavity(rle_codec.encode(mask), int(mask.sum())) == pytest.approx(0)
    mask[10:30, 15:35] = False
    ring = int(mask.sum())
    assert concavity(rle_codec.encode(mask), ring) == pytest.approx(1 - ring / 900)
