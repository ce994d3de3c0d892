"""Stored JSON of all earlier versions is read, and written unchanged."""

from __future__ import annotations

from typing import Any

import pytest

from engine.core.records import Stage
from storage.catalog import MIX, PEOPLE, PlannedRound, TaskResult, TaskVerdict, VerdictKind

VERDICTS = [
    ["made/1/0", "accept", 1.5, None, None],
    ["made/1/1", "reject", 2, None, "too large"],
    ["made/1/2", "fix", 8.25, "review/1/fix-a", None],
]

RESULTS: list[tuple[dict[str, Any], TaskResult]] = [
    (
        {"made": 2, "clicks": 5, "strokes": 1, "seconds": 12.5, "trajectories": "t/run/1-a"},
        TaskResult(made=2, clicks=5, strokes=1, seconds=12.5, trajectories="t/run/1-a"),
    ),
    (
        {
            "made": 1,
            "clicks": 3,
            "strokes": 0,
            "seconds": 30,
            "prefilled": 4,
            "prefilled_kept": 0,
        },
        TaskResult(made=1, clicks=3, seconds=30, prefilled=4, prefilled_kept=0),
    ),
    (
        {"made": 1, "clicks": 2, "strokes": 0, "seconds": 11.75, "verdicts": VERDICTS},
        TaskResult(
            made=1,
            clicks=2,
            seconds=11.75,
            verdicts=(
                TaskVerdict(mask_id="made/1/0", verdict=VerdictKind.ACCEPT, seconds=1.5),
                TaskVerdict(
                    mask_id="made/1/1", verdict=VerdictKind.REJECT, seconds=2, reason="too large"
                ),
                TaskVerdict(
                    mask_id="made/1/2",
                    verdict=VerdictKind.FIX,
                    seconds=8.25,
                    fixed_mask_id="review/1/fix-a",
                ),
            ),
        ),
    ),
    ({"quarantined": "cannot be decoded"}, TaskResult(quarantined="cannot be decoded")),
]
"""Of an `annotate`, a `complete` and a `review` task, and of a broken image."""


@pytest.mark.parametrize(("stored", "result"), RESULTS)
def test_a_stored_result_is_read_and_written_as_it_was(
    stored: dict[str, Any], result: TaskResult
) -> None:
    assert TaskResult.from_json(stored) == result
    assert result.to_json() == stored


@pytest.mark.parametrize(
    ("stored", "planned"),
    [
        (
            {"stage": "assisted_manual", "images": 60, "retrain": True},
            PlannedRound(stage=Stage.ASSISTED_MANUAL, images=60, retrain=True),
        ),
        (
            {"stage": "semi_automatic", "images": 20, "retrain": True, "annotator": "people"},
            PlannedRound(stage=Stage.SEMI_AUTOMATIC, images=20, retrain=True, annotator=PEOPLE),
        ),
        (
            {"stage": "assisted_manual", "images": 9, "retrain": False, "choice": "mix"},
            PlannedRound(stage=Stage.ASSISTED_MANUAL, images=9, choice=MIX),
        ),
        (
            {"stage": "fully_automatic", "images": 500, "retrain": False},
            PlannedRound(stage=Stage.FULLY_AUTOMATIC, images=500),
        ),
    ],
)
def test_a_stored_plan_is_read_and_written_as_it_was(
    stored: dict[str, Any], planned: PlannedRound
) -> None:
    assert PlannedRound.from_json(stored) == planned
    assert planned.to_json() == stored


def test_a_simulated_review_stored_verdicts_of_four_entries() -> None:
    found = TaskResult.from_json({"made": 0, "verdicts": [["made/1/0", "accept", 1.0, None]]})
    verdict = TaskVerdict(mask_id="made/1/0", verdict=VerdictKind.ACCEPT, seconds=1.0)
    assert found == TaskResult(verdicts=(verdict,))
