"""A score names its set, and versions are compared on one set."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.core.rle import encode
from engine.evaluation.bootstrap import ByImage
from flows.operations.dashboard import WorkspaceReports
from flows.training import scores
from flows.training.compared_scores import SCENES, UNNAMED, compared_set, score_row
from storage.catalog import Model, ModelKind, ModelState
from tests.annotation.site import make_site


def model(version: str, state: ModelState, **scores: Any) -> Model:
    return Model(
        version=version,
        parent=None,
        architecture="lite",
        key=version,
        kind=ModelKind.SEGMENTER,
        state=state,
        table_version=None,
        card={"scores": scores},
        created_at=datetime.now(UTC),
    )


def on(*names: str) -> dict[str, Any]:
    return {name: {"miou_1_click": len(name) / 100} for name in names}


CURRENT, CANDIDATE = ModelState.CURRENT, ModelState.CANDIDATE
SHIPPED = {"held_out_scenes": {"miou_1_click": 0.715}}


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ([model("lite", CURRENT, **SHIPPED)], SCENES),
        # the shipped one stays current: it was scored on the candidate's set as well
        (
            [
                model("d-1", CANDIDATE, sets=on("photos")),
                model("lite", CURRENT, **SHIPPED, sets=on("photos")),
            ],
            "photos",
        ),
        # another set than the current one's is no ground for comparison
        ([model("a", CANDIDATE, sets=on("x")), model("b", CURRENT, sets=on("y"))], "y"),
        (
            [
                model("a", CANDIDATE, sets=on("old", "both")),
                model("b", CURRENT, sets=on("both", "alone")),
            ],
            "both",
        ),
        ([model("a", CURRENT, sets=on("first", "last"))], "last"),
        ([model("a", CURRENT, held_out={"miou_1_click": 0.5})], UNNAMED),
        ([model("imported", CURRENT), model("a", CANDIDATE, sets=on("x"))], "x"),
        ([model("imported", CURRENT)], None),
    ],
)
def test_versions_are_compared_on_a_set_that_the_current_one_was_scored_on(
    models: list[Model], expected: str | None
) -> None:
    assert compared_set(models) == expected
    for row in models:
        shown = score_row(row, expected)
        assert (shown["miou_1_click"] is not None) == (
            expected is not None and shown["scored_on"] == expected
        )
        assert shown["miou_1_click"] is None or shown["other_miou_1_click"] is None


def test_a_score_goes_onto_the_cards_of_all_versions_that_it_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_site(tmp_path / "ws", images=1).workspace
    catalog = workspace.catalog
    catalog.models.add("d-1", architecture="lite", key="models/d-1/x", card={"scores": {}})
    truths = [(1, [encode(np.ones((2, 2), bool))])]
    monkeypatch.setattr(scores, "_held_out", lambda *_: truths)
    figures = {"masks": 1, "images": 1, "miou_1_click": 0.274}
    by_image = ByImage(("x",), np.zeros((1, 1)), np.ones((1, 1))).as_dict()
    kept = {"scores": figures, "by_image": by_image}
    monkeypatch.setattr(scores, "_score_held_out", lambda *_: kept)
    first, _ = scores.held_out(workspace, ["lite", "d-1"], "d")
    name = first.scores["set"]
    assert name.startswith("d: 1 held-out images, 1 masks (set ")
    truths.append((2, truths[0][1]))
    assert scores.held_out(workspace, ["lite"], "d")[0].scores["set"] != name
    rows = {row["version"]: row for row in WorkspaceReports(workspace).overview()["models"]}
    assert {row["scored_on"] for row in rows.values()} == {name}
    assert {row["miou_1_click"] for row in rows.values()} == {0.274}
    assert catalog.models.get("lite").card["scores"]["held_out_scenes"]["miou_1_click"] > 0.5
