"""`dataengine amg`: masks of single images without a workspace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from typer.testing import CliRunner

from engine.simulation.scenes import generate_scene
from flows.cli.main import app
from storage.formats.images import read_image, write_png
from storage.formats.sa1b import read_sa1b

FEW = ["--points-per-side", "4", "--pred-iou-thresh", "0.2", "--stability-score-thresh", "0.3"]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    path.write_bytes(write_png(generate_scene(5, (96, 128)).image_HWC))
    return path


def written(folder: Path) -> list[str]:
    """Names of the visible files in the folder."""
    return sorted(path.name for path in folder.glob("[!.]*"))


def run(*arguments: str) -> tuple[int, dict[str, object]]:
    result = CliRunner().invoke(app, ["amg", *arguments, "--json"])
    lines = result.stdout.strip().splitlines()
    return result.exit_code, json.loads(lines[-1]) if lines else {}


def test_an_image_becomes_an_sa1b_file_and_a_picture(scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, told = run(str(scene), "--output", str(out), *FEW)
    assert code == 0
    record = read_sa1b(out / "scene.json")
    assert len(record.masks) == told["masks"]
    assert (record.height, record.width) == (96, 128)
    assert read_image((out / "scene.png").read_bytes()).shape == (96, 128, 3)
    assert float(str(told["seconds"])) > 0


def test_amg_pys_flags_reach_the_generator(scene: Path, tmp_path: Path) -> None:
    flags = ["--crop-n-layers", "1", "--crop-overlap-ratio", "0.25", "--min-mask-region-area", "9"]
    flags += ["--preset", "reference"]
    code, told = run(str(scene), "--output", str(tmp_path / "out"), *FEW, *flags)
    assert code == 0
    config = told["config"]
    assert isinstance(config, dict)
    assert (config["points_per_side"], config["min_predicted_iou"]) == (4, 0.2)
    assert (config["crop_layers"], config["crop_overlap"], config["min_region"]) == (1, 0.25, 9)
    assert config["as_library"]


def test_a_broken_image_is_told_and_stops_nothing(scene: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    out = tmp_path / "out"
    code, told = run(str(bad), str(scene), "--output", str(out), "--no-pictures", *FEW)
    assert code == 1
    assert told["images"] == 1
    assert [failed["path"] for failed in told["failed"]] == [str(bad)]  # type: ignore[attr-defined]
    assert written(out) == ["scene.json"]


def test_two_images_of_one_name_do_not_overwrite_each_other(scene: Path, tmp_path: Path) -> None:
    other = tmp_path / "more" / "scene.png"
    other.parent.mkdir()
    other.write_bytes(write_png(np.full((64, 64, 3), 80, np.uint8)))
    out = tmp_path / "out"
    run(str(scene), str(other), "--output", str(out), "--no-pictures", *FEW)
    assert written(out) == ["scene-2.json", "scene.json"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--preset", "best"], "best"), (["--points-per-side", "0"], "points_per_side")],
)
def test_a_wrong_setting_is_named(scene: Path, tmp_path: Path, flags: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["amg", str(scene), "--output", str(tmp_path), *flags])
    assert result.exit_code == 2
    assert said in result.output


def test_an_image_that_is_nearly_one_colour_is_named(scene: Path, tmp_path: Path) -> None:
    blank = tmp_path / "[b]lank.png"
    blank.write_bytes(write_png(np.full((64, 64, 3), 255, np.uint8)))
    code, told = run(str(blank), str(scene), "--output", str(tmp_path / "out"), *FEW)
    assert code == 0
    (note,) = cast("list[dict[str, str]]", told["notes"])
    assert note["path"] == str(blank)
    assert "one colour" in note["note"]


def test_an_image_above_the_limit_of_pixels_is_refused(scene: Path, tmp_path: Path) -> None:
    code, told = run(str(scene), "--output", str(tmp_path / "out"), "--max-pixels", "1000", *FEW)
    assert code == 1
    (failed,) = cast("list[dict[str, str]]", told["failed"])
    assert "at most 1,000 are read" in failed["reason"]
