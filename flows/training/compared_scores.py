"""Scores of model versions by evaluation set; versions are compared on one set only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from storage.catalog import Model, ModelState

SCENES = "generated scenes"
"""The set that the shipped model was evaluated on."""

UNNAMED = "held-out images"
"""The set of versions from older code, whose card does not name it."""

FIGURES = ("miou_1_click", "miou_3_clicks", "miou_box")


def sets_of(card: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a version's scores by set name, the latest last."""
    scores = card.get("scores", {})
    found: dict[str, dict[str, Any]] = {}
    if "held_out_scenes" in scores:
        found[SCENES] = scores["held_out_scenes"]
    if "held_out" in scores and "sets" not in scores:
        found[UNNAMED] = scores["held_out"]
    return {**found, **scores.get("sets", {})}


def compared_set(models: Sequence[Model]) -> str | None:
    """Return the set on which versions are compared: of the sets of the current version the one
    that most versions have, then the latest; generated scenes only if there is no other."""
    names = Counter(name for model in models for name in sets_of(model.card))
    current = [name for m in models if m.state == ModelState.CURRENT for name in sets_of(m.card)]
    choice = list(enumerate(current or names))
    if not choice:
        return None
    return max(choice, key=lambda item: (item[1] != SCENES, names[item[1]], item[0]))[1]


def score_row(model: Model, compared: str | None) -> dict[str, Any]:
    """Return a version's figures on the compared set, None without a score there; `scored_on`
    names that set, or else the version's latest set, whose score is `other_miou_1_click`."""
    sets = sets_of(model.card)
    on = compared if compared in sets else next(reversed(sets), None)
    figures = sets[on] if on is not None and on == compared else {}
    other = sets[on] if on is not None and on != compared else {}
    return {
        **{name: figures.get(name) for name in FIGURES},
        "scored_on": on,
        "other_miou_1_click": other.get("miou_1_click"),
    }
