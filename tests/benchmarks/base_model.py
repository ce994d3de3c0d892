"""Scores of a model and of baselines without learning, on the same masks and clicks.

    python -m tests.benchmarks.base_model --set nuclei DIR FILE --set photos DIR FILE --scenes 60

Every method gets the first click of the protocol, the deepest pixel of the true mask, or its box:

- otsu: Otsu's threshold of the grey image; the connected component, bright or dark, at the click.
- flood_fill: cv2.floodFill from the click, each channel within FLOOD_TOLERANCE of the clicked one.
- slic, felzenszwalb: the region of scikit-image's segmentation at the click.
- grabcut_box: cv2.grabCut initialised with the box, 5 iterations, in a window around it.
- box_fill: the box itself. A model whose box score is just above it has learned nothing.

The constants have the highest mean over nuclei, photos and scenes with equal weights, among flood
tolerances 8 to 48, 25 to 400 superpixels and scales 50 to 300, on training images (the `train`
splits and scenes from seed 0), never on the reported images.

H = height, W = width; images are RGB uint8 (H, W, 3), masks bool (H, W), label maps integer (H, W).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from skimage.segmentation import felzenszwalb, slic

from engine.core import batches
from engine.core.clicks import center_point
from engine.core.metrics import iou
from engine.core.rle import box_xyxy, decode, encode_batch
from engine.evaluation.clicks import EvaluationImage, evaluate_clicks
from engine.sam import Segmenter, load_segmenter
from engine.sam.checkpoint import SHIPPED, CheckpointError
from engine.simulation.scenes import generate_scene
from storage.formats.coco import BadAnnotationsError, read_coco
from storage.formats.folders import list_images
from storage.formats.images import BadImageError, read_image

FIRST_SCENE = 10_000_000
"""First seed of the held-out scenes."""

FLOOD_TOLERANCE = 32
"""Largest difference from the clicked pixel in each channel, of 255."""

SLIC_SEGMENTS = 400
FELZENSZWALB_SCALE = 200.0
GRABCUT_ITERATIONS = 5

CLICK_BASELINES = ("otsu", "flood_fill", "slic", "felzenszwalb")
BOX_BASELINES = ("grabcut_box", "box_fill")

Advance = Callable[[], None]


def otsu_labels(image_HWC: np.ndarray) -> np.ndarray:
    """Return labels of the connected components, 8-neighbours, of both sides of Otsu's threshold,
    int32 (H, W)."""
    grey = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY)
    _, bright = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    count, of_bright = cv2.connectedComponents(bright)
    _, of_dark = cv2.connectedComponents(255 - bright)
    return np.where(bright > 0, of_bright, of_dark + count)


def slic_labels(image_HWC: np.ndarray) -> np.ndarray:
    """Return about SLIC_SEGMENTS superpixels, int (H, W)."""
    return np.asarray(slic(image_HWC, n_segments=SLIC_SEGMENTS, compactness=10, start_label=1))


def felzenszwalb_labels(image_HWC: np.ndarray) -> np.ndarray:
    """Return Felzenszwalb and Huttenlocher's graph segmentation, int (H, W)."""
    found = felzenszwalb(image_HWC, scale=FELZENSZWALB_SCALE, sigma=0.8, min_size=20)
    return np.asarray(found)


def region_at(labels_HW: np.ndarray, point_xy: tuple[int, int]) -> np.ndarray:
    """Return the region of a label map at the click, bool (H, W)."""
    x, y = point_xy
    return np.asarray(labels_HW == labels_HW[y, x])


def flood_fill(image_HWC: np.ndarray, point_xy: tuple[int, int]) -> np.ndarray:
    """Return the pixels connected with the click by pixels of its colour, bool (H, W)."""
    height, width = image_HWC.shape[:2]
    reached = np.zeros((height + 2, width + 2), np.uint8)
    tolerance = (FLOOD_TOLERANCE,) * 3
    flags = 8 | cv2.FLOODFILL_FIXED_RANGE | cv2.FLOODFILL_MASK_ONLY
    pixels = np.ascontiguousarray(image_HWC)
    cv2.floodFill(pixels, reached, point_xy, (0, 0, 0), tolerance, tolerance, flags)
    return reached[1:-1, 1:-1] > 0


def grabcut(image_HWC: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Run GrabCut from a half-open XYXY pixel box, bool (H, W).

    It sees the box and, on each side, as much again as the box is long (16 pixels at least): what
    is far away tells little, and whole microscope images would take hours. The whole box where
    GrabCut has nothing to learn from, such as no pixel outside.
    """
    filled = box_fill((image_HWC.shape[0], image_HWC.shape[1]), box)
    margin = max(16, box[2] - box[0], box[3] - box[1])
    top, left = max(box[1] - margin, 0), max(box[0] - margin, 0)
    window = (slice(top, box[3] + margin), slice(left, box[2] + margin))
    pixels = cv2.cvtColor(np.ascontiguousarray(image_HWC[window]), cv2.COLOR_RGB2BGR)
    sides = np.where(filled[window], cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    no_rectangle = (0, 0, 0, 0)
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(pixels, sides, no_rectangle, *models, GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:
        return filled
    filled[window] = sides == cv2.GC_PR_FGD
    return filled


def box_fill(size: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    """Return the half-open XYXY pixel box as a mask of (H, W)."""
    filled = np.zeros(size, bool)
    filled[box[1] : box[3], box[0] : box[2]] = True
    return filled


def score_baselines(item: EvaluationImage) -> dict[str, list[float]]:
    """Return the IoU of every baseline with every non-empty true mask of one image."""
    image = item.image_HWC
    labels = {
        "otsu": otsu_labels(image),
        "slic": slic_labels(image),
        "felzenszwalb": felzenszwalb_labels(image),
    }
    scores: dict[str, list[float]] = {name: [] for name in (*CLICK_BASELINES, *BOX_BASELINES)}
    for rle in item.truths:
        truth = decode(rle)
        if not truth.any():
            continue
        click, box = center_point(truth), box_xyxy(rle)
        found = {name: region_at(regions, click) for name, regions in labels.items()}
        found["flood_fill"] = flood_fill(image, click)
        found["grabcut_box"] = grabcut(image, box)
        found["box_fill"] = box_fill(truth.shape, box)
        for name, mask in found.items():
            scores[name].append(iou(mask, truth))
    return scores


def compare(
    segmenter: Segmenter, images: Sequence[EvaluationImage], advance: Advance = lambda: None
) -> dict[str, Any]:
    """Return the model's scores on a set (`ClickScores.summary`), the baselines' mIoU, and the best
    baseline with one click. `advance` is called twice per image: after the model, and after the
    baselines."""

    def with_progress() -> Iterator[EvaluationImage]:
        for item in images:
            yield item
            advance()

    scores = evaluate_clicks(segmenter, with_progress(), clicks=(1, 2, 3, 5))
    ious: dict[str, list[float]] = {name: [] for name in (*CLICK_BASELINES, *BOX_BASELINES)}
    for item in images:
        for name, values in score_baselines(item).items():
            ious[name] += values
        advance()
    means = {name: float(np.mean(values)) if values else 0.0 for name, values in ious.items()}
    best = max(CLICK_BASELINES, key=lambda name: means[name])
    return {
        "images": len(images),
        **scores.summary(),
        "baselines": means,
        "best_click_baseline": {"name": best, "miou": means[best]},
    }


def folder_images(folder: Path, coco: Path, limit: int | None) -> list[EvaluationImage]:
    """Yield the first `limit` images of a folder that have true masks; unreadable files are
    skipped."""
    paths = list(list_images(folder))
    names = [path.relative_to(folder).as_posix() for path in paths]
    truth = read_coco(coco, names)
    found: list[EvaluationImage] = []
    for path, name in zip(paths, names, strict=True):
        if limit is not None and len(found) >= limit:
            break
        try:
            pixels = read_image(path.read_bytes())
        except BadImageError as error:
            print(f"{path}: {error.reason}", file=sys.stderr)
            continue
        masks, _ = truth.masks_for(name, (pixels.shape[0], pixels.shape[1]))
        if masks:
            found.append(EvaluationImage(pixels, masks))
    return found


def spread(item: EvaluationImage, count: int) -> EvaluationImage:
    """Return an image with `count` of its true masks at most, spread evenly over their order."""
    return EvaluationImage(item.image_HWC, batches.spread(item.truths, count))


def scene_images(count: int) -> list[EvaluationImage]:
    """Generate held-out scenes with their true masks."""
    scenes = [generate_scene(FIRST_SCENE + number) for number in range(count)]
    return [
        EvaluationImage(scene.image_HWC, encode_batch(np.stack(scene.masks)))
        for scene in scenes
        if scene.masks
    ]


def results_table(results: dict[str, dict[str, Any]], version: str) -> Table:
    """Print the mIoU of every method, one column per set; `results` are those of `compare` by
    name of the set."""
    rows: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
        ("model, 1 click", lambda found: found["miou_1_click"]),
        ("model, 1 click, best of 3", lambda found: found["miou_1_click_oracle"]),
        ("model, 3 clicks", lambda found: found["miou_3_clicks"]),
        ("model, 5 clicks", lambda found: found["miou_5_clicks"]),
    ]
    rows += [(f"{name}, 1 click", _baseline(name)) for name in CLICK_BASELINES]
    rows += [("model, box", lambda found: found["miou_box"])]
    rows += [(name.replace("_box", ", box"), _baseline(name)) for name in BOX_BASELINES]
    table = Table(title=f"Mean IoU of {version} and of methods that learn nothing")
    table.add_column("method", no_wrap=True)
    for name, found in results.items():
        table.add_column(
            f"{name}\n{found['images']} images\n{found['masks']} masks", justify="right"
        )
    for label, of in rows:
        if label == "model, box":
            table.add_section()
        style = "bold" if label.startswith("model") else None
        table.add_row(label, *(f"{of(found):.3f}" for found in results.values()), style=style)
    return table


def _baseline(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda found: found["baselines"][name]


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.base_model")
    parser.add_argument("--images", type=Path, metavar="DIR", help="a folder of images")
    parser.add_argument("--coco", type=Path, metavar="FILE", help="their COCO instances")
    parser.add_argument(
        "--set",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "IMAGES", "COCO"),
        help="a folder and its COCO file under a name; may be given more than once",
    )
    parser.add_argument("--scenes", type=int, default=0, metavar="N", help="N generated scenes too")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images of each folder")
    parser.add_argument(
        "--masks", type=int, metavar="N", help="N masks of each image; default: all"
    )
    parser.add_argument("--model", metavar="PATH", help="a checkpoint; else the shipped model")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args(arguments)
    if (given.images is None) != (given.coco is None):
        parser.error("--images and --coco go together")
    if given.images is not None:
        given.set = [(given.images.name, given.images, given.coco), *given.set]
    if not given.set and given.scenes < 1:
        parser.error("nothing to measure on: give --images and --coco, --set, or --scenes")
    names = [name for name, _, _ in given.set] + ["scenes"] * (given.scenes > 0)
    if len(set(names)) < len(names):
        parser.error(f"each set needs a name of its own, got {', '.join(names)}")
    return given


@contextmanager
def _progress(what: str, total: int) -> Iterator[Advance]:
    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the results; return 0, or 2 after printing an error."""
    given = _arguments(arguments)
    try:
        segmenter = load_segmenter(given.model or SHIPPED)
        sets = {
            name: folder_images(Path(images), Path(coco), given.limit)
            for name, images, coco in given.set
        }
    except (CheckpointError, BadAnnotationsError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    if given.scenes > 0:
        sets["scenes"] = scene_images(given.scenes)
    results = {}
    for name, images in sets.items():
        if given.masks is not None:
            images = [spread(item, given.masks) for item in images]
        with _progress(name, 2 * len(images)) as advance:
            results[name] = compare(segmenter, images, advance)
    Console(stderr=given.json).print(results_table(results, segmenter.version))
    if given.json:
        print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
