"""What the automatic mask generator asks and what it keeps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from engine.sam.checkpoint import Thresholds


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """How densely to prompt and which masks to keep (SAM paper, appendix B)."""

    points_per_side: int = 32
    """Points of the grid along each side of the image."""

    points_per_batch: int = 128
    """Points decoded at once: memory against speed, no effect on the masks."""

    min_predicted_iou: float | None = None
    """Keep masks whose predicted IoU, [0, 1], is above this; None: the model card's value. SAM-H:
    0.88."""

    min_stability: float | None = None
    """Keep masks whose stability, [0, 1], is at least this; None: the model card's. SAM-H: 0.95."""

    stability_offset: float = 1.0
    """Stability is the IoU of the masks cut at logits of +- this."""

    max_box_iou: float = 0.7
    """Of two masks whose boxes overlap by more than this IoU only the better one stays."""

    max_area: float = 0.95
    """Masks that cover more than this share of the image are dropped."""

    min_area: int = 16
    """Masks of fewer pixels are dropped."""

    def __post_init__(self) -> None:
        if self.points_per_side < 1 or self.points_per_batch < 1:
            raise ValueError("points_per_side and points_per_batch must be at least 1")
        for name in ("min_predicted_iou", "min_stability", "max_box_iou", "max_area"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")

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
