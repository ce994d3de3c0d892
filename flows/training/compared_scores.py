"""Scores of model versions and the sets they were made on: only those of one set are compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from storage.catalog import Model, ModelState

SCENES = "generated scenes"
"""The set that the shipped model was scored on when it was made."""

UNNAMED = "held-out images"
"""The set of versions whose card does not say which it was; older code made them."""

FIGURES = ("miou_1_click", "miou_3_clicks", "miou_box")


def sets_of(card: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A version's scores by the name of their set, the latest last."""
    scores = card.get("scores", {})
    found: dict[str, dict[str, Any]] = {}
    if "held_out_scenes" in scores:
        found[SCENES] = scores["held_out_scenes"]
    if "held_out" in scores and "sets" not in scores:
        found[UNNAMED] = scores["held_out"]
    return {**found, **scores.get("sets", {})}


def compared_set(models: Sequence[Model]) -> str | None:
    """The set on which versions are compared: of those that the current one was scored on the one
    that most were, the latest of several; generated scenes only where there is none else."""
    names = Counter(name for model in models for name in sets_of(model.card))
    current = [name for m in models if m.state == ModelState.CURRENT for name in sets_of(m.card)]
    choice = list(enumerate(current or names))
    if not choice:
        return None
    return max(choice, key=lambda item: (item[1] != SCENES, names[item[1]], item[0]))[1]


def score_row(model: Model, compared: str | None) -> dict[str, Any]:
    """A version's figures on the set that versions are compared on, None where it was not scored on
    that; `scored_on`, the set, or the one it was scored on last with `other_miou_1_click`."""
    sets = sets_of(model.card)
    on = compared if compared in sets else next(reversed(sets), None)
    figures = sets[on] if on is not None and on == compared else {}
    other = sets[on] if on is not None and on != compared else {}
    return {
        **{name: figures.get(name) for name in FIGURES},
        "scored_on": on,
        "other_miou_1_click": other.get("miou_1_click"),
    }
