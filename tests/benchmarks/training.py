"""Our training step compared with a plain loop, a resumed training with an uninterrupted one, and
a fast retrain.

    python -m tests.benchmarks.training --json
    python -m tests.benchmarks.training --skip retrain

- **step**: the same images, masks and number of prompts, with `lite`'s shipped weights. The plain
  loop does what public fine-tuning scripts do: for each mask and prompt iteration it encodes the
  image and runs segment_anything's prompt encoder and decoder, with gradients. A second loop
  encodes the batch once per iteration and decodes image by image. Both use float32. After the first
  prompt all three have the same loss. Times are medians over repeats, in turns.
- **resume**: a training in its own process, killed with SIGKILL half-way and started again; its log
  must equal that of an uninterrupted training.
- **retrain**: the decoder alone, from cached embeddings, on 2,000 masks of one kind of scene, and
  its gain on held-out scenes of that kind.
"""

from __future__ import annotations

import argparse
import csv
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from engine.core.malloc import keep_freed_memory
from engine.core.rle import encode_batch
from engine.evaluation.clicks import EvaluationImage, evaluate_clicks
from engine.sam import Segmenter, Thresholds, load_sam
from engine.simulation.scenes import generate_scene
from engine.training.config import TrainConfig
from engine.training.losses import mask_loss, true_iou
from engine.training.samples import Example, Sample, make_sample
from engine.training.step import SINGLE_WEIGHT, SPREAD_WEIGHT, encode_samples, training_step
from engine.training.trainer import Trainer

STEP = TrainConfig(
    images_per_step=4,
    masks_per_image=8,
    image_size=384,
    background_share=0.0,
    box_share=0.0,
    mask_loss="balanced",
)
ITERATIONS = 3
"""Prompts per mask in the timed step: the first and two corrections."""

KIND = "capsules"
RETRAIN_MASKS = 2000
SMALL = TrainConfig(
    steps=16, images_per_step=1, masks_per_image=2, image_size=64, refinements=2, warmup_steps=2
)


def scene_example(seed: int, side: int, kind: str | None = None) -> Example:
    """Draw a generated scene to train on."""
    scene = generate_scene(seed, (side, side), kind)
    rles = encode_batch(np.stack(scene.masks)) if scene.masks else []
    return Example(scene.image_HWC, rles, f"scene {seed}")


# one step


def samples_of_a_step() -> list[Sample]:
    """Draw the samples of one step."""
    rng = np.random.default_rng(0)
    found: list[Sample] = []
    while len(found) < STEP.images_per_step:
        drawn = make_sample(scene_example(int(rng.integers(1000)), 384), STEP, rng)
        if drawn is not None:
            found.append(drawn)
    return found


def our_step(
    sam: Any, samples: list[Sample], iterations: int, precision: Literal["float32", "bfloat16"]
) -> float:
    """Run our step forward and backward; return the loss."""
    sam.zero_grad(set_to_none=True)
    config = replace(STEP, precision=precision)
    generator = torch.Generator().manual_seed(0)
    plan = [True] * (iterations - 1)
    result = training_step(sam, samples, config, np.random.default_rng(0), generator, plan)
    return result.loss


def plain_step(sam: Any, samples: list[Sample], iterations: int, *, one_mask: bool) -> float:
    """Run the step with segment_anything's own modules, encoding the image for every iteration: of
    each mask alone, or of all masks of the batch."""
    sam.zero_grad(set_to_none=True)
    total = 0.0
    count = sum(len(sample.masks_KSS) for sample in samples)
    groups = (
        [([sample], slice(k, k + 1)) for sample in samples for k in range(len(sample.masks_KSS))]
        if one_mask
        else [(samples, slice(None))]
    )
    for group, masks in groups:
        prompts = [_PlainPrompts(sam, sample, masks) for sample in group]
        for iteration in range(iterations):
            embeddings = encode_samples(sam, group)
            losses = [
                prompt.ask(embeddings[i : i + 1], iteration) for i, prompt in enumerate(prompts)
            ]
            loss = torch.stack(losses).sum() / (count * iterations)
            torch.autograd.backward(loss)
            total += float(loss.detach())
    return total


class _PlainPrompts:
    """Prompts for the masks of one image, with segment_anything's own modules."""

    def __init__(self, sam: Any, sample: Sample, masks: slice) -> None:
        self.sam = sam
        low = sam.prompt_encoder.mask_input_size
        wanted = torch.from_numpy(sample.masks_KSS[masks])[:, None].float()
        self.targets = torch.nn.functional.interpolate(wanted, low, mode="area")[:, 0]
        self.points = torch.from_numpy(sample.clicks_K2[masks])[:, None]
        self.labels = torch.ones(len(wanted), 1)
        self.logits: torch.Tensor | None = None

    def ask(self, embedding: torch.Tensor, iteration: int) -> torch.Tensor:
        """Run one prompt iteration; return the sum of the masks' losses."""
        prompts = self.sam.prompt_encoder
        sparse, dense = prompts((self.points, self.labels), None, self.logits)
        masks, scores = self.sam.mask_decoder.predict_masks(
            embedding, prompts.get_dense_pe(), sparse, dense
        )
        per_output = mask_loss(masks, self.targets, STEP)
        three = per_output[:, 1:].min(dim=1).values + SPREAD_WEIGHT * per_output[:, 1:].mean(dim=1)
        weights = (1.0, SINGLE_WEIGHT) if iteration else (SINGLE_WEIGHT, 1.0)
        quality = ((scores - true_iou(masks, self.targets)) ** 2).mean(dim=1) * 4
        self._correct(masks.detach(), scores.detach(), iteration)
        drawn = weights[0] * per_output[:, 0] + weights[1] * three
        loss: torch.Tensor = (drawn + STEP.iou_weight * quality).sum()
        return loss

    def _correct(self, masks: torch.Tensor, scores: torch.Tensor, iteration: int) -> None:
        rows = torch.arange(len(masks))
        best = 1 + scores[:, 1:].argmax(dim=1) if iteration == 0 else torch.zeros_like(rows)
        self.logits = masks[rows, best][:, None].clamp(-32, 32)
        wrong = (self.logits[:, 0] > 0) != (self.targets > 0.5)
        place = (torch.rand(wrong.shape) * (wrong + 1e-6)).flatten(1).argmax(dim=1)
        side = wrong.shape[-1]
        cell = self.sam.image_encoder.img_size / side
        point = torch.stack([place % side, place // side], dim=1).float() * cell
        label = (self.targets > 0.5).flatten(1).gather(1, place[:, None]).float()
        self.points = torch.cat([self.points, point[:, None]], dim=1)
        self.labels = torch.cat([self.labels, label], dim=1)


def step(repeats: int) -> dict[str, Any]:
    """Return the seconds of each kind of step, and the parity of their losses."""
    sam = load_sam().train()
    samples = samples_of_a_step()
    ways: dict[str, Callable[[int], float]] = {
        "ours": lambda n: our_step(sam, samples, n, "float32"),
        "ours_bfloat16": lambda n: our_step(sam, samples, n, "bfloat16"),
        "plain_by_mask": lambda n: plain_step(sam, samples, n, one_mask=True),
        "plain_by_batch": lambda n: plain_step(sam, samples, n, one_mask=False),
    }
    losses = {name: way(1) for name, way in ways.items()}  # also a warm-up
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.perf_counter()
            way(ITERATIONS)
            seconds[name].append(time.perf_counter() - began)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    return {
        "step_seconds": medians,
        "loss_after_one_prompt": losses,
        "step_speedup": medians["plain_by_mask"] / medians["ours"],
        "step_speedup_bfloat16": medians["plain_by_mask"] / medians["ours_bfloat16"],
        "step_speedup_against_batches": medians["plain_by_batch"] / medians["ours"],
    }


# resume


def child(folder: Path) -> None:
    """Run a small training that saves after every step."""
    torch.set_num_threads(1)
    trainer = Trainer(load_sam(), SMALL, lambda rng: scene_example(int(rng.integers(99)), 64))
    trainer.run(checkpoint=folder / "run.pt", every_seconds=0, log=folder / "log.csv")


def resume() -> dict[str, Any]:
    """Return whether a killed and resumed run has the log of an uninterrupted one."""
    command = [sys.executable, "-m", "tests.benchmarks.training", "--child"]
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        whole.mkdir()
        killed.mkdir()
        subprocess.run([*command, str(whole)], check=True)
        process = subprocess.Popen([*command, str(killed)])
        while len(_curve(killed)) < SMALL.steps // 2 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = len(_curve(killed))
        subprocess.run([*command, str(killed)], check=True)
        return {
            "killed_after_steps": before,
            "resume_identical": before < SMALL.steps and _curve(killed) == _curve(whole),
        }


def _curve(folder: Path) -> list[tuple[str, ...]]:
    path = folder / "log.csv"
    if not path.exists():
        return []
    with path.open() as file:
        names = ("step", "loss", "iou", "learning_rate")
        return [tuple(row[name] or "" for name in names) for row in csv.DictReader(file)]


# retrain


def retrain() -> dict[str, Any]:
    """Return the seconds of a whole retrain with a frozen encoder, and its gain."""
    examples: list[Example] = []
    while sum(len(example.rles) for example in examples) < RETRAIN_MASKS:
        examples.append(scene_example(2_000_000 + len(examples), 384, KIND))
    sam = load_sam()
    config = TrainConfig(
        steps=150,
        image_size=384,
        mask_loss="balanced",
        precision="bfloat16",
        frozen_encoder=True,
        cached_views=2 * len(examples),
        learning_rate=3e-4,
    )
    before = _held_out(sam)
    began = time.perf_counter()
    Trainer(sam, config, lambda rng: examples[int(rng.integers(len(examples)))]).run()
    seconds = time.perf_counter() - began
    return {
        "retrain_images": len(examples),
        "retrain_masks": sum(len(example.rles) for example in examples),
        "retrain_steps": config.steps,
        "frozen_retrain_seconds": seconds,
        "miou_before": before,
        "miou_after": _held_out(sam),
    }


def _held_out(sam: Any) -> dict[str, float]:
    examples = [scene_example(3_000_000 + i, 384, KIND) for i in range(12)]
    images = [EvaluationImage(example.image_HWC, example.rles) for example in examples]
    bare = Segmenter(sam, version="benchmark", thresholds=Thresholds())
    found = evaluate_clicks(bare, images, clicks=(1, 3), max_masks_per_image=20).summary()
    return {name: float(found[name]) for name in ("miou_1_click", "miou_3_clicks", "miou_box")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the results."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.training")
    parts: dict[str, Callable[[], dict[str, Any]]] = {}
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--skip", action="append", default=[], choices=("step", "resume", "retrain")
    )
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args(arguments)
    if given.child:
        child(given.child)
        return 0
    parts = {"step": lambda: step(given.repeats), "resume": resume, "retrain": retrain}
    results: dict[str, Any] = {"threads": torch.get_num_threads()}
    for name, part in parts.items():
        if name not in given.skip:
            results.update(part())
    table = Table("what", "value", title="training")
    for name, value in results.items():
        table.add_row(name, json.dumps(value) if isinstance(value, dict) else str(value))
    Console(stderr=given.json).print(table)
    if given.json:
        print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
