"""Folders of annotated photographs become one file for the base model's training."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.sam.build import build_sam
from engine.training.photo_pool import load_pool
from flows.cli.pack_photos import main
from storage.formats.images import write_png


@pytest.fixture(autouse=True)
def _untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = build_sam("lite").image_encoder
    monkeypatch.setattr("engine.training.pack.fresh_trunk", lambda weights: trunk)
    monkeypatch.setattr("engine.training.pack.imagenet_weights", dict)


def shelf(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    pixels = cv2.resize(np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8), (64, 48))
    (folder / "images" / "a.png").write_bytes(write_png(pixels))
    (folder / "images" / "torn.png").write_bytes(write_png(pixels)[:200])
    images = [
        {"id": n, "file_name": name, "height": 48, "width": 64}
        for n, name in enumerate(("a.png", "torn.png", "gone.png"))
    ]
    square = {"segmentation": [[8, 8, 40, 8, 40, 40, 8, 40]], "category_id": 1}
    masks = [{"id": n, "image_id": n, **square} for n in range(3)]
    content = {"images": images, "annotations": masks, "categories": []}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def test_what_can_be_read_is_packed_and_the_rest_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "photos.npz"
    assert main([str(shelf(tmp_path / "shelf")), "--out", str(out), "--workers", "0"]) == 0
    told = capsys.readouterr().out
    assert "torn.png" in told
    assert "gone.png" in told
    assert load_pool(out, [], scene_share=0.0, workers=1).objects_N.tolist() == [1]


def test_a_file_that_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "photos.npz"
    given = [str(shelf(tmp_path / "shelf")), "--out", str(out), "--workers", "0"]
    assert main(given) == 0
    before = out.read_bytes()
    assert main(given) == 0
    assert "already holds these sets" in capsys.readouterr().out
    assert main([str(shelf(tmp_path / "other")), *given[1:]]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert out.read_bytes() == before
    own = tmp_path / "mine.npz"
    own.write_bytes(b"not a pack")
    assert main([given[0], "--out", str(own), "--workers", "0"]) == 2
    assert own.read_bytes() == b"not a pack"
    assert "holds something else" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", '{"images": 3, "annotations": 4}'])
def test_a_folder_without_coco_instances_is_refused_by_name(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shelf(tmp_path / "shelf")
    (folder / "instances.json").write_text(content)
    assert main([str(folder), "--out", str(tmp_path / "photos.npz")]) == 2
    assert "instances.json" in capsys.readouterr().err
    assert not (tmp_path / "photos.npz").exists()


def test_confident_masks_of_a_model_are_added_where_nothing_is_annotated(tmp_path: Path) -> None:
    folder = shelf(tmp_path / "shelf")
    pixels = np.full((240, 320, 3), 200, np.uint8)
    for x in (80, 240):
        cv2.circle(pixels, (x, 120), 40, (160, 30, 30), -1)
    (folder / "images" / "a.png").write_bytes(write_png(pixels))
    left = {"segmentation": [[40, 80, 120, 80, 120, 160, 40, 160]], "category_id": 1}
    image = {"id": 0, "file_name": "a.png", "height": 240, "width": 320}
    content = {"images": [image], "annotations": [{"id": 0, "image_id": 0, **left}]}
    (folder / "instances.json").write_text(json.dumps({**content, "categories": []}))
    out = tmp_path / "photos.npz"
    given = [str(folder), "--out", str(out), "--workers", "0"]
    assert main([*given, "--model", "lite"]) == 0
    pool = load_pool(out, [], scene_share=0.0, workers=1)
    with np.load(out) as file:
        assert len(file["image_P"]) >= 1
    drawn = pool.box_M4[pool.weight_M > 0]
    assert any(np.abs(box - [200, 80, 280, 160]).max() <= 8 for box in drawn)  # the other disc
    assert pool.objects_N.tolist() == [1]


def test_a_model_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "photos.npz"
    given = [str(shelf(tmp_path / "shelf")), "--out", str(out), "--model", str(tmp_path / "no.pt")]
    assert main(given) == 2
    assert "no.pt" in capsys.readouterr().err
    assert not out.exists()
