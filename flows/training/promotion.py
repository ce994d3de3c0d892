"""Whether a retrained version replaces the current one, and the record of that on its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engine.evaluation.bootstrap import paired_gain
from flows.training.scores import HeldOut

COMPARED = ("miou_1_click", "miou_3_clicks", "miou_box")
"""Held-out scores whose mean decides about promotion."""

MARK = " | "
"""Between what the comparison says and the rest of a card's note."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromotionRecord:
    """What a version's card says of its comparison with the version that was current."""

    against: str | None = None
    """Version it was compared with; None before the comparison."""
    promoted: bool = False
    reason: str = ""
    note: str = ""
    """What the training says, without the comparison."""

    def to_card(self) -> dict[str, Any]:
        """The entries of the card: the record, and the note that people read."""
        note = f"Against {self.against}: {self.reason}.{MARK}{self.note}"
        return {"promotion": asdict(self), "note": note}

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> PromotionRecord:
        """The record on a card. Cards that were written before it existed have the note only."""
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
    """What a retrain ends with."""

    version: str
    """The version that was trained."""
    model: str
    """The current version after it."""
    promoted: bool
    reason: str
    before: Mapping[str, Any]
    """Held-out scores of the version that was current."""
    after: Mapping[str, Any]
    """Held-out scores of `version`."""

    def to_json(self) -> dict[str, Any]:
        """The stored form."""
        return asdict(self)


BETTER = "better: "
"""How the reason of a promotion begins."""


def verdict(
    before: HeldOut, after: HeldOut, *, min_gain: float, confidence: float
) -> tuple[bool, str]:
    """Whether the candidate replaces the current model, and why.

    Args:
        before: the current model's scores. after: the candidate's, of the same masks.
        min_gain: what the gain in mean IoU must be above.
        confidence: of the gain's two-sided interval, whose lower end must be above `min_gain`; 0:
            the gain itself must be.
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
        surely = gain.mean
    elif gain.low is None:
        return False, f"one held-out image is too few to tell: {text}, gain {gain.mean:+.3f}"
    else:
        sure = f"{100 * confidence:g} %: {gain.low:+.3f} to {gain.high:+.3f}"
        text += f", gain {gain.mean:+.3f} ({sure})"
        surely = gain.low
    if surely > min_gain:
        return True, f"{BETTER}{text}"
    doubt = "" if gain.mean <= min_gain else " beyond doubt"
    return False, f"not better by more than {min_gain:g}{doubt}: {text}"
