"""The files of a release: masks and images as Parquet, and a manifest that lists all files.

`masks-00000.parquet` and following are sorted by image_id, over all of them: the mask table's
columns and `category_id`. `images.parquet` has a row for each image. `manifest.json` has the rows,
bytes and SHA-256 of each other file, and one sum over them, so that a copy anywhere can be checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from storage import layout
from storage.mask_rows import ROW_GROUP_ROWS, SCHEMA
from storage.objects import ObjectNotFoundError, ObjectStore, StorageError

MANIFEST_FILE, IMAGES_FILE, CATEGORIES_FILE = "manifest.json", "images.parquet", "categories.json"
STATS_FILE = "stats.json"
"""The release's figures."""
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
FORMAT = 1
"""Of the manifest; a reader refuses higher ones."""
FILE_ROWS = 500_000
"""Rows of a file of masks, at most."""

MASKS_SCHEMA = SCHEMA.append(pa.field("category_id", pa.int32()))
"""The columns of a release's masks; `category_id` is null without a category."""
IMAGES_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("near_image_id", pa.int64()),
        pa.field("masks", pa.int32(), nullable=False),
    ]
)
"""The columns of a release's images: `file_name` is unique in the release, `key` of the pixels in
the store, `status` as in exports, `near_image_id` of the image that it nearly repeats."""


class ReleaseFileError(StorageError):
    """A release's file is damaged or of another kind; the message names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One file: its name, bytes and SHA-256; `rows` if it is Parquet."""

    name: str
    bytes: int
    sha256: str
    rows: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a release consists of. JSON values only, apart from `files`."""

    name: str
    dataset: str
    created_at: str
    table_version: int
    """Version of the mask table that the masks were chosen from."""
    label_id: int | None
    categories_version: int | None
    rules: dict[str, Any]
    """Which masks were accepted."""
    counts: dict[str, Any]
    """`images`, `masks`, masks per stage and source, images per status."""
    models: dict[str, Any]
    """Model versions that made masks: architecture, parent, and key of the checkpoint."""
    settings: dict[str, Any]
    """The workspace's settings that masks depend on."""
    code_version: str
    files: list[FileEntry]
    tree_sha256: str
    """`tree_sum` of the files."""
    privacy: dict[str, Any] | None = None
    """The detector that blurred images, and what it found; None: no image was blurred."""
    supersedes: str | None = None
    """The release that this one was made of by a takedown."""
    tombstones: list[dict[str, Any]] = field(default_factory=list)
    """The images that takedowns removed: `image_id`, `masks`, `at`."""
    format: int = FORMAT

    def to_json(self) -> bytes:
        """The manifest as the content of its file."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, default=str).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Self:
        """The manifest of a file's content.

        Raises:
            ReleaseFileError: it is none, or of a newer format; `where` is in the message.
        """
        try:
            values = json.loads(data)
            if values["format"] > FORMAT:
                raise ReleaseFileError(f"{where} is of format {values['format']}: use newer code")
            files = [FileEntry(**entry) for entry in values.pop("files")]
            if odd := [one.name for one in files if not _NAME.fullmatch(one.name)]:
                raise ReleaseFileError(f"{where} lists {odd[0]!r}, which is not a plain file name")
            return cls(**values, files=files)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ReleaseFileError(f"{where} is not a manifest of a release: {error}") from error


def tree_sum(files: Sequence[FileEntry]) -> str:
    """One SHA-256 over names and sums: of the lines `SHA256  NAME` in order of name, as `sha256sum`
    prints them."""
    lines = (f"{one.sha256}  {one.name}\n" for one in sorted(files, key=lambda one: one.name))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def entry_of(folder: Path, name: str) -> FileEntry:
    """The entry of a local file.

    Raises:
        OSError: it cannot be read.
    """
    path = folder / name
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    rows = pq.read_metadata(path).num_rows if name.endswith(".parquet") else None
    return FileEntry(name=name, bytes=path.stat().st_size, sha256=digest, rows=rows)


class RowsWriter:
    """Writes one Parquet file in row groups of about the mask table's size, in a `with` block.

    Raises:
        OSError: the disk is full, or the folder is gone.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(
            path, schema, compression="zstd", compression_level=3, write_page_index=True
        )
        self._held: list[pa.Table] = []
        self._waiting = self.rows = 0

    def __enter__(self) -> Self:
        return self

    def write(self, rows: pa.Table) -> None:
        """Append rows of the schema's columns."""
        self._held.append(rows.cast(self._schema))
        self._waiting += rows.num_rows
        self.rows += rows.num_rows
        if self._waiting >= ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.concat_tables(self._held), row_group_size=ROW_GROUP_ROWS)
        self._held, self._waiting = [], 0

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._writer.close()


class MaskFilesWriter:
    """Writes the files of masks into a folder, in a `with` block; tables come sorted by image.

    Raises:
        OSError: the disk is full, or the folder is gone.
    """

    def __init__(self, folder: Path, file_rows: int = FILE_ROWS) -> None:
        self._folder, self._limit = folder, file_rows
        self._open = contextlib.ExitStack()
        self.names: list[str] = []
        """The files begun so far."""

    def __enter__(self) -> Self:
        self._begin()  # a release without masks has one file too
        return self

    def write(self, rows: pa.Table) -> None:
        """Append rows of MASKS_SCHEMA, whole images; a file exceeds its limit by one table at
        most."""
        if self._writer.rows >= self._limit:
            self._open.close()
            self._begin()
        self._writer.write(rows)

    def _begin(self) -> None:
        self.names.append(masks_file(len(self.names)))
        writer = RowsWriter(self._folder / self.names[-1], MASKS_SCHEMA)
        self._writer = self._open.enter_context(writer)

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)


def masks_file(number: int) -> str:
    """The name of the nth file of masks, from 0."""
    return f"masks-{number:05}.parquet"


def is_masks_file(name: str) -> bool:
    """Whether a release's file holds masks."""
    return name.startswith("masks-") and name.endswith(".parquet")


class MaskFiles:
    """A release's Parquet files, for reading.

    Args:
        names: of all files.
        path_of: returns the local path of a file.
    """

    def __init__(self, names: Iterable[str], path_of: Callable[[str], Path]) -> None:
        self.names, self.path = sorted(names), path_of
        self.mask_files = list(filter(is_masks_file, self.names))
        """The names of the files of masks, in order."""

    def images(self) -> pa.Table:
        """All rows of the images, by image_id.

        Raises:
            ReleaseFileError: the file is damaged.
        """
        path = self.path(IMAGES_FILE)
        with _reading(IMAGES_FILE):
            return pq.read_table(path, schema=IMAGES_SCHEMA)

    def categories(self) -> dict[int, str]:
        """The names of the categories by id; empty in a class-agnostic release.

        Raises:
            ReleaseFileError: the file is damaged.
        """
        if CATEGORIES_FILE not in self.names:
            return {}
        path = self.path(CATEGORIES_FILE)
        with _reading(CATEGORIES_FILE):
            listed = json.loads(path.read_bytes())
            return {int(one["id"]): str(one["name"]) for one in listed["categories"]}

    def masks(self, columns: Sequence[str] | None = None, *, first: int, last: int) -> pa.Table:
        """The masks of the images with ids from `first` to `last`, in the release's order. Row
        groups of other images are not read.

        Raises:
            ReleaseFileError: a file is damaged.
        """
        image, parts = ds.field("image_id"), []
        for name in self.mask_files:
            path = str(self.path(name))
            with _reading(name):
                found = ds.dataset([path], schema=MASKS_SCHEMA, format="parquet")
                wanted = (image >= first) & (image <= last)
                parts.append(
                    found.to_table(
                        columns=None if columns is None else list(columns), filter=wanted
                    )
                )
        return pa.concat_tables(parts)

    def batches(
        self, columns: Sequence[str] | None = None, batch_size: int = ROW_GROUP_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """Stream the masks in order, however they divide into images.

        Raises:
            ReleaseFileError: a file is damaged.
        """
        for name in self.mask_files:
            path = self.path(name)
            with _reading(name), pq.ParquetFile(path) as file:
                wanted = None if columns is None else list(columns)
                yield from file.iter_batches(batch_size=batch_size, columns=wanted)


class ReleaseFiles(MaskFiles):
    """A finished release's files in the store, for reading.

    Files of an S3 store are fetched into `cache` first, once; a folder's are read where they lie.

    Raises:
        ReleaseFileError: it has no manifest, or a damaged one.
        StorageError: the store does not answer.
    """

    def __init__(self, store: ObjectStore, key: str, cache: Path) -> None:
        self._store, self._key, self._cache = store, key, cache
        name = self.key(MANIFEST_FILE)
        try:
            self.manifest_bytes = store.get(name)
        except ObjectNotFoundError as error:
            raise ReleaseFileError(f"{name} is missing: the release has no manifest") from error
        self.manifest = Manifest.from_json(self.manifest_bytes, name)
        super().__init__([one.name for one in self.manifest.files], self.local_path)

    def key(self, name: str) -> str:
        """The key of a file."""
        return layout.inside(self._key, name)

    def local_path(self, name: str) -> Path:
        """A local path to read a file from.

        Raises:
            ObjectNotFoundError: the store lacks it.
            OSError: the cache's disk is full.
        """
        address = urlsplit(self._store.uri(self.key(name)))
        if address.scheme == "file":
            return Path(url2pathname(address.path))
        path = self._cache / self.key(name)
        if not path.is_file():
            self._store.fetch(self.key(name), path)
        return path


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn errors of Arrow and JSON into one that names the file."""
    try:
        yield
    except (pa.ArrowException, ValueError, KeyError, TypeError, OSError) as error:
        raise ReleaseFileError(
            f"{name} of the release cannot be read: {error}; `dataengine release verify` checks "
            "all its files"
        ) from error
