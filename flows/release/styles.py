"""What the formats of exports share: how pages of a release are written into files.

A style writes the pages of each split into files of its own.
"""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from engine.core.categories import UNLABELLED, CategoryList
from storage.formats.coco_writer import category_entries
from storage.formats.hf_parquet import ImageLoader
from storage.formats.pages import Page
from storage.outputs import Outputs
from storage.release_files import CATEGORIES_FILE

AGNOSTIC = "object"
"""The only category of a release without categories."""
SHARD_IMAGES = 1_000
"""Images of a shard: about 10,000 to 100,000 masks."""

Write = Callable[[Page], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a style needs: where to write, what to write it as, and where images come from.

    Attributes:
        mark: identifies release and options: files with it need not be written again.
        load: an image's file in a form that every reader knows.
    """

    outputs: Outputs
    name: str
    mark: str
    categories: CategoryList | None
    load: ImageLoader
    polygons: bool = False
    tars: bool = False
    image_root: str = ""
    shard_images: int = SHARD_IMAGES

    @property
    def labels(self) -> list[str]:
        """The names of the categories, in the list's order."""
        return [AGNOSTIC] if self.categories is None else list(self.categories.names.values())


class Style(ABC):
    """A format. `counts` says what was written, and what the format cannot show."""

    splits_by_default: ClassVar[bool] = False
    """Whether held-out images are a split of their own if no splits are asked for."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.counts: Counter[str] = Counter()

    @abstractmethod
    def names(self, ids: Sequence[int], splits: Sequence[str]) -> Iterator[str]:
        """The names of files that the export writes, as far as they are known before."""

    @abstractmethod
    def writing(self, split: str) -> contextlib.AbstractContextManager[Write]:
        """Write a split's files: yields the function to call with each of its pages. `split` is ""
        if the release is not split."""

    def finish(self, splits: Sequence[str]) -> None:  # noqa: B027
        """Write what belongs to all splits, after them."""


def by_image(page: Page) -> Iterator[tuple[dict[str, Any], Page]]:
    """Each image's values, and the page of it alone."""
    for place, image in enumerate(page.images.to_pylist()):
        yield image, page.slice(place, place + 1)


def named(masks: Page, job: Job) -> list[tuple[str, str]]:
    """Id and category of each mask."""
    ids = masks.column("mask_id").to_pylist()
    if job.categories is None:
        return [(mask_id, AGNOSTIC) for mask_id in ids]
    names = job.categories.names
    found = masks.column("category_id").to_pylist()
    return [(mask_id, names.get(one, UNLABELLED)) for mask_id, one in zip(ids, found, strict=True)]


def joined(stem: str, split: str) -> str:
    return f"{stem}_{split}" if split else stem


def folder_of(split: str) -> str:
    return f"{split}/" if split else ""


def write_categories(job: Job) -> None:
    """Write the list of categories beside files that only have their ids, if there is one."""
    if job.categories is not None:
        entries = category_entries(job.categories, unlabelled=False)
        text = json.dumps({"categories": entries}, indent=1)
        job.outputs.write(CATEGORIES_FILE, text, job.mark)
