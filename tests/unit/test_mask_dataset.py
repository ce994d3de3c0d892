"""MaskDataset: what training reads from a Parquet export, in what order, and after a stop."""

from __future__ import annotations

import copy
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.core import rle as rle_codec
from engine.core.run_lengths import masks_in_boxes, unpack
from engine.data import MaskDataset, MaskLoader, MaskStream, collate
from engine.sam.torchvision_ops import ensure_torchvision
from storage.formats.hf_parquet import ImageRows
from storage.formats.images import write_png
from storage.formats.pages import Page, page_of
from tests.labelled_shapes import SIDE, draw_picture
from tests.unit.test_sa1b import mask_of

IMAGES = 40
ROOT = Path(__file__).parents[2]


def page_with(number: int) -> Page:
    """An image with its masks, every third without a category."""
    things = draw_picture(number).things
    image = {"image_id": number, "file_name": f"{number}.png", "key": str(number)}
    masks = []
    for place, thing in enumerate(things):
        mask = mask_of(rle_codec.decode(thing.rle))
        object.__setattr__(mask, "mask_id", f"{number}/{place}")
        masks.append(mask)
    ids = {mask.mask_id: 5 + place % 2 for place, mask in enumerate(masks) if place % 3 != 2}
    return page_of(image | {"height": SIDE, "width": SIDE}, masks, ids)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `dataengine export --format parquet` writes it: two files, 40 images."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "data").mkdir()

    def load(key: str) -> tuple[bytes, str]:
        return write_png(draw_picture(int(key)).image_HWC), ".png"

    for file in range(2):
        path = folder / f"data/train-{file:05}.parquet"
        with ImageRows(path, [5, 6], ["cat", "dog"], load) as rows:
            for number in range(file * IMAGES // 2, (file + 1) * IMAGES // 2):
                rows.add(page_with(number))
    return folder


def test_images_masks_boxes_and_labels_are_those_that_were_written(export: Path) -> None:
    dataset = MaskDataset(str(export), keep_unlabelled=True)
    assert len(dataset) == IMAGES
    assert dataset.categories == ["cat", "dog"]
    for number in (0, 19, 20, 39):
        image, target = dataset[number]
        picture = draw_picture(number)
        assert (image.numpy().transpose(1, 2, 0) == picture.image_HWC).all()
        assert target["labels"].tolist() == [1, 2, 0, 2]
        for place, thing in enumerate(picture.things):
            assert (target["masks"][place].numpy() == rle_codec.decode(thing.rle)).all()
            assert tuple(target["boxes"][place].tolist()) == rle_codec.box_xyxy(thing.rle)
            assert target["area"][place] == rle_codec.area(thing.rle)
    assert MaskDataset(str(export))[0][1]["labels"].tolist() == [1, 2, 2]
    with pytest.raises(IndexError):
        dataset[IMAGES]


def test_a_folder_that_is_no_export_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--format parquet"):
        MaskDataset(str(tmp_path))


def test_a_torchvision_model_trains_a_step_on_it(export: Path) -> None:
    ensure_torchvision()
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    def classes_of_pixels(image: torch.Tensor, target: dict[str, Any]) -> Any:
        labels = target["masks"] * target["labels"][:, None, None]
        return image / 255, labels.amax(dim=0)

    dataset = MaskDataset(str(export), transform=classes_of_pixels)
    loader = MaskLoader(dataset, batch_size=2, collate_fn=torch.utils.data.default_collate)
    images, classes = next(iter(loader))
    model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(2):
        loss = torch.nn.functional.cross_entropy(model(images)["out"], classes)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss))
    assert losses[1] < losses[0]


def ids_of(batches: Any) -> list[list[int]]:
    return [[target["image_id"] for target in targets] for _, targets in batches]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_training_that_stopped_goes_on_with_the_batches_that_would_have_followed(
    export: Path, streamed: bool
) -> None:
    check_resume(export, workers=0, streamed=streamed)


def test_a_training_with_workers_goes_on_likewise(export: Path) -> None:
    # a process of its own: Prefect's threads, which other tests start, make forked workers fail
    code = (
        "import sys, pathlib, tests.unit.test_mask_dataset as tests\n"
        "for streamed in (False, True):\n"
        "    tests.check_resume(pathlib.Path(sys.argv[1]), workers=2, streamed=streamed)"
    )
    subprocess.run([sys.executable, "-c", code, str(export)], check=True, cwd=ROOT)


def check_resume(export: Path, workers: int, streamed: bool) -> None:
    """Check that a loader that stopped after some batches goes on with those that follow."""
    dataset = MaskDataset(str(export))

    def loader() -> MaskLoader:
        source = MaskStream(dataset, seed=3) if streamed else dataset
        return MaskLoader(source, batch_size=3, workers=workers, seed=3)

    whole = loader()
    first, second = ids_of(whole), ids_of(whole)
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(IMAGES))
    assert first != second
    for stop in (1, 5, len(first) - 1):
        stopped = loader()
        batches = iter(stopped)
        begun = ids_of(next(batches) for _ in range(stop))
        state = copy.deepcopy(stopped.state_dict())
        del batches
        resumed = loader()
        resumed.load_state_dict(state)
        assert begun + ids_of(resumed) == first
        assert ids_of(resumed) == second


def test_a_state_of_a_loader_with_other_arguments_is_refused(export: Path) -> None:
    dataset = MaskDataset(str(export))
    state = MaskLoader(dataset, batch_size=2).state_dict()
    with pytest.raises(ValueError, match="its batches would be others"):
        MaskLoader(dataset, batch_size=3).load_state_dict(state)


def test_machines_that_share_a_stream_read_each_image_once(export: Path) -> None:
    dataset = MaskDataset(str(export))
    read: list[int] = []
    for number in range(2):
        stream = MaskStream(dataset, seed=1, share=(number, 2))
        read += [target["image_id"] for _, target in stream]
    assert sorted(read) == list(range(IMAGES))


def test_batches_are_lists_because_images_have_different_sizes() -> None:
    samples = [(torch.zeros(3, side, 5), {"image_id": side}) for side in (4, 6)]
    images, targets = collate(samples)
    assert [tuple(image.shape) for image in images] == [(3, 4, 5), (3, 6, 5)]
    assert targets == [{"image_id": 4}, {"image_id": 6}]


def test_masks_decoded_in_their_boxes_are_whole_and_damaged_ones_are_refused() -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random((30, 20)) > share for share in (0.05, 0.5, 0.99)]
    masks.append(np.ones((30, 20), bool))
    masks.append(np.zeros((30, 20), bool))
    masks[1][:, :6] = False
    masks[1][25:] = False
    coded = [rle_codec.encode(mask) for mask in masks]
    boxes = np.array([rle_codec.box_xyxy(one) for one in coded])
    counts = [one.counts for one in coded]
    assert (masks_in_boxes(counts, boxes, (30, 20)) == np.stack(masks)).all()
    with pytest.raises(ValueError, match="do not fit its box"):
        masks_in_boxes(counts[:1], np.array([[0, 0, 9, 9]]), (30, 20))
    for bad in (b"", b"\xff", b"o"):
        with pytest.raises(ValueError, match="empty, cut off"):
            unpack([counts[0], bad])
