"""What a suggester can be learned from."""

from __future__ import annotations

from enum import StrEnum


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
