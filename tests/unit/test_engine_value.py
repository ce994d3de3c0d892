"""The benchmark of the loop's worth: its images, and what it concludes. Its arms run the flows that
`tests/flows` tests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.benchmarks import engine_value
from tests.benchmarks.engine_value import SHORT, main, prepare_images, summarize
from tests.benchmarks.engine_value_curves import draw_curves
from tests.flows.conftest import write_scenes

SIZE = replace(SHORT, rounds=2, images=3, held_out=2, reported=2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A domain with one folder of ten images."""
    folder = tmp_path / "data" / "eval" / "rocks"
    scenes = write_scenes(tmp_path / "scenes", 10)
    folder.mkdir(parents=True)
    (scenes / "instances.json").rename(folder / "instances.json")
    scenes.rename(folder / "images")
    return tmp_path / "data"


def names(folder: Path) -> list[str]:
    """The images of a part, which are those of its annotations."""
    coco = json.loads((folder / "instances.json").read_text())
    found = sorted(path.name for path in (folder / "images").iterdir())
    assert sorted(image["file_name"] for image in coco["images"]) == found
    assert {row["image_id"] for row in coco["annotations"]} == {row["id"] for row in coco["images"]}
    return [name.partition("-")[2] for name in found]


def test_the_parts_of_a_domain_share_no_image_and_are_the_same_each_time(
    data: Path, tmp_path: Path
) -> None:
    parts = {}
    for run in ("a", "b"):
        prepare_images(data, "rocks", SIZE, tmp_path / run)
        parts[run] = [names(tmp_path / run / part) for part in ("pool", "held_out", "reported")]
    assert parts["a"] == parts["b"]
    assert [len(part) for part in parts["a"]] == [6, 2, 2]
    assert len({name for part in parts["a"] for name in part}) == 10


def test_too_few_images_are_an_error_that_says_how_many_are_needed(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(engine_value, "SHORT", replace(SIZE, images=9))
    done = main(
        ["--data", str(data), "--domain", "rocks", "--short", "--folder", str(tmp_path / "ws")]
    )
    assert done == 2
    assert "has 10 annotated images, 22 are needed" in capsys.readouterr().err


def test_the_loop_is_compared_by_its_last_round() -> None:
    def row(clicks: float, ap: float) -> dict[str, Any]:
        return {"clicks_per_mask": clicks, "after": {"ap": ap}}

    found = summarize(
        {
            "rocks": {
                "loop": [row(5, 0.1), row(3, 0.3)],
                "no_retraining": [row(5, 0.1), row(5, 0.1)],
                "manual": [row(0, 0.4)],
            }
        }
    )
    assert found["clicks_fall"]["rocks"] == pytest.approx(0.4)
    assert found["clicks_saved"]["rocks"] == pytest.approx(0.4)
    assert found["beats_manual"] == {"rocks": False}
    assert found["beats_no_retraining"] == {"rocks": True}


def test_the_picture_shows_each_domain_and_which_models_were_promoted(tmp_path: Path) -> None:
    def model(value: float) -> dict[str, Any]:
        interval = [value - 0.05, value + 0.05]
        return {"miou_1_click": value, "miou_1_click_ci": interval, "ap": value / 2}

    def row(clicks: float, before: float, after: float) -> dict[str, Any]:
        rounds = {"before": model(before), "after": model(after), "promoted": after > before}
        return {"clicks_per_mask": clicks, **rounds}

    arms = {
        "loop": [row(5, 0.5, 0.6), row(3, 0.6, 0.6)],
        "no_retraining": [row(5, 0.5, 0.5), row(5, 0.5, 0.5)],
        "manual": [row(0, 0.5, 0.55)],
    }
    pictures = []
    for number, promoted in enumerate((True, False)):
        arms["loop"][0]["promoted"] = promoted
        draw_curves({"rocks": arms, "aerial_houses": arms}, tmp_path / f"{number}.png")
        pictures.append(np.asarray(Image.open(tmp_path / f"{number}.png").convert("RGB")))
    star = (pictures[0] != pictures[1]).any(axis=2)
    assert pictures[0].shape == pictures[1].shape
    assert 0 < star.mean() < 0.01
    assert star[: len(star) // 2].any()
    assert star[len(star) // 2 :].any()
