"""Generators and trainings on one GPU, in one script of at most 8 minutes.

    python -m tests.benchmarks.gpu --json
    python -m tests.benchmarks.gpu --device cpu --short --json      # tries the script: a minute

- **lite_training**: images per second of the training of the shipped model (`ViewTrainer`) on
  generated scenes.
- **generator**, by model: our generator and segment_anything's `SamAutomaticMaskGenerator` in turns
  on the same photographs, random weights, points and thresholds, in float32 without TF32
  (`tests.benchmarks.generator`): agreement of the masks, images per second, and the largest
  allocation on the GPU.
- **training**: images per second of the retrain's training (`Trainer`) of `vit_b` at 1024 pixels,
  with all weights trained.

A part that begins after `--seconds` is skipped, and a part that fails (for example for memory) is
named with its error; the exit status is then 1. Progress and each part's result go to standard
error as they come, so that a stopped run keeps them.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from engine.core.errors import DataEngineError
from engine.core.malloc import keep_freed_memory
from engine.sam import load_sam
from engine.sam.build import build_sam
from engine.training.base_model import IMAGES, RECIPE
from engine.training.config import TrainConfig
from engine.training.photo_pool import load_pool
from engine.training.trainer import Progress, Trainer
from engine.training.view_plan import ViewConfig
from engine.training.view_trainer import ViewProgress, ViewTrainer, ViewTraining
from tests.benchmarks.generator import load, measure, photograph, ways
from tests.benchmarks.training import scene_example

Results = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What is measured, and how much of it.

    Attributes:
        models: architectures of the generators.
        size: (W, H) of the photographs.
        points_per_side: of the generators' grid.
        photos, repeats: each photograph is generated so many times.
        trained: architecture of the part `training`.
        training: configuration of that part.
        warm_up: its steps before its time counts.
        scenes: generated scenes in the pool of the part `lite_training`.
        views: views of that part.
        view_steps, view_seconds: whichever comes first ends that part.
        workers: processes that plan views; 0 for this process.
    """

    models: tuple[str, ...]
    size: tuple[int, int]
    points_per_side: int
    photos: int
    repeats: int
    trained: str
    training: TrainConfig
    warm_up: int
    scenes: int
    views: ViewConfig
    view_steps: int
    view_seconds: float
    workers: int


WHOLE = Load(
    models=("vit_b", "vit_t", "vit_h"),
    size=(2250, 1500),
    points_per_side=32,
    photos=2,
    repeats=3,
    trained="vit_b",
    training=TrainConfig(
        steps=24, images_per_step=2, image_size=1024, precision="bfloat16", frozen_stages=-1
    ),
    warm_up=4,
    scenes=200,
    views=ViewConfig(images=IMAGES),
    view_steps=150,
    view_seconds=60.0,
    workers=8,
)
SHORT = Load(
    models=("vit_t",),
    size=(96, 64),
    points_per_side=4,
    photos=1,
    repeats=1,
    trained="vit_t",
    training=replace(WHOLE.training, steps=2, images_per_step=1, masks_per_image=2, refinements=0),
    warm_up=1,
    scenes=4,
    views=ViewConfig(size=64, images=2, prompts=2),
    view_steps=2,
    view_seconds=60.0,
    workers=0,
)


def mib(device: str) -> float | None:
    """Return the largest allocation on the GPU since `reset_peak_memory_stats`; None on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None


def forget_peak(device: str) -> None:
    """Free what is unused on the GPU, and begin to measure the largest allocation."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@contextmanager
def without_tf32() -> Iterator[None]:
    """Convolve and multiply in float32 proper: cuDNN uses TF32 by default."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def generators(model: str, given: Load, device: str) -> Results:
    """Measure the three generators with one model's random weights."""
    with without_tf32():
        segmenter, config = load(model, device, given.points_per_side)
        forget_peak(device)
        peaks = {"model": mib(device)}
        for name, way in ways(segmenter, config).items():  # also a warm-up
            forget_peak(device)
            way(photograph("rocket", given.size))
            peaks[name] = mib(device)
        found = measure(segmenter, config, given.size, given.photos, given.repeats)
    rates = {name: 1 / seconds for name, seconds in found["seconds"].items()}
    return {**found, "images_per_second": rates, "peak_mib": peaks}


def training(given: Load, device: str) -> Results:
    """Measure the training of a retrain, with all of its work: draws, prompts, averages."""
    torch.manual_seed(0)
    sam = build_sam(given.trained).to(device)
    config = given.training
    examples = [scene_example(seed, config.image_size) for seed in range(8)]
    marks: list[Progress] = []
    forget_peak(device)
    trainer = Trainer(sam, config, lambda rng: examples[int(rng.integers(len(examples)))])
    trainer.run(on_step=marks.append)
    timed = marks[given.warm_up - 1 :]
    images = (len(timed) - 1) * config.images_per_step
    return {
        "architecture": given.trained,
        "image_size": config.image_size,
        "images_per_step": config.images_per_step,
        "masks_per_image": config.masks_per_image,
        "steps": len(timed) - 1,
        "images_per_second": images / (timed[-1].seconds - timed[0].seconds),
        "peak_mib": mib(device),
    }


def lite_training(given: Load, device: str) -> Results:
    """Measure the training of the shipped model."""
    workers = max(given.workers, 1)
    pool = load_pool(None, range(given.scenes), scene_share=1.0, workers=workers)
    sam = load_sam()
    sam.image_encoder.to(memory_format=torch.channels_last)
    sam.to(device)  # after the pool's processes were forked
    forget_peak(device)
    reports: list[ViewProgress] = []
    plan = ViewTraining(
        views=given.views,
        config=replace(RECIPE, steps=given.view_steps),
        seconds=given.view_seconds,
        workers=given.workers,
    )
    ViewTrainer(sam, pool, plan).run(on_report=reports.append)
    rates = [report.rate for report in reports]
    return {
        "view_size": given.views.size,
        "images_per_step": given.views.images,
        "prompts_per_image": given.views.prompts,
        "steps": reports[-1].step,
        "images_per_second": float(np.median(rates[1:] or rates)),  # the first has the warm-up
        "peak_mib": mib(device),
    }


def parts_of(given: Load, device: str) -> dict[str, Callable[[], Results]]:
    """Return the parts by name, in their order: the one that forks processes is first."""
    models = {f"generator {m}": partial(generators, m, given, device) for m in given.models}
    return {
        "lite_training": partial(lite_training, given, device),
        **models,
        "training": partial(training, given, device),
    }


def run(parts: dict[str, Callable[[], Results]], seconds: float) -> Results:
    """Run the parts that begin within the time; report each on standard error."""
    began = time.monotonic()
    done: Results = {}
    skipped: list[str] = []
    failed: dict[str, str] = {}

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", file=sys.stderr, flush=True)

    for name, part in parts.items():
        if time.monotonic() - began >= seconds:
            skipped.append(name)
            say(f"{name}: skipped, {seconds:g} s are over")
            continue
        say(f"{name} ...")
        try:
            done[name] = part()
        except (RuntimeError, DataEngineError) as error:  # torch's: memory, a kernel
            failed[name] = str(error)
            say(f"{name}: failed: {error}")
        else:
            say(f"{name}: {json.dumps(done[name])}")
    elapsed = round(time.monotonic() - began, 1)
    return {"parts": done, "skipped": skipped, "failed": failed, "elapsed_seconds": elapsed}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the results; return 0, 1 if a part failed, 2 if there is no GPU."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--short", action="store_true", help="vit_t alone, as little as possible")
    parser.add_argument("--seconds", type=float, default=480.0, help="later parts are skipped")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print(
            "error: torch finds no GPU; --device cpu --short tries the script without one",
            file=sys.stderr,
        )
        return 2
    found = run(parts_of(SHORT if given.short else WHOLE, given.device), given.seconds)
    name = torch.cuda.get_device_name() if given.device == "cuda" else platform.machine()
    head = {"device": name, "torch": torch.__version__, "short": given.short}
    print(json.dumps({**head, **found}, indent=None if given.json else 2))
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
