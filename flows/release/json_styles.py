"""Exports as COCO's, LVIS's and SA-1B's JSON."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import ClassVar

from flows.release.styles import Style, Write, folder_of, joined, write_categories
from storage.formats.coco_writer import CocoWriter
from storage.formats.lvis_writer import LvisWriter
from storage.formats.pages import Page
from storage.formats.sa1b import sa1b_texts
from storage.release_files import CATEGORIES_FILE


class CocoStyle(Style):
    """`instances.json`, or one for each split."""

    stem: ClassVar[str] = "instances"
    kind: ClassVar[type[CocoWriter]] = CocoWriter

    def names(self, ids: Sequence[int], splits: Sequence[str]) -> Iterator[str]:
        yield from (f"{joined(self.stem, split)}.json" for split in splits)

    @contextlib.contextmanager
    def writing(self, split: str) -> Iterator[Write]:
        (name,) = self.names([], [split])
        with self.job.outputs.writing(name, self.job.mark) as fresh:
            kept = {"categories": self.job.categories, "polygons": self.job.polygons}
            with self.kind(fresh, description=self.job.name, **kept) as writer:  # type: ignore[arg-type]
                yield writer.add_page
            self.counts.update(writer.counts)


class LvisStyle(CocoStyle):
    """`lvis.json`, or one for each split."""

    stem = "lvis"
    kind = LvisWriter


class Sa1bStyle(Style):
    """`sa_<id>.json` for each image, in folders of the splits if there are any."""

    def names(self, ids: Sequence[int], splits: Sequence[str]) -> Iterator[str]:
        if self.job.categories is not None:
            yield CATEGORIES_FILE
        for split in splits:
            yield from (f"{folder_of(split)}sa_{number}.json" for number in ids)

    @contextlib.contextmanager
    def writing(self, split: str) -> Iterator[Write]:
        outputs, mark = self.job.outputs, self.job.mark

        def write(page: Page) -> None:
            texts = sa1b_texts(page, named=self.job.categories is not None)
            for number, text in zip(page.image_column("image_id").to_pylist(), texts, strict=True):
                name = f"{folder_of(split)}sa_{number}.json"
                if not outputs.is_ours(name, mark):
                    outputs.write(name, text.as_buffer().to_pybytes(), mark)

        yield write

    def finish(self, splits: Sequence[str]) -> None:
        write_categories(self.job)
