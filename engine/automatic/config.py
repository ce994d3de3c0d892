"""What the automatic mask generator asks and what it keeps, with named presets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from engine.sam.checkpoint import Thresholds

SAM_OVERLAP = 512 / 1500
"""Overlap of neighbouring crops of segment_anything, of an image's short side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """How densely to prompt and which masks to keep (SAM paper, appendix B, and
    segment_anything's `SamAutomaticMaskGenerator`)."""

    points_per_side: int = 32
    """Points of the grid along each side of the image."""

    points_per_batch: int | None = None
    """Points decoded at once: memory against speed, no effect on the masks; None: what suits the
    device."""

    min_predicted_iou: float | None = None
    """Keep masks whose predicted IoU, [0, 1], is above this; None: the model card's value. SAM-H:
    0.88."""

    min_stability: float | None = None
    """Keep masks whose stability, [0, 1], is at least this; None: the model card's. SAM-H: 0.95."""

    stability_offset: float = 1.0
    """Stability is the IoU of the masks cut at logits of +- this."""

    max_box_iou: float = 0.7
    """Of two masks of a crop whose boxes overlap by more than this IoU only the better one
    stays."""

    crop_layers: int = 0
    """Layers of zoomed crops beside the whole image: layer i has 2^i x 2^i of them."""

    crop_overlap: float = SAM_OVERLAP
    """Overlap of neighbouring crops of the first layer as a share of the image's short side; half
    of it in the second layer, and so on."""

    crop_points_divisor: int = 1
    """Points along a side of a crop of layer i: `points_per_side` / this^i."""

    max_crop_box_iou: float = 0.7
    """The same as `max_box_iou`, between masks of different crops: that of the smaller crop
    stays."""

    max_area: float = 0.95
    """Masks that cover more than this share of the image are dropped."""

    min_area: int = 16
    """Masks of fewer pixels are dropped."""

    min_region: int = 0
    """Pieces and holes of fewer pixels are removed; 0 leaves all."""

    min_piece: float = 0.1
    """Pieces of less than this share of a mask's largest piece are removed; 0 leaves all."""

    min_hole: float = 0.01
    """Holes of at most this share of a mask's area are filled; 0 leaves all."""

    min_whole: float = 0.5
    """Masks whose largest piece is less than this share of them are dropped: dots of a texture. 0
    leaves all."""

    max_mask_iou: float = 0.7
    """Of two masks that overlap by more than this IoU, whatever their boxes, only the one with the
    better mean of predicted IoU and stability stays; 1 leaves both."""

    max_inside: float = 0.9
    """A mask is a fragment, and dropped, where more than this share of it lies inside a larger one
    whose mean of predicted IoU and stability is at least as high; 1 leaves all. A better one is a
    part, and stays."""

    as_library: bool = False
    """Follow segment_anything where it departs from the paper: boxes end at their last pixel in
    NMS, so one pixel earlier; a mask of small pieces only keeps the largest instead of being
    dropped; after the removal of small regions, masks that changed rank behind those that did not,
    whatever their predicted IoU."""

    half: bool = False
    """Decode in bfloat16 where the processor has it, and again exactly where that could change
    what is kept. Fast; outlines and scores differ a little. On a GPU images are encoded in it
    too."""

    compile: bool = False
    """Compile the image encoder first, with CUDA graphs on a GPU: for long runs of large models."""

    def __post_init__(self) -> None:
        for name in ("points_per_side", "points_per_batch", "crop_points_divisor"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in (
            "min_predicted_iou",
            "min_stability",
            "max_box_iou",
            "max_crop_box_iou",
            "max_area",
            "min_piece",
            "min_hole",
            "min_whole",
            "max_mask_iou",
            "max_inside",
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")
        if not 0 <= self.crop_overlap < 1:
            raise ValueError(f"crop_overlap must lie in [0, 1), got {self.crop_overlap}")
        for name in ("crop_layers", "min_area", "min_region"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} cannot be negative, got {getattr(self, name)}")

    def with_thresholds(self, thresholds: Thresholds) -> tuple[float, float]:
        """(min_predicted_iou, min_stability) with what was left open taken from the card."""
        predicted, stable = self.min_predicted_iou, self.min_stability
        return (
            thresholds.min_predicted_iou if predicted is None else predicted,
            thresholds.min_stability if stable is None else stable,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a run's row."""
        return asdict(self)


_AS_PUBLISHED = GeneratorConfig(
    min_area=0, min_piece=0.0, min_hole=0.0, min_whole=0.0, max_mask_iou=1.0, max_inside=1.0
)

PRESETS = {
    "default": GeneratorConfig(),
    "reference": replace(_AS_PUBLISHED, max_area=1.0, as_library=True),
    "sa1b": replace(_AS_PUBLISHED, crop_layers=2, crop_points_divisor=2, min_region=100),
    "fast": GeneratorConfig(half=True),
}
"""`default`: a grid over the image; every object once, in few pieces, without its fragments;
without specks and whole-image masks. `reference`: what
segment_anything's generator does by default. `sa1b`: what SA-1B was made with, by the paper.
`fast`: `default` in bfloat16. Score thresholds come from the model's card in all of them."""


def preset(name: str, **changes: Any) -> GeneratorConfig:
    """A preset, with some of its fields changed.

    Raises:
        ValueError: no such preset, or a value that makes no sense.
        TypeError: no such field.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    return replace(PRESETS[name], **changes)
