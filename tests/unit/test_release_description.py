"""What a release's description says in words."""

from __future__ import annotations

from typing import Any

from flows.release.description import SA_1B, findings, thin


def figures(**values: Any) -> dict[str, Any]:
    """Figures of a large release that lacks nothing."""
    people = {"stage": "assisted_manual", "source": "annotator", "model": "m"}
    known: dict[str, Any] = {
        "images": 1_000,
        "masks": 100_000,
        "per_image": {"mean": 100.0, "median": 90.0},
        "size": {"mean": 0.08, "edges": [0.0, 0.05, 1.0], "counts": [50_000, 50_000]},
        "provenance": [
            {"stage": "fully_automatic", "source": "automatic", "masks": 75_000, "annotator": None},
            {**people, "annotator": "annotator-1", "masks": 15_000},
            {**people, "annotator": "annotator-2", "masks": 10_000},
        ],
        "categories": {"cat": 90_000, "dog": 10_000},
        "unlabelled": 0,
        "images_by": {"split": {"train": 900, "held_out": 100}, "status": {"annotated": 1_000}},
        "near_duplicates": 10,
        "rounds": [],
        "agreement": [
            {"stage": "assisted_manual", "round": 1, "images": 9, "iou": 0.91, "f1": 0.8}
        ],
        "audit": {"shares": {"0.9": {"estimate": 0.9, "low": 0.85, "high": 0.94}}},
        "cost": {"per_accepted_mask": 0.012},
        "sa_1b": SA_1B,
    }
    return known | values


def test_a_release_that_lacks_nothing_is_not_thin() -> None:
    assert thin(figures()) == []


def test_figures_stand_beside_the_published_ones() -> None:
    told = " ".join(findings(figures(rounds=[_round(12.34)])))
    for sentence in (
        "100.0 masks per image on average, 90 in the median image; SA-1B has about 100.",
        "75.0% of the masks are automatic; of SA-1B's three stages together 99.1%",
        "90.0% [85.0, 94.0] of automatic masks reach IoU 0.9 with the corrected mask; in SA-1B 94%",
        "On 9 images of round 1, stage assisted_manual, that several people annotated",
        "took 12.3 seconds per mask; SA-1B's 34 to 14.",
        "An accepted mask of the dataset has cost 0.012 so far.",
    ):
        assert sentence in told


def _round(seconds: float) -> dict[str, Any]:
    return {"stage": "assisted_manual", "round": 1, "seconds_per_mask": seconds}


def test_what_is_thin_is_said() -> None:
    few = {"per_image": {"mean": 3.0, "median": 3.0}, "images": 10, "masks": 30}
    for changed, sentence in (
        (few, "Small: 30 masks on 10 images."),
        (few, "Sparse: 3.0 masks per image"),
        ({"audit": None}, "No audit"),
        ({"agreement": []}, "No image was annotated twice"),
        ({"provenance": figures()["provenance"][:2]}, "of one annotator"),
        ({"provenance": figures()["provenance"][:1]}, "No mask was drawn or confirmed"),
        ({"near_duplicates": 100}, "100 of 1,000 images nearly repeat another one."),
        ({"images_by": {"split": {"train": 9}, "status": {"neither": 4}}}, "No image is held out"),
        ({"images_by": {"split": {"train": 9}, "status": {"neither": 4}}}, "4 images were neither"),
        ({"size": {"mean": 0.5, "edges": [0, 0.05, 1], "counts": [1, 99_999]}}, "Few small masks"),
        ({"unlabelled": None}, "No categories"),
        ({"unlabelled": 7}, "7 masks have no category."),
        ({"categories": {"cat": 9}}, "1 categories have fewer than 10 masks: cat."),
    ):
        assert any(sentence in line for line in thin(figures(**changed))), sentence
