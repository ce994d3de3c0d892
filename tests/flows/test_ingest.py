"""Invalid input: each file is handled or quarantined with its reason, and does not stop the
ingest."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.data.ingest import ingest_folder, split_of
from flows.operations.status import status_of
from flows.workspace.workspace import Workspace
from storage.catalog import Split
from storage.objects import StorageUnavailableError


def _picture(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def _bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    return _bytes(_picture(), "JPEG", exif=exif)


def _deep() -> bytes:
    values = np.linspace(100, 900, 1200).reshape(30, 40).astype(np.uint16)
    return _bytes(Image.fromarray(values), "PNG")


def _bomb() -> bytes:
    return _bytes(Image.new("1", (20_000, 20_000)), "PNG")


GOOD: dict[str, Callable[[], bytes]] = {
    "plain.jpg": lambda: _bytes(_picture(), "JPEG"),
    "cmyk.jpg": lambda: _bytes(_picture("CMYK"), "JPEG"),
    "deep.png": _deep,
    "grey.png": lambda: _bytes(_picture("L"), "PNG"),
    "alpha.png": lambda: _bytes(_picture("RGBA"), "PNG"),
    "rotated.jpg": _rotated,
    "moving.gif": lambda: _bytes(
        _picture("P"), "GIF", save_all=True, append_images=[_picture("L").convert("P")]
    ),
    "with space und Ümläut 猫.png": lambda: _bytes(_picture(size=(41, 30)), "PNG"),
}
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "truncated.jpg": (lambda: _bytes(_picture(size=(200, 200)), "JPEG")[:4000], "truncated"),
    "text.png": (lambda: b"this is no picture at all\n" * 10, ""),
    "empty.png": (lambda: b"", "empty"),
    "dot.png": (lambda: _bytes(_picture(size=(1, 1)), "PNG"), "small"),
    "bomb.png": (_bomb, "pixels"),
}


def test_bad_files_are_quarantined_with_a_reason_and_good_ones_come_in(
    workspace: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, make in GOOD.items():
        (folder / name).write_bytes(make())
    for name, (make, _) in BAD.items():
        (folder / name).write_bytes(make())
    (folder / "again.jpg").write_bytes((folder / "plain.jpg").read_bytes())

    report = ingest_folder(workspace, "d", folder)
    assert (report.added, report.known, report.quarantined) == (len(GOOD), 1, len(BAD))
    reasons = {row.path: row.reason for row in workspace.catalog.quarantine.all(1)}
    assert set(reasons) == set(BAD)
    assert {problem.split(":")[0] for problem in report.problems} == set(BAD)
    for name, (_, word) in BAD.items():
        assert word in reasons[name], (name, reasons[name])
    assert sum(status_of(workspace)["quarantine"].values()) == len(BAD)

    images = {image.file_name: image for image in workspace.catalog.images.page(1)}
    names = set(GOOD) - {"plain.jpg"} | {"again.jpg"}  # the first of two equal files gives the name
    assert set(images) == names
    assert workspace.catalog.images.aliases(images["again.jpg"].id) == ["plain.jpg"]
    assert (images["rotated.jpg"].height, images["rotated.jpg"].width) == (40, 30)
    for image in images.values():
        pixels = workspace.pixels(image)
        assert pixels.shape == (image.height, image.width, 3)
        assert pixels.std() > 5, image.file_name

    second = ingest_folder(workspace, "d", folder)
    assert (second.added, second.quarantined) == (0, len(BAD))
    assert len(workspace.catalog.quarantine.all(1)) == len(BAD)


def test_annotations_that_do_not_fit_are_reported_and_the_others_kept(
    workspace: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(_bytes(_picture(), "PNG"))
    square = [[5, 5, 15, 5, 15, 15, 5, 15]]
    wrong = {"size": [10, 10], "counts": [50, 50]}
    crowd = {"size": [30, 40], "counts": [600, 600]}
    content = {
        "images": [
            {"id": 1, "file_name": "a.png", "height": 30, "width": 40},
            {"id": 2, "file_name": "gone.png", "height": 30, "width": 40},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": square},
            {"id": 2, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": wrong},
            {"id": 3, "image_id": 1, "category_id": 1, "iscrowd": 1, "segmentation": crowd},
            {"id": 4, "image_id": 9, "category_id": 1, "iscrowd": 0, "segmentation": square},
        ],
        "categories": [{"id": 1, "name": "object"}],
    }
    coco = tmp_path / "instances.json"
    coco.write_text(json.dumps(content))
    report = ingest_folder(workspace, "d", folder, coco)
    assert report.masks == 1
    assert len(report.problems) == 4
    (truth,) = workspace.truths_of([1])[1]
    assert truth.size == (30, 40)
    ingest_folder(workspace, "d", folder, coco)
    assert len(workspace.truths_of([1])[1]) == 1


def test_an_image_that_is_nearly_one_colour_comes_in_and_is_named(
    workspace: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "blank.png").write_bytes(_bytes(Image.new("RGB", (40, 30), "white"), "PNG"))
    (folder / "good.png").write_bytes(_bytes(_picture(), "PNG"))
    report = ingest_folder(workspace, "d", folder)
    assert (report.added, report.quarantined) == (2, 0)
    (problem,) = report.problems
    assert problem.startswith("blank.png: read as nearly one colour")


def test_an_outage_of_the_store_is_waited_for(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("plain.jpg", "grey.png"):
        (tmp_path / "in" / name).write_bytes(GOOD[name]())
    put, tries = workspace.objects.put, list[str]()

    def away_at_first(key: str, data: bytes) -> None:
        tries.append(key)
        if len(tries) == 1:
            raise StorageUnavailableError("S3 is busy")
        put(key, data)

    monkeypatch.setattr(workspace.objects, "put", away_at_first)
    report = ingest_folder(workspace, "d", tmp_path / "in")
    marks = [key for key in tries if key.startswith("generations/")]
    assert (report.added, report.quarantined, len(tries) - len(marks)) == (2, 0, 2)
    assert len(marks) == 2  # the run's write, retried


def test_the_split_depends_on_the_content_alone() -> None:
    names = [f"{number:064x}" for number in range(0, 1 << 32, 1 << 22)]
    digests = [name[-8:] + name[:-8] for name in names]
    held = [split_of(digest, 0.25) == Split.HELD_OUT for digest in digests]
    assert np.mean(held) == pytest.approx(0.25, abs=0.01)
    assert held == [split_of(digest, 0.25) == Split.HELD_OUT for digest in digests]
