"""A small workspace of generated scenes, and a Prefect server for the session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.core.rle import encode_batch
from engine.simulation.scenes import generate_scene
from flows.data.annotations import imported
from flows.prefect_api import temporary_server
from flows.workspace.workspace import Workspace
from storage.formats.coco_writer import CocoWriter
from storage.formats.images import write_png
from tests.prepared import prepared_workspace

SIZE = (96, 128)

TOML = """
held_out = 0.3
shard_images = 2
lease_seconds = 3.0
[generator]
points_per_side = 4
crop_layers = 0
min_predicted_iou = 0.2
min_stability = 0.2
[annotator]
max_clicks = 3
max_objects = 4
[train]
steps = 2
images_per_step = 1
masks_per_image = 2
refinements = 1
evaluation_images = 2
evaluation_masks = 2
"""


def write_scenes(folder: Path, count: int) -> Path:
    """Scenes as PNG files with `instances.json` beside them."""
    folder.mkdir(parents=True)
    with CocoWriter(folder / "instances.json") as writer:
        for number in range(count):
            scene = generate_scene(30_000_000 + number, SIZE, "capsules")
            name = f"scene-{number:02d}.png"
            (folder / name).write_bytes(write_png(scene.image_HWC))
            coded = encode_batch(np.stack(scene.masks))
            masks = [imported("d", "r").mask(number, i, rle) for i, rle in enumerate(coded)]
            writer.add_image(number + 1, name, *SIZE, masks)
    return folder


def make_workspace(folder: Path, toml: str = TOML) -> Workspace:
    """A prepared workspace with settings for small, fast runs."""
    return prepared_workspace(folder, toml)


@pytest.fixture(scope="package")  # later tests use none, or their own
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The temporary server that the command line uses."""
    # a name with special characters, which must be quoted in a URL
    with temporary_server.server(tmp_path_factory.mktemp("pre%66ect? #1 [猫] &+=;,:'")):
        yield


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "ws")


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return write_scenes(tmp_path / "scenes", 12)
