"""`make demo`: the whole loop on generated scenes and real photographs, and a report.

The scenes are of a kind the base model was not trained on (two-coloured capsules). The photographs
come with scikit-image; the base model was not trained on their textures.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from prefect import flow

from engine.core.rle import encode_batch
from engine.simulation.scenes import generate_scene
from flows.data.annotations import imported
from flows.data.ingest import ingest
from flows.loop.data_engine import LoopPlan, data_engine
from flows.release.release import release
from flows.release.report_data import write_report
from flows.review.review import review
from flows.training.scores import held_out_scores
from flows.workspace import progress
from flows.workspace.workspace import open_workspace
from storage.formats.coco_writer import CocoWriter
from storage.formats.images import write_jpeg, write_png

DATASET = "demo"
SCENES = 90
FIRST_SEED = 20_000_000
SIZE = (256, 256)
PHOTOS = ("coins", "coffee", "cat", "rocket")


@flow(name="demo")
def demo(workspace: str) -> dict[str, Any]:
    """Ingest scenes and photographs, run three stages with retraining, review, release, report."""
    began = time.monotonic()
    opened = open_workspace(workspace)
    root = opened.settings.root
    _make_images(root / "input")
    scenes = root / "input" / "scenes"
    # photographs first: without true masks they are for stage 3, which works in order of image ids
    ingest(workspace, DATASET, str(root / "input" / "photos"), held_out=0.0)
    ingest(workspace, DATASET, str(scenes), str(scenes / "instances.json"))
    plan = LoopPlan(
        assisted_manual=2,
        semi_automatic=1,
        fully_automatic=1,
        images_per_round=20,
        automatic_images=10,
    )
    rounds = data_engine(workspace, DATASET, plan.rounds())
    verdicts = review(workspace, DATASET, 6)
    released = release(workspace, DATASET, "demo-1")
    last = opened.current_model().version
    summary = {
        "rounds": rounds,
        "final": {"model": last, **held_out_scores(opened, last, DATASET)},
        "review": verdicts,
        "release": released["name"],
        "seconds": round(time.monotonic() - began, 1),
    }
    report = write_report(opened, DATASET, summary, root / "report.html")
    summary["report"] = str(report)
    (root / "summary.json").write_text(json.dumps(summary, indent=2))
    return summary


def _make_images(folder: Path) -> None:
    """Write scenes with their exact masks as COCO, and photographs, as files: the demo then ingests
    them as a user does."""
    scenes, photos = folder / "scenes", folder / "photos"
    scenes.mkdir(parents=True)
    photos.mkdir(parents=True)
    origin = imported(DATASET, "demo")
    with progress.current().track("paint scenes", SCENES, "image") as advance:
        with CocoWriter(scenes / "instances.json") as writer:
            for number in range(SCENES):
                scene = generate_scene(FIRST_SEED + number, SIZE, "capsules")
                name = f"scene-{number:03d}.png"
                (scenes / name).write_bytes(write_png(scene.image_HWC))
                coded = encode_batch(np.stack(scene.masks))
                masks = [origin.mask(number, index, rle) for index, rle in enumerate(coded)]
                writer.add_image(number + 1, name, *SIZE, masks)
                advance()
    for name in PHOTOS:
        pixels = np.asarray(getattr(skimage.data, name)())
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        (photos / f"{name}.jpg").write_bytes(write_jpeg(pixels[:, :, :3]))
