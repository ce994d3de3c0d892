"""The masks that a retrain draws: none of held-out images, people's more often than automatic
ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.core.records import Source, Stage
from engine.core.rle import encode
from engine.training.config import TrainConfig
from engine.training.trainer import NoMasksError
from flows.data.annotations import imported
from flows.data.ingest import ingest
from flows.training.recipe import TrainingData, train_config
from flows.training.training_set import MaskSource
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset, Image, Split

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def _without_scenes(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = workspace.settings
    train = settings.train.model_copy(update={"replay": 0.0})
    monkeypatch.setattr(workspace, "settings", settings.model_copy(update={"train": train}))


@pytest.fixture
def dataset(workspace: Workspace, scenes: Path) -> Dataset:
    ingest(str(workspace.settings.root), "d", str(scenes), held_out=0.3)
    return workspace.catalog.datasets.get("d")


def commit(
    workspace: Workspace,
    dataset: Dataset,
    source: Source,
    image_ids: list[int],
    stage: Stage = Stage.ASSISTED_MANUAL,
) -> None:
    """Commit one mask of that source and stage on each image."""
    run = f"{source}-{stage}"
    size = {image.id: (image.height, image.width) for image in images(workspace, dataset)}
    origin = replace(imported(dataset.name, run), source=source, stage=stage)
    masks = [origin.mask(i, "all", encode(np.ones(size[i], bool))) for i in image_ids]
    workspace.masks.commit(masks, run_id=run, shard=0)


def images(workspace: Workspace, dataset: Dataset, split: Split | None = None) -> list[Image]:
    return list(workspace.catalog.images.each(dataset.id, split=split))


def test_held_out_images_are_never_drawn(workspace: Workspace, dataset: Dataset) -> None:
    everything = [image.id for image in images(workspace, dataset)]
    held_out = {image.file_name for image in images(workspace, dataset, Split.HELD_OUT)}
    commit(workspace, dataset, Source.ANNOTATOR, everything)
    source = MaskSource(workspace, dataset, workspace.masks.version(), None)
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
        source = MaskSource(workspace, dataset, version, None)
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
    assert MaskSource(workspace, dataset, pinned, None).counts()["images"] == 1
    newest = MaskSource(workspace, dataset, workspace.masks.version(), "prefill-assisted_manual")
    assert newest.counts() == {
        "images": len(train),
        "early_stopping_images": 0,
        "newest_images": len(train) - 1,
        "complete_images": 0,
        "masks": {"annotator": 1, "prefill": len(train) - 1},
        "replay": 0.0,
    }


def test_only_images_that_people_completed_count_as_complete(
    workspace: Workspace, dataset: Dataset
) -> None:
    train = images(workspace, dataset, Split.TRAIN)
    ids = [image.id for image in train]
    commit(workspace, dataset, Source.ANNOTATOR, ids)
    commit(workspace, dataset, Source.ANNOTATOR, ids[:1], Stage.SEMI_AUTOMATIC)
    source = MaskSource(workspace, dataset, None, None)
    rng = np.random.default_rng(0)
    drawn = [source.draw(rng) for _ in range(200)]
    assert {example.name for example in drawn if example.is_complete} == {train[0].file_name}
    assert source.counts()["complete_images"] == 1


def test_without_masks_on_training_images_there_is_nothing_to_train_on(
    workspace: Workspace, dataset: Dataset
) -> None:
    with pytest.raises(NoMasksError, match="no masks on training images"):
        MaskSource(workspace, dataset, workspace.masks.version(), None)
    held_out = [image.id for image in images(workspace, dataset, Split.HELD_OUT)]
    commit(workspace, dataset, Source.ANNOTATOR, held_out)
    with pytest.raises(NoMasksError, match="no masks on training images"):
        MaskSource(workspace, dataset, workspace.masks.version(), None)


def test_images_for_early_stopping_are_not_trained_on(
    workspace: Workspace, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = images(workspace, dataset, Split.TRAIN)
    commit(workspace, dataset, Source.ANNOTATOR, [image.id for image in train])
    assert MaskSource(workspace, dataset, None, None).checked() == []  # too few images
    monkeypatch.setattr("flows.training.training_set.LEAST_IMAGES", 4)
    source = MaskSource(workspace, dataset, None, None)
    checked = {example.name for example in source.checked()}
    rng = np.random.default_rng(0)
    drawn = {source.draw(rng).name for _ in range(200)}
    assert checked
    assert not checked & drawn
    assert checked | drawn == {image.file_name for image in train}
    assert source.data == TrainingData(images=len(drawn), masks=len(train), checked=len(checked))


def test_a_training_is_configured_by_its_data_and_settings_override_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def configured(images: int, masks: int, checked: int = 0) -> TrainConfig:
        data = TrainingData(images=images, masks=masks, checked=checked)
        return train_config(workspace, data)

    chosen = workspace.settings.train
    assert (chosen.steps, configured(500, 9).steps) == (2, 2)  # as set for these tests
    free = chosen.model_copy(update={"steps": None, "images_per_step": 4})
    settings = workspace.settings.model_copy(update={"train": free})
    monkeypatch.setattr(workspace, "settings", settings)
    assert [configured(n, 999).steps for n in (1, 50, 100, 9999)] == [150, 250, 500, 600]
    assert [configured(9, n).frozen_encoder for n in (1, 59, 60)] == [True, True, False]
    assert configured(100, 999).check_steps == 0
    assert configured(100, 999, checked=9).check_steps == 62
    settings = settings.model_copy(
        update={"train": free.model_copy(update={"frozen_encoder": False})}
    )
    monkeypatch.setattr(workspace, "settings", settings)
    assert not configured(9, 1).frozen_encoder
