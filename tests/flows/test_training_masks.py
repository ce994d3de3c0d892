"""The masks that a retrain draws: none of held-out images, people's more often than automatic
ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.core.records import Source
from engine.core.rle import encode
from engine.training.config import TrainConfig
from engine.training.trainer import NoMasksError
from flows.data.ingest import imported, ingest
from flows.training.training_set import MaskSource
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset, Image, Split

pytestmark = pytest.mark.usefixtures("prefect_server")
CONFIG = TrainConfig(replay=0.0)


@pytest.fixture
def dataset(workspace: Workspace, scenes: Path) -> Dataset:
    ingest(str(workspace.settings.root), "d", str(scenes), held_out=0.3)
    return workspace.catalog.datasets.get("d")


def commit(workspace: Workspace, dataset: Dataset, source: Source, image_ids: list[int]) -> None:
    """Commit one mask of that source on each image."""
    run = f"run-{source}"
    size = {image.id: (image.height, image.width) for image in images(workspace, dataset)}
    origin = replace(imported(dataset.name, run), source=source)
    masks = [origin.mask(i, "all", encode(np.ones(size[i], bool))) for i in image_ids]
    workspace.masks.commit(masks, run_id=run, shard=0)


def images(workspace: Workspace, dataset: Dataset, split: Split | None = None) -> list[Image]:
    return list(workspace.catalog.images.each(dataset.id, split=split))


def test_held_out_images_are_never_drawn(workspace: Workspace, dataset: Dataset) -> None:
    everything = [image.id for image in images(workspace, dataset)]
    held_out = {image.file_name for image in images(workspace, dataset, Split.HELD_OUT)}
    commit(workspace, dataset, Source.ANNOTATOR, everything)
    source = MaskSource(workspace, dataset, workspace.masks.version(), None, CONFIG)
    rng = np.random.default_rng(0)
    drawn = {source.draw(rng).name for _ in range(200)}
    assert held_out
    assert not drawn & held_out
    assert len(drawn) == len(everything) - len(held_out)
    assert source.counts()["masks"] == {"annotator": len(everything) - len(held_out)}


def test_automatic_masks_take_part_only_where_asked_for_and_seldom(
    workspace: Workspace, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = [image.id for image in images(workspace, dataset, Split.TRAIN)]
    peoples, automatic = train[:2], train[2:]
    commit(workspace, dataset, Source.ANNOTATOR, peoples)
    commit(workspace, dataset, Source.AUTOMATIC, automatic)
    names = {image.id: image.file_name for image in images(workspace, dataset)}
    version = workspace.masks.version()

    def draws() -> Counter[str]:
        source = MaskSource(workspace, dataset, version, None, CONFIG)
        rng = np.random.default_rng(0)
        return Counter(source.draw(rng).name for _ in range(2000))

    assert set(draws()) == {names[i] for i in peoples}
    chosen = workspace.settings.train.model_copy(update={"automatic": True})
    monkeypatch.setattr(
        workspace, "settings", workspace.settings.model_copy(update={"train": chosen})
    )
    found = draws()
    assert set(found) == {names[i] for i in train}
    share = sum(found[names[i]] for i in peoples) / found.total()
    assert share == pytest.approx(20 / (20 + len(automatic)), abs=0.04)


def test_masks_are_pinned_to_a_version_of_the_table(workspace: Workspace, dataset: Dataset) -> None:
    train = [image.id for image in images(workspace, dataset, Split.TRAIN)]
    commit(workspace, dataset, Source.ANNOTATOR, train[:1])
    pinned = workspace.masks.version()
    commit(workspace, dataset, Source.PREFILL, train[1:])
    assert MaskSource(workspace, dataset, pinned, None, CONFIG).counts()["images"] == 1
    newest = MaskSource(workspace, dataset, workspace.masks.version(), "run-prefill", CONFIG)
    assert newest.counts() == {
        "images": len(train),
        "newest_images": len(train) - 1,
        "masks": {"annotator": 1, "prefill": len(train) - 1},
        "replay": 0.0,
    }


def test_without_masks_on_training_images_there_is_nothing_to_train_on(
    workspace: Workspace, dataset: Dataset
) -> None:
    with pytest.raises(NoMasksError, match="no masks on training images"):
        MaskSource(workspace, dataset, workspace.masks.version(), None, CONFIG)
    held_out = [image.id for image in images(workspace, dataset, Split.HELD_OUT)]
    commit(workspace, dataset, Source.ANNOTATOR, held_out)
    with pytest.raises(NoMasksError, match="no masks on training images"):
        MaskSource(workspace, dataset, workspace.masks.version(), None, CONFIG)
