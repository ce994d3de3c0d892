"""Configuration of the automatic mask generator: prompts, filters, and named presets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from engine.sam.checkpoint import Thresholds

LARGE_INPUT = 1024
"""Side of SAM's input in pixels. A model with a smaller input finds small objects in crops."""

SAM_OVERLAP = 512 / 1500
"""Overlap of neighbouring crops of segment_anything, of an image's short side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """Prompts and filters of a generator (SAM paper, appendix B, and segment_anything's
    `SamAutomaticMaskGenerator`)."""

    points_per_side: int = 32
    """Points of the grid along each side of the image."""

    points_per_batch: int | None = None
    """Points decoded as one batch: trades memory for speed and does not change the masks; None
    chooses by the device."""

    min_predicted_iou: float | None = None
    """Masks with a predicted IoU at or below this, [0, 1], are dropped; None: the model card's
    value. SAM-H: 0.88."""

    min_stability: float | None = None
    """Masks with a stability below this, [0, 1], are dropped; None: the model card's value. SAM-H:
    0.95."""

    stability_offset: float = 1.0
    """Stability is the IoU of the masks thresholded at + and - this logit."""

    max_box_iou: float = 0.7
    """NMS within a crop drops the lower score of two masks whose boxes have a higher IoU."""

    crop_layers: int | None = None
    """Layers of crops in addition to the whole image: layer i has 2^i x 2^i crops. None chooses by
    the model: 1 if the side of its input is below LARGE_INPUT, else 0."""

    crop_overlap: float = SAM_OVERLAP
    """Overlap of neighbouring crops of the first layer as a share of the image's short side; each
    further layer halves it."""

    crop_points_divisor: int = 2
    """Points along a side of a crop of layer i: `points_per_side` / this^i."""

    max_crop_box_iou: float = 1.0
    """`max_box_iou` between masks of different crops: the mask of the smaller crop is kept,
    whatever its score; 1 keeps both, for `max_mask_iou` to choose by score."""

    max_area: float = 0.95
    """Masks that cover more than this share of the image are dropped."""

    min_area: int = 16
    """Masks of fewer pixels are dropped."""

    min_region: int = 0
    """Components and holes of fewer pixels are removed; 0 keeps all."""

    min_piece: float = 0.1
    """Components below this share of a mask's largest component are removed; 0 keeps all."""

    min_hole: float = 0.01
    """Holes of at most this share of a mask's area are filled; 0 keeps all."""

    min_whole: float = 0.5
    """Masks whose largest component is below this share of their area are dropped, such as dots of
    a texture; 0 keeps all."""

    average_iou: float = 0.5
    """Logits of a kept mask are averaged with those of its crop's candidates of at least this mask
    IoU with it; 1 averages nothing."""

    max_mask_iou: float = 0.7
    """Of two masks with a higher mask IoU, the one with the lower mean of predicted IoU and
    stability is dropped; 1 keeps both."""

    max_inside: float = 0.9
    """A mask is dropped as a fragment if more than this share of it lies inside a larger mask whose
    mean of predicted IoU and stability is at least as high; 1 keeps all. A mask with a higher mean
    is kept as a part."""

    as_library: bool = False
    """Follow segment_anything where it differs from the paper: NMS compares boxes that end at their
    last pixel, one pixel earlier; a mask of small components keeps its largest instead of being
    dropped; after the removal of small regions, changed masks rank behind unchanged ones, whatever
    their predicted IoU."""

    half: bool = False
    """Decode in bfloat16 on processors that support it, and again in float32 where this could
    change the result. It is faster; outlines and scores differ slightly. On a GPU, images are
    encoded in bfloat16 too."""

    compile: bool = False
    """Compile the image encoder, with CUDA graphs on a GPU: for long runs of large models."""

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
            "average_iou",
            "max_mask_iou",
            "max_inside",
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")
        if not 0 <= self.crop_overlap < 1:
            raise ValueError(f"crop_overlap must lie in [0, 1), got {self.crop_overlap}")
        for name in ("crop_layers", "min_area", "min_region"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")

    def with_thresholds(self, thresholds: Thresholds) -> tuple[float, float]:
        """Return (min_predicted_iou, min_stability), with the card's values in place of None."""
        predicted, stable = self.min_predicted_iou, self.min_stability
        return (
            thresholds.min_predicted_iou if predicted is None else predicted,
            thresholds.min_stability if stable is None else stable,
        )

    def layers_of_crops(self, side: int) -> int:
        """Return `crop_layers`, with the choice for a model's input of `side` pixels in place of
        None."""
        if self.crop_layers is not None:
            return self.crop_layers
        return 1 if side < LARGE_INPUT else 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a run's row."""
        return asdict(self)


_AS_PUBLISHED = GeneratorConfig(
    crop_layers=0,
    crop_points_divisor=1,
    max_crop_box_iou=0.7,
    min_area=0,
    min_piece=0.0,
    min_hole=0.0,
    min_whole=0.0,
    average_iou=1.0,
    max_mask_iou=1.0,
    max_inside=1.0,
)

PRESETS = {
    "default": GeneratorConfig(),
    "reference": replace(_AS_PUBLISHED, max_area=1.0, as_library=True),
    "sa1b": replace(_AS_PUBLISHED, crop_layers=2, crop_points_divisor=2, min_region=100),
    "fast": GeneratorConfig(half=True),
    "proposals": replace(
        _AS_PUBLISHED,
        points_per_side=64,
        crop_layers=None,
        crop_points_divisor=2,
        min_predicted_iou=0.0,
        min_stability=0.0,
        max_box_iou=0.9,
        max_crop_box_iou=0.9,
        half=True,
    ),
}
"""`default`: a grid over the image, and over 2 x 2 crops for a model with a small input; similar
candidates are averaged; duplicates, fragments, specks and masks of the whole image are removed.
`reference`: the defaults of segment_anything's generator. `sa1b`: the settings of SA-1B (SAM paper,
appendix B). `fast`: `default` in bfloat16. These take score thresholds from the model's card.
`proposals`: hundreds of masks an image for AR@1000, as the paper's object proposals (D.3): a dense
grid, no score thresholds, NMS at .9; a model with a small input sees 2 x 2 crops too."""


def preset(name: str, **changes: Any) -> GeneratorConfig:
    """Return a preset with some fields changed.

    Raises:
        ValueError: the preset is unknown, or a value is out of range.
        TypeError: a field is unknown.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; expected one of {', '.join(PRESETS)}")
    return replace(PRESETS[name], **changes)
