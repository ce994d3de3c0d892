"""Decides whether a retrained version replaces the current one; records it on the card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engine.evaluation.bootstrap import paired_gain
from flows.training.scores import HeldOut

COMPARED = ("miou_1_click", "miou_3_clicks", "miou_box")
"""Held-out scores whose mean decides on promotion."""

MARK = " | "
"""Separates the comparison from the rest of a card's note."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromotionRecord:
    """A version's comparison with the then current version, as its card stores it."""

    against: str | None = None
    """The current version at the comparison; None before."""
    promoted: bool = False
    reason: str = ""
    note: str = ""
    """Note of the training, without the comparison."""

    def to_card(self) -> dict[str, Any]:
        """Return the entries of the card: the record, and the note for users."""
        note = f"Against {self.against}: {self.reason}.{MARK}{self.note}"
        return {"promotion": asdict(self), "note": note}

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> PromotionRecord:
        """Return the record on a card; it is parsed from the note on cards of older code."""
        if "promotion" in card:
            return cls(**card["promotion"])
        comparison, mark, note = str(card.get("note", "")).rpartition(MARK)
        if not mark:
            return cls(note=note)
        against, _, reason = comparison.removeprefix("Against ").partition(": ")
        promoted = reason.startswith(BETTER)
        return cls(against=against, promoted=promoted, reason=reason.removesuffix("."), note=note)


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrainResult:
    """Result of a retrain."""

    version: str
    """The trained version."""
    model: str
    """The current version after the retrain."""
    promoted: bool
    reason: str
    before: Mapping[str, Any]
    """Held-out scores of the current version before the retrain."""
    after: Mapping[str, Any]
    """Held-out scores of `version`."""

    def to_json(self) -> dict[str, Any]:
        """The stored form."""
        return asdict(self)


BETTER = "better: "
"""First word of the reason of a promotion."""


def verdict(
    before: HeldOut, after: HeldOut, *, min_gain: float, confidence: float
) -> tuple[bool, str]:
    """Return whether the candidate replaces the current model, and why.

    Args:
        before: the current model's scores. after: the candidate's, on the same masks.
        min_gain: minimum gain in mean IoU, exclusive.
        confidence: level of the gain's two-sided interval, whose lower end must exceed `min_gain`;
            0: the gain itself must exceed it.
    """
    if not after.scores.get("masks"):
        return False, "no held-out image with known masks to compare on"
    old, new = (np.mean([held.scores[name] for name in COMPARED]) for held in (before, after))
    text = f"mean held-out IoU {new:.3f} against {old:.3f}"
    if "set" in after.scores:
        text += f" on {after.scores['set']}"
    gain = paired_gain(before.by_image, after.by_image, COMPARED, confidence)
    if confidence == 0:
        text += f", gain {gain.mean:+.3f}"
        bound = gain.mean
    elif gain.low is None:
        return False, f"one held-out image is too few to compare on: {text}, gain {gain.mean:+.3f}"
    else:
        interval = f"{100 * confidence:g} %: {gain.low:+.3f} to {gain.high:+.3f}"
        text += f", gain {gain.mean:+.3f} ({interval})"
        bound = gain.low
    if bound > min_gain:
        return True, f"{BETTER}{text}"
    note = "" if gain.mean <= min_gain else " (not statistically significant)"
    return False, f"not better by more than {min_gain:g}{note}: {text}"
