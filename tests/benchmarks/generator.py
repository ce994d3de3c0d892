"""Speed, memory and agreement of our mask generator and segment_anything's, with the same weights,
images and settings.

    python -m tests.benchmarks.generator --json
    python -m tests.benchmarks.generator --model vit_b --size 640x480 --repeats 1
    python -m tests.benchmarks.generator --set nuclei IMAGES COCO --limit 20 --end-to-end 60

Three generators run in turns on each image, in one process: segment_anything's
`SamAutomaticMaskGenerator` (`peer`), ours with the preset `reference` (`exact`), and the same with
`half` (`fast`). The benchmark reports medians of seconds per image and their ratios; the agreement
of exact with peer and of fast with exact; and, each from its own process, the memory that one image
takes in addition to the loaded model. With `--set`, it reports AR@1000 of exact and fast on
annotated images, and their agreement. With `--end-to-end N`, it compares `dataengine generate` on N
photographs with the generator alone on the same pixels.

`vit_t`, `vit_b`, `vit_l` and `vit_h` have random weights here, for timing only. Their predicted
IoUs are spread over [0, 1], the threshold keeps about KEPT masks, and NMS by box drops none of
them.

The process keeps the memory it frees (`engine.core.malloc`), as our commands do; without this,
segment_anything is slower than reported here (docs/LOG.md).

Photographs are scikit-image's, resized.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
import torch
from rich.console import Console
from rich.table import Table

from engine.automatic import GeneratorConfig, MaskGenerator, preset
from engine.core.grids import point_grid
from engine.core.malloc import keep_freed_memory
from engine.core.metrics import boundary_f, match
from engine.core.rle import RLE, decode, encode, iou_matrix
from engine.evaluation.proposals import score_proposals
from engine.sam import Segmenter, Thresholds, load_segmenter
from engine.sam.build import ARCHITECTURES, build_sam
from engine.sam.checkpoint import SHIPPED
from engine.sam.decode import PromptBatch, decode_without_masks
from engine.sam.torchvision_ops import ensure_torchvision
from flows.workspace.settings import load_settings
from storage.formats.images import read_image, write_png
from tests.benchmarks.base_model import folder_images

PHOTOS = ("coffee", "rocket", "astronaut")
KEPT = 100
"""Masks per image that the threshold of random weights keeps."""

BOUNDARY_PIXELS = 2
"""Tolerance of the boundary F."""

Masks = list[tuple[RLE, float, float]]
"""RLE, predicted IoU, stability."""


def photograph(name: str, size: tuple[int, int]) -> np.ndarray:
    """Return one of scikit-image's photographs, RGB uint8, resized to (W, H)."""
    pixels = np.asarray(getattr(skimage.data, name)())[:, :, :3]
    return np.ascontiguousarray(cv2.resize(np.ascontiguousarray(pixels), size))


def load(
    model: str, device: str = "cpu", points_per_side: int = 32
) -> tuple[Segmenter, GeneratorConfig]:
    """Return the model and the exact configuration; random weights for an architecture's name
    other than `lite`."""
    if model not in ARCHITECTURES or model == SHIPPED:
        segmenter = load_segmenter(model, device)
        predicted, stable = GeneratorConfig().with_thresholds(segmenter.thresholds)
        choice = {"min_predicted_iou": predicted, "min_stability": stable}
    else:
        torch.manual_seed(0)
        sam = build_sam(model).to(device)
        segmenter = Segmenter(sam, version="random", thresholds=Thresholds())
        predicted = _spread_scores(segmenter, points_per_side)
        choice = {"min_predicted_iou": predicted, "min_stability": 0.0, "max_box_iou": 1.0}
    return segmenter, preset("reference", points_per_side=points_per_side, **choice)


@torch.inference_mode()
def _spread_scores(segmenter: Segmenter, points_per_side: int) -> float:
    """Scale the head for predicted IoU so that its values on a photograph have mean 0.5 and
    deviation 0.15; return the threshold that about KEPT masks of the grid pass, at most half."""
    embedding = segmenter.embed(photograph("coffee", (640, 480)))
    side, device = min(points_per_side, 16), segmenter.sam.device
    points = torch.from_numpy(point_grid(side, embedding.input_size)).float().to(device)
    index = torch.zeros(side, dtype=torch.int64, device=device)
    raw = torch.cat(
        [
            decode_without_masks(
                segmenter.sam,
                embedding.features_1CHW,
                PromptBatch(index, part[:, None], torch.ones_like(index)[:, None]),
            ).scores_B4
            for part in points.reshape(side, side, 2)
        ]
    )
    last = segmenter.sam.mask_decoder.iou_prediction_head.layers[-1]
    gain = 0.15 / raw.std(dim=0)
    last.bias.copy_((last.bias - raw.mean(dim=0)) * gain + 0.5)
    last.weight.mul_(gain[:, None])
    spread = (raw - raw.mean(dim=0)) * gain + 0.5
    kept = min(0.5, KEPT / (3 * points_per_side**2))
    return float(spread[:, 1:].flatten().quantile(1 - kept))


def ways(segmenter: Segmenter, config: GeneratorConfig) -> dict[str, Callable[[np.ndarray], Masks]]:
    """Return the three generators by name."""
    ensure_torchvision()
    from segment_anything import SamAutomaticMaskGenerator

    peer = SamAutomaticMaskGenerator(
        segmenter.sam,
        points_per_side=config.points_per_side,
        pred_iou_thresh=config.min_predicted_iou,
        stability_score_thresh=config.min_stability,
        box_nms_thresh=config.max_box_iou,
    )

    def theirs(image: np.ndarray) -> Masks:
        return [
            (
                encode(found["segmentation"]),
                min(found["predicted_iou"], 1.0),  # ours are clipped
                found["stability_score"],
            )
            for found in peer.generate(image)
        ]

    def ours(half: bool) -> Callable[[np.ndarray], Masks]:
        generator = MaskGenerator(segmenter, GeneratorConfig(**{**config.as_dict(), "half": half}))
        return lambda image: [
            (m.rle, m.predicted_iou, m.stability_score) for m in generator.generate(image)
        ]

    return {"peer": theirs, "exact": ours(False), "fast": ours(True)}


def agreement(found: Masks, wanted: Masks, min_iou: float) -> dict[str, float]:
    """Return how many masks of both lists match, and how similar they are."""
    table = iou_matrix([rle for rle, _, _ in found], [rle for rle, _, _ in wanted])
    pairs = match(table, min_iou)
    score = max(
        (max(abs(found[a][1] - wanted[b][1]), abs(found[a][2] - wanted[b][2])) for a, b in pairs),
        default=0.0,
    )
    outlines = [
        boundary_f(decode(found[a][0]), decode(wanted[b][0]), BOUNDARY_PIXELS) for a, b in pairs
    ]
    return {
        "found": len(found),
        "wanted": len(wanted),
        "matched": len(pairs),
        "largest_score_difference": score,
        "boundary_f": float(np.mean(outlines)) if outlines else 0.0,
    }


def measure(
    segmenter: Segmenter, config: GeneratorConfig, size: tuple[int, int], photos: int, repeats: int
) -> dict[str, Any]:
    """Measure seconds and agreement at one size."""
    methods = ways(segmenter, config)
    images = [photograph(name, size) for name in PHOTOS[:photos]]
    methods["exact"](images[0])  # warm up
    methods["fast"](images[0])
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    made: dict[str, list[Masks]] = {name: [] for name in methods}
    for turn in range(repeats):
        for image in images:
            for name, way in methods.items():
                began = time.perf_counter()
                masks = way(image)
                seconds[name].append(time.perf_counter() - began)
                if turn == 0:
                    made[name].append(masks)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    exact = _total(
        [agreement(a, b, 0.99) for a, b in zip(made["exact"], made["peer"], strict=True)]
    )
    fast = _total([agreement(a, b, 0.9) for a, b in zip(made["fast"], made["exact"], strict=True)])
    return {
        "seconds": medians,
        "exact_speedup": medians["peer"] / medians["exact"],
        "fast_speedup": medians["peer"] / medians["fast"],
        "exact_against_peer_at_0.99": exact,
        "fast_against_exact_at_0.9": fast,
    }


def _total(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {
        name: sum(part[name] for part in parts) for name in ("found", "wanted", "matched")
    }
    total["largest_score_difference"] = max(part["largest_score_difference"] for part in parts)
    total["boundary_f"] = float(np.mean([part["boundary_f"] for part in parts]))
    total["precision"] = total["matched"] / max(total["found"], 1)
    total["recall"] = total["matched"] / max(total["wanted"], 1)
    total["f1"] = 2 * total["matched"] / max(total["found"] + total["wanted"], 1)
    return total


def memory(model: str, way: str, size: str) -> float:
    """Return the MiB that one photograph takes beyond the loaded model, in a new process."""
    command = [sys.executable, "-m", "tests.benchmarks.generator", "--peak-of", way]
    done = subprocess.run(
        [*command, "--model", model, "--size", size], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def _peak(model: str, way: str, size: tuple[int, int]) -> float:
    segmenter, config = load(model)
    method = ways(segmenter, config)[way]
    before = _highest()
    method(photograph("rocket", size))
    return (_highest() - before) / 1024


def _highest() -> int:
    """Return this process's peak memory in KiB. Linux only; `getrusage` would include the memory
    of the parent when it started this process."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def on_set(
    segmenter: Segmenter, config: GeneratorConfig, folder: Path, coco: Path, limit: int | None
) -> dict[str, Any]:
    """Return AR@1000 of exact and fast on annotated images, and the agreement of both."""
    images = folder_images(folder, coco, limit)
    methods = ways(segmenter, config)
    made = {n: [methods[n](item.image_HWC) for item in images] for n in ("exact", "fast")}
    truths = [item.truths for item in images]
    recalls = {
        name: score_proposals(truths, [[(rle, p) for rle, p, _ in masks] for masks in found])
        for name, found in made.items()
    }
    pairs = zip(made["fast"], made["exact"], strict=True)
    return {
        "images": len(images),
        "ar_1000": {name: scores["ar_1000"] for name, scores in recalls.items()},
        "fast_against_exact_at_0.9": _total([agreement(fast, exact, 0.9) for fast, exact in pairs]),
    }


def end_to_end(count: int, size: tuple[int, int] = (640, 480)) -> dict[str, float]:
    """Return the images per second of `dataengine generate` on `count` photographs, with and
    without its start, and of the generator alone on the same pixels, with the shipped model."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        root, folder = Path(name) / "workspace", Path(name) / "images"
        folder.mkdir()
        for number in range(count):
            pixels = photograph(PHOTOS[number % len(PHOTOS)], size)
            shifted = np.roll(pixels, rng.integers(0, min(size), 2), axis=(0, 1))
            (folder / f"{number:04d}.png").write_bytes(write_png(shifted))
        root.mkdir()
        _command(root, "init")
        _command(root, "ingest", str(folder), "--held-out", "0")
        whole, figures = _command(root, "generate", "--json")
        settings = load_settings(root)
        generator = MaskGenerator(load_segmenter(), preset(settings.generator.preset))
        images = [read_image(path.read_bytes()) for path in sorted(folder.iterdir())]
        generator.generate(images[0])
        began = time.perf_counter()
        masks = sum(len(generator.generate(image)) for image in images)
        bare = time.perf_counter() - began
    assert masks == figures["masks"], "both must do the same work"
    return {
        "images": count,
        "bare_images_per_second": count / bare,
        "working_images_per_second": count / figures["machine_seconds"],
        "images_per_second_with_start": count / whole,
        "working_ratio": bare / figures["machine_seconds"],
        "ratio_with_start": bare / whole,
    }


def _command(root: Path, *arguments: str) -> tuple[float, dict[str, Any]]:
    """Run a command in the workspace; return its seconds and its JSON output."""
    command = [sys.executable, "-c", "from flows.cli.main import main; main()", *arguments]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    return seconds, json.loads(done.stdout) if "--json" in arguments else {}


def _size(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return int(width), int(height)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the results."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.generator")
    parser.add_argument("--model", default="lite", help="lite, vit_b (random), ... or a file")
    parser.add_argument("--size", action="append", metavar="WxH", help="default: both")
    parser.add_argument("--photos", type=int, default=2, help="photographs at each size")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", nargs=3, action="append", default=[], metavar=("NAME", "D", "F"))
    parser.add_argument("--end-to-end", type=int, metavar="N", help="generate N photographs too")
    parser.add_argument("--limit", type=int, help="the first N images of each set")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--peak-of", choices=("peer", "exact", "fast"), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args(arguments)
    sizes = given.size or ["640x480", "2250x1500"]
    if given.peak_of:
        print(_peak(given.model, given.peak_of, _size(sizes[0])))
        return 0
    segmenter, config = load(given.model)
    results: dict[str, Any] = {"model": given.model, "threads": torch.get_num_threads()}
    for size in sizes:
        found = measure(segmenter, config, _size(size), given.photos, given.repeats)
        names = () if given.no_memory else ("peer", "exact", "fast")
        peaks = {name: memory(given.model, name, size) for name in names}
        results[size] = {**found, "peak_mib": peaks}
    results["sets"] = {
        name: on_set(segmenter, config, Path(folder), Path(coco), given.limit)
        for name, folder, coco in given.set
    }
    if given.end_to_end:
        results["end_to_end"] = end_to_end(given.end_to_end)
    _print(results, sizes, Console(stderr=given.json))
    if given.json:
        print(json.dumps(results))
    return 0


def _print(results: dict[str, Any], sizes: Sequence[str], console: Console) -> None:
    table = Table(title=f"{results['model']}: seconds per image, MiB, agreement")
    for name in ("size", "peer", "exact", "fast", "exact x", "fast x", "peak MiB", "exact", "fast"):
        table.add_column(name, justify="right")
    for size in sizes:
        found = results[size]
        exact, fast = found["exact_against_peer_at_0.99"], found["fast_against_exact_at_0.9"]
        table.add_row(
            size,
            *(f"{found['seconds'][name]:.2f}" for name in ("peer", "exact", "fast")),
            f"{found['exact_speedup']:.1f}",
            f"{found['fast_speedup']:.1f}",
            " / ".join(f"{value:.0f}" for value in found["peak_mib"].values()),
            f"{exact['matched']:.0f} of {exact['wanted']:.0f}",
            f"F1 {fast['f1']:.3f}",
        )
    console.print(table)
    for name, found in results["sets"].items():
        recalls, fast = found["ar_1000"], found["fast_against_exact_at_0.9"]
        console.print(
            f"{name}: AR@1000 exact {recalls['exact']:.3f}, fast {recalls['fast']:.3f}; fast "
            f"against exact F1 {fast['f1']:.3f} of {fast['wanted']} masks, "
            f"boundary F {fast['boundary_f']:.3f}"
        )
    if "end_to_end" in results:
        rates = results["end_to_end"]
        console.print(
            f"dataengine generate: {rates['working_ratio']:.2f} of the bare generator's "
            f"{rates['bare_images_per_second']:.2f} images/s, {rates['ratio_with_start']:.2f} with "
            f"the command's start, on {rates['images']} images"
        )


if __name__ == "__main__":
    sys.exit(main())
