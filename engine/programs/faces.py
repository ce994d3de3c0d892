"""Faces that look at the camera, by scikit-image's cascade of local binary patterns.

OpenCV 5 has no cascades; scikit-image reads OpenCV's file of one and ships it.
"""

from __future__ import annotations

import numpy as np

from engine.core.overlay import shrink

MAX_SIDE = 640
"""Of the picture that is searched, in pixels."""
SMALLEST = 30
"""Side of the smallest face in it."""


def find_faces(image_HWC: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Return the boxes of faces in an RGB uint8 picture (H, W, 3), from left to right."""
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    small = shrink(image_HWC, MAX_SIDE)
    height, width = small.shape[:2]
    if min(height, width) <= SMALLEST:
        return []
    side = min(height, width)
    cascade: str = lbp_frontal_face_cascade_filename()  # type: ignore[no-untyped-call]
    found = Cascade(cascade).detect_multi_scale(
        img=small,
        scale_factor=1.2,
        step_ratio=1,
        min_size=(SMALLEST, SMALLEST),
        max_size=(side, side),
    )
    scale = image_HWC.shape[1] / width
    boxes = [
        (face["c"], face["r"], face["c"] + face["width"], face["r"] + face["height"])
        for face in found
    ]
    return sorted(tuple(round(value * scale) for value in box) for box in boxes)
