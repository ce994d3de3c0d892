"""What a suggester can be learned from."""

from __future__ import annotations

from enum import StrEnum

PUBLISHED_CLIP = "clip:ViT-B-32/laion2b_s34b_b79k"
"""The CLIP of commands that need one, unless another is named."""


class LearnFrom(StrEnum):
    """What suggestions are learned from."""

    LABELS = "labels"
    """Labels that people gave."""
    TEXTS = "texts"
    """Names and descriptions of the categories, by a CLIP."""
    BEST = "best"
    """Whichever of both has the lower log loss on people's labels."""
    TRAINED = "trained"
    """Texts, by the CLIP that `labels train` trained on people's labels."""
