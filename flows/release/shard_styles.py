"""Exports as shards: tars and Parquet files of many images each.

A shard's images depend on nothing but the release and the options, so a repeated export skips the
shards that it wrote completely.
"""

from __future__ import annotations

import contextlib
import tarfile
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from flows.release.styles import Style, Write, folder_of, write_categories
from storage.formats import hf_parquet
from storage.formats.pages import Page
from storage.formats.sa1b import sa1b_texts


class ShardWriter(Protocol):
    """Writes one shard, in a `with` block."""

    def __enter__(self) -> Self: ...

    def add(self, page: Page) -> None: ...

    def __exit__(self, *error: Any) -> None: ...


class ShardStyle(Style):
    """Files of `shard_images` images each; complete ones of an earlier attempt are kept."""

    def names(self, ids: Sequence[int], splits: Sequence[str]) -> Iterator[str]:
        yield from (self.shard_name(split, 0) for split in splits)

    @abstractmethod
    def shard_name(self, split: str, number: int) -> str:
        """The name of a split's nth shard."""

    @abstractmethod
    def open_shard(self, path: Path) -> ShardWriter:
        """A writer of a shard."""

    @contextlib.contextmanager
    def writing(self, split: str) -> Iterator[Write]:
        shards = _Shards(self, split)
        with shards:
            yield shards.add

    def finish(self, splits: Sequence[str]) -> None:
        write_categories(self.job)


class _Shards:
    """Divides pages among the shards of a split."""

    def __init__(self, style: ShardStyle, split: str) -> None:
        self._style, self._split = style, split
        self._stack: contextlib.ExitStack | None = None
        self._writer: ShardWriter | None = None
        self._number = self._images = 0

    def __enter__(self) -> Self:
        return self

    def add(self, page: Page) -> None:
        place, limit = 0, self._style.job.shard_images
        while place < len(page):
            if self._stack is None:
                self._begin()
            end = min(len(page), place + limit - self._images)
            if self._writer is not None:
                self._writer.add(page.slice(place, end))
            self._images += end - place
            self._style.counts["images"] += end - place
            place = end
            if self._images == limit:
                self._end(None, None, None)

    def _begin(self) -> None:
        job, name = self._style.job, self._style.shard_name(self._split, self._number)
        self._stack = contextlib.ExitStack()
        mark = f"{job.mark}/{job.shard_images}"
        kept = job.outputs.is_ours(name, mark)
        self._style.counts["shards_kept" if kept else "shards"] += 1
        if not kept:
            fresh = self._stack.enter_context(job.outputs.writing(name, mark))
            self._writer = self._stack.enter_context(self._style.open_shard(fresh))

    def _end(self, *error: Any) -> None:
        if self._stack is not None:
            self._stack.__exit__(*error)
        self._stack = self._writer = None
        self._number, self._images = self._number + 1, 0

    def __exit__(self, *error: Any) -> None:
        self._end(*error)


class TarStyle(ShardStyle):
    """`sa_000000.tar`: SA-1B's JSON of each image, `sa_<id>.json`, as Meta published it but
    without the images."""

    with_images: ClassVar[bool] = False

    def shard_name(self, split: str, number: int) -> str:
        return f"{folder_of(split)}sa_{number:06}.tar"

    def member(self, image_id: int) -> str:
        """The name of an image's files in the tar, without suffix."""
        return f"sa_{image_id}"

    def open_shard(self, path: Path) -> ShardWriter:
        return _Tar(self, path)


class WebDatasetStyle(TarStyle):
    """`train-000000.tar`: for each image its file, and SA-1B's JSON under the same name."""

    splits_by_default = True
    with_images = True

    def shard_name(self, split: str, number: int) -> str:
        return f"{split}-{number:06}.tar"

    def member(self, image_id: int) -> str:
        return f"{image_id:09}"


class _Tar:
    def __init__(self, style: TarStyle, path: Path) -> None:
        self._style = style
        self._tar = tarfile.open(path, "w")  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def add(self, page: Page) -> None:
        job = self._style.job
        texts = sa1b_texts(page, named=job.categories is not None)
        keys = page.image_column("key").to_pylist()
        numbers = page.image_column("image_id").to_pylist()
        for number, text, key in zip(numbers, texts, keys, strict=True):
            member = self._style.member(number)
            if self._style.with_images:
                data, suffix = job.load(key)
                self._add(f"{member}{suffix}", data)
            self._add(f"{member}.json", text.as_buffer().to_pybytes())

    def _add(self, name: str, data: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        self._tar.addfile(entry, BytesIO(data))

    def __exit__(self, *error: object) -> None:
        self._tar.close()


class ParquetStyle(ShardStyle):
    """`data/train-00000.parquet` for Hugging Face's `datasets` and MaskDataset, with a `README.md`
    that names the files."""

    splits_by_default = True

    def names(self, ids: Sequence[int], splits: Sequence[str]) -> Iterator[str]:
        yield "README.md"
        yield from super().names(ids, splits)

    def shard_name(self, split: str, number: int) -> str:
        return f"{hf_parquet.FOLDER}/{split}-{number:05}.parquet"

    def open_shard(self, path: Path) -> ShardWriter:
        given = self.job.categories
        ids: list[int | None] = [None] if given is None else list(given.names)
        return hf_parquet.ImageRows(path, ids, self.job.labels, self.job.load)

    def finish(self, splits: Sequence[str]) -> None:
        head = hf_parquet.card_head(splits, self.counts["images"])
        text = f"{head}\n# {self.job.name}\n\nImages with object masks; docs/formats.md of the "
        text += "open data engine describes the columns.\n"
        self.job.outputs.write("README.md", text, self.job.mark)
