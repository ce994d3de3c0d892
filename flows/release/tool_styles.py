"""Exports as label images, for YOLO, CVAT and Label Studio."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterator, Sequence
from typing import Any

from engine.core.categories import UNLABELLED
from engine.core.records import Source
from flows.release.splits import TRAIN, VAL
from flows.release.styles import Job, Style, Write, by_image, folder_of, joined, named
from storage.formats import cvat, label_png, label_studio
from storage.formats.coco_writer import rles_of
from storage.formats.pages import Page
from storage.formats.yolo_seg import data_yaml, label_line, outline_of


class LabelPngStyle(Style):
    """`<id>.png` for each image, and `objects.csv` with the mask and category of each number."""

    def names(self, ids: Sequence[int], splits: Sequence[str]) -> Iterator[str]:
        for split in splits:
            yield f"{folder_of(split)}objects.csv"
            yield from (f"{folder_of(split)}{number}.png" for number in ids)

    @contextlib.contextmanager
    def writing(self, split: str) -> Iterator[Write]:
        outputs, mark = self.job.outputs, self.job.mark
        folder = folder_of(split)
        with outputs.writing(f"{folder}objects.csv", mark) as listed:
            with listed.open("w", newline="", encoding="utf-8") as file:
                table = csv.writer(file)
                table.writerow(("file", "file_name", "number", "mask_id", "category"))

                def write(page: Page) -> None:
                    for image, masks in by_image(page):
                        name = f"{image['image_id']}.png"
                        found = label_png.label_image(
                            rles_of(masks.masks), (image["height"], image["width"])
                        )
                        self.counts["hidden_pixels"] += found.hidden_pixels
                        self.counts["hidden_masks"] += found.hidden_masks
                        if not outputs.is_ours(folder + name, mark):
                            data = label_png.encode_png(found.labels_HW)
                            outputs.write(folder + name, data, mark)
                        table.writerows(
                            (name, image["file_name"], number, mask_id, label)
                            for number, (mask_id, label) in enumerate(named(masks, self.job), 1)
                        )

                yield write


class YoloStyle(Style):
    """Images, polygons and `data.yaml` of YOLO's segmentation format, with a folder for each split.

    Files are named by the images' ids; `images.csv` says which image is which.
    """

    splits_by_default = True
    data_file, list_file = "data.yaml", "images.csv"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.counts.update(
            dict.fromkeys(
                (TRAIN, VAL, "polygons", "lost_holes", "lost_pieces", "without_category"), 0
            )
        )
        self._rows: list[tuple[str, str, str]] = []
        given = job.categories
        self._numbers = {} if given is None else {one: n for n, one in enumerate(given.names)}

    def names(self, ids: Sequence[int], splits: Sequence[str]) -> Iterator[str]:
        yield from (self.data_file, self.list_file)
        for split in splits:
            yield from (f"labels/{split}/{number}.txt" for number in ids)

    @contextlib.contextmanager
    def writing(self, split: str) -> Iterator[Write]:
        outputs, mark = self.job.outputs, self.job.mark

        def write(page: Page) -> None:
            for image, masks in by_image(page):
                outputs.write(f"labels/{split}/{image['image_id']}.txt", self._lines(masks), mark)
                picture = self._picture(split, image)
                self.counts[split] += 1
                self._rows.append((picture, image["file_name"], image["status"] or ""))

        yield write

    def _picture(self, split: str, image: dict[str, Any]) -> str:
        """Write the image's file, unless it is there; returns its name."""
        stem = f"images/{split}/{image['image_id']}"
        for suffix in (".jpg", ".png", ".webp"):
            if self.job.outputs.is_ours(stem + suffix, image["sha256"]):
                return stem + suffix
        data, suffix = self.job.load(image["key"])
        self.job.outputs.write(stem + suffix, data, image["sha256"])
        return stem + suffix

    def _lines(self, masks: Page) -> str:
        """The lines of an image's masks; counts what they lose."""
        lines = []
        categories = masks.column("category_id").to_pylist()
        for rle, category in zip(rles_of(masks.masks), categories, strict=True):
            number = self._numbers.get(category) if self.job.categories is not None else 0
            if number is None:
                self.counts["without_category"] += 1
                continue
            outline = outline_of(rle)
            lines.append(f"{label_line(number, outline, rle.size)}\n")
            self.counts.update(polygons=1, lost_holes=outline.holes, lost_pieces=outline.pieces)
        return "".join(lines)

    def finish(self, splits: Sequence[str]) -> None:
        with self.job.outputs.writing(self.list_file, self.job.mark) as listed:
            with listed.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([("file", "file_name", "status"), *sorted(self._rows)])
        folders = {split: f"images/{split}" for split in splits if self.counts[split]}
        if not self.counts[VAL]:  # readers need one
            folders[VAL] = folders.get(TRAIN, f"images/{TRAIN}")
        text_yaml = data_yaml(self.job.labels, folders.items())
        self.job.outputs.write(self.data_file, text_yaml, self.job.mark)


class CvatStyle(Style):
    """`annotations.xml` to upload into a CVAT task of the same images."""

    def names(self, ids: Sequence[int], splits: Sequence[str]) -> Iterator[str]:
        yield from (f"{joined('annotations', split)}.xml" for split in splits)

    @contextlib.contextmanager
    def writing(self, split: str) -> Iterator[Write]:
        (name,) = self.names([], [split])
        labels = [*self.job.labels, *([UNLABELLED] if self.job.categories is not None else [])]
        with self.job.outputs.writing(name, self.job.mark) as fresh:
            with fresh.open("w", encoding="utf-8") as file:
                file.write(cvat.head_of(self.job.name, labels))
                number = 0

                def write(page: Page) -> None:
                    nonlocal number
                    for image, masks in by_image(page):
                        automatic = _is_automatic(masks)
                        shapes = [
                            (rle, label, is_automatic)
                            for rle, (_, label), is_automatic in zip(
                                rles_of(masks.masks), named(masks, self.job), automatic, strict=True
                            )
                        ]
                        size = (image["height"], image["width"])
                        file.write(cvat.image_text(number, image["file_name"], size, shapes))
                        number += 1

                yield write
                file.write(cvat.TAIL)


class LabelStudioStyle(Style):
    """`tasks.json` to import into a Label Studio project, and `config.xml` for its labels."""

    def names(self, ids: Sequence[int], splits: Sequence[str]) -> Iterator[str]:
        yield "config.xml"
        yield from (f"{joined('tasks', split)}.json" for split in splits)

    @contextlib.contextmanager
    def writing(self, split: str) -> Iterator[Write]:
        *_, name = self.names([], [split])
        with self.job.outputs.writing(name, self.job.mark) as fresh:
            with fresh.open("w", encoding="utf-8") as file:
                separator = "[\n"

                def write(page: Page) -> None:
                    nonlocal separator
                    for image, masks in by_image(page):
                        file.write(separator + json.dumps(self._task(image, masks)))
                        separator = ",\n"

                yield write
                file.write("\n]\n" if separator == ",\n" else "[]\n")

    def _task(self, image: dict[str, Any], masks: Page) -> dict[str, Any]:
        shapes = [
            (rle, label, mask_id)
            for rle, (mask_id, label) in zip(
                rles_of(masks.masks), named(masks, self.job), strict=True
            )
        ]
        predicted = image["status"] != "annotated"
        address = f"{self.job.image_root}{image['file_name']}"
        return label_studio.task_of(address, shapes, predicted=predicted, version=self.job.name)

    def finish(self, splits: Sequence[str]) -> None:
        labels = [*self.job.labels, *([UNLABELLED] if self.job.categories is not None else [])]
        self.job.outputs.write("config.xml", label_studio.config_of(labels), self.job.mark)


def _is_automatic(masks: Page) -> list[bool]:
    return [source == Source.AUTOMATIC for source in masks.column("source").to_pylist()]
