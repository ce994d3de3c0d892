"""The baselines of the benchmark, on images with obvious results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from engine.core import rle
from engine.evaluation.clicks import EvaluationImage
from engine.sam.build import build_sam
from engine.sam.checkpoint import ModelCard, Thresholds, save_checkpoint
from engine.sam.segmenter import Segmenter
from engine.simulation.scenes import generate_scene
from storage.formats.images import write_png
from tests.benchmarks import base_model as bench

SIZE = (64, 96)
DISC_CENTER, BLOCK_CENTER = (24, 30), (70, 32)


def two_things() -> tuple[np.ndarray, list[np.ndarray]]:
    """Return an image of a bright disc and a bright block on a dark background, and their masks."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    disc = (x - DISC_CENTER[0]) ** 2 + (y - DISC_CENTER[1]) ** 2 <= 14**2
    block = (abs(x - BLOCK_CENTER[0]) <= 12) & (abs(y - BLOCK_CENTER[1]) <= 15)
    image = np.full((*SIZE, 3), (30, 40, 35), np.uint8)
    image[disc], image[block] = (210, 190, 60), (90, 200, 230)
    noise = np.random.default_rng(0).integers(-4, 5, image.shape)
    return (image + noise).astype(np.uint8), [disc, block]


def overlap(left: np.ndarray, right: np.ndarray) -> float:
    return float((left & right).sum() / (left | right).sum())


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(build_sam("lite"), version="random", thresholds=Thresholds())


def item() -> EvaluationImage:
    image, truths = two_things()
    empty = np.zeros(SIZE, bool)
    return EvaluationImage(image, [rle.encode(mask) for mask in (*truths, empty)])


@pytest.mark.parametrize(
    ("labels", "least"), [(bench.otsu_labels, 0.95), (bench.felzenszwalb_labels, 0.7)]
)
def test_the_clicked_region_is_the_object_alone(
    labels: Callable[[np.ndarray], np.ndarray], least: float
) -> None:
    image, (disc, block) = two_things()
    regions = labels(image)
    assert overlap(bench.region_at(regions, DISC_CENTER), disc) > least
    assert overlap(bench.region_at(regions, BLOCK_CENTER), block) > least


def test_otsu_separates_components_of_the_dark_side() -> None:
    image = np.full((*SIZE, 3), 20, np.uint8)
    image[:, 40:50] = 220
    regions = bench.otsu_labels(image)
    assert bench.region_at(regions, (5, 5)).sum() == 40 * SIZE[0]
    assert bench.region_at(regions, (45, 5)).sum() == 10 * SIZE[0]
    assert bench.region_at(regions, (95, 5)).sum() == 46 * SIZE[0]


def test_superpixels_follow_edges() -> None:
    image, (disc, _) = two_things()
    found = bench.region_at(bench.slic_labels(image), DISC_CENTER)
    assert 0 < found.sum() < disc.sum()
    assert (found & disc).sum() / found.sum() > 0.9


def test_flood_fill_stops_at_another_colour_and_leaves_the_image_alone() -> None:
    image, (disc, block) = two_things()
    before = image.copy()
    assert overlap(bench.flood_fill(image, DISC_CENTER), disc) > 0.95
    assert overlap(bench.flood_fill(image, BLOCK_CENTER), block) > 0.95
    assert np.array_equal(image, before)


def test_flood_fill_measures_from_the_click_not_from_neighbour_to_neighbour() -> None:
    values = np.array(range(0, 240, 2), np.uint8)
    ramp = np.tile(values[None, :, None], (8, 1, 3))
    columns = bench.flood_fill(ramp, (60, 4)).any(axis=0)
    reach = bench.FLOOD_TOLERANCE // 2
    assert np.flatnonzero(columns).tolist() == list(range(60 - reach, 60 + reach + 1))


def test_grabcut_finds_the_object_in_its_box_and_is_deterministic() -> None:
    image, (disc, _) = two_things()
    box = rle.box_xyxy(rle.encode(disc))
    first = bench.grabcut(image, box)
    assert overlap(first, disc) > 0.9
    assert np.array_equal(first, bench.grabcut(image, box))


def test_grabcut_returns_the_box_if_it_is_the_whole_image() -> None:
    image, _ = two_things()
    assert bench.grabcut(image, (0, 0, SIZE[1], SIZE[0])).all()


def test_grabcut_reads_a_window_and_segments_inside_the_box() -> None:
    image, (disc, _) = two_things()
    wide = np.pad(image, ((0, 0), (0, 300), (0, 0)), mode="reflect")
    box = rle.box_xyxy(rle.encode(disc))
    found = bench.grabcut(wide, box)
    changed = wide.copy()
    changed[:, 200:] = 255
    assert np.array_equal(found, bench.grabcut(changed, box))
    assert not (found & ~bench.box_fill(found.shape, box)).any()


def test_a_box_is_half_open() -> None:
    assert bench.box_fill((4, 5), (1, 1, 3, 4)).sum() == 6


def test_every_baseline_is_scored_on_every_mask_that_is_not_empty() -> None:
    scores = bench.score_baselines(item())
    assert set(scores) == {*bench.CLICK_BASELINES, *bench.BOX_BASELINES}
    assert {len(values) for values in scores.values()} == {2}
    assert scores["otsu"][0] > 0.9
    assert scores["box_fill"] == [pytest.approx(613 / 29**2, abs=0.01), 1.0]


def test_model_and_baselines_are_compared_on_the_same_masks(segmenter: Segmenter) -> None:
    steps: list[None] = []
    found = bench.compare(segmenter, [item()], lambda: steps.append(None))
    assert (found["images"], found["masks"], len(steps)) == (1, 2, 2)
    assert found["baselines"]["box_fill"] == pytest.approx(found["miou_box_fill"])
    best = found["best_click_baseline"]
    assert best["miou"] == max(found["baselines"][name] for name in bench.CLICK_BASELINES)
    assert best["miou"] == found["baselines"][best["name"]]


def folder(root: Path) -> tuple[Path, Path]:
    """Write an annotated image, one without annotations, and a file that is not an image."""
    images, coco = root / "images", root / "instances.json"
    images.mkdir()
    image, masks = two_things()
    (images / "a.png").write_bytes(write_png(image))
    (images / "b.png").write_bytes(write_png(image))
    (images / "broken.png").write_bytes(b"no image")
    annotations = [
        {"id": n, "image_id": 1, "category_id": 1, "segmentation": rle.encode(mask).as_json()}
        for n, mask in enumerate(masks, start=1)
    ]
    entries = [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}]
    coco.write_text(json.dumps({"images": entries, "annotations": annotations}))
    return images, coco


def test_the_command_ends_with_one_line_of_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], segmenter: Segmenter
) -> None:
    images, coco = folder(tmp_path)
    model = tmp_path / "model.safetensors"
    save_checkpoint(segmenter.sam, ModelCard(version="m", architecture="lite"), model)
    given = ["--set", "things", str(images), str(coco), "--model", str(model)]
    assert bench.main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(found) == ["things"]
    assert (found["things"]["images"], found["things"]["masks"]) == (1, 2)


def test_scenes_are_held_out() -> None:
    (first,) = bench.scene_images(1)
    scene = generate_scene(10_000_000)
    assert np.array_equal(first.image_HWC, scene.image_HWC)
    assert len(first.truths) == len(scene.masks)


def test_wrong_arguments_end_with_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["--scenes", "1", "--model", str(tmp_path / "no.safetensors")]) == 2
    assert "no.safetensors" in capsys.readouterr().err
    twice = ["--set", "a", "x", "y", "--set", "a", "x", "y"]
    for wrong in ([], ["--images", "x"], twice):
        with pytest.raises(SystemExit):
            bench.main(wrong)


def test_the_table_prints_every_method(segmenter: Segmenter) -> None:
    found = bench.compare(segmenter, [item()])
    console = Console(width=100)
    with console.capture() as captured:
        console.print(bench.results_table({"things": found}, "random"))
    printed = captured.get()
    assert all(name.removesuffix("_box") in printed for name in found["baselines"])
