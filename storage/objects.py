"""The contract of the object stores: a folder of this machine (`local_store`) or S3 (`s3_store`).

An object is written once under a fresh key and never changed. Keys are `/`-separated relative
paths in UTF-8 ("images/000001.jpg"); they may come from outside, so every method checks them.
No key may be a folder of another one ("a" beside "a/b"): a file system cannot hold both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from engine.core.errors import DataEngineError


class StorageError(DataEngineError):
    """Base of all storage errors. Raised itself where a retry cannot help (access denied, disk
    full, no such bucket): a person has to look at the settings."""


class ObjectNotFoundError(StorageError):
    """No object has this key: the caller's reference is wrong, or the object was swept."""


class ObjectExistsError(StorageError):
    """The key holds other content, which was left as it was: the caller takes a fresh key."""


class StorageUnavailableError(StorageError):
    """The store did not answer, or answered that it is busy: the caller tries again later."""


class ObjectMissingError(StorageUnavailableError):
    """The catalog names an object that the store does not have. Of an image that says nothing: the
    store may not be mounted, or be another one. The caller waits as for any other outage."""


@contextlib.contextmanager
def named_by_catalog(advice: str = "") -> Iterator[None]:
    """Around reading an object that the catalog names; `advice`: for an object lost for good.

    Raises:
        ObjectMissingError: it is not there.
    """
    try:
        yield
    except ObjectNotFoundError as error:
        question = "though the catalog names it: is the store mounted, and the right one?"
        raise ObjectMissingError(f"{error}, {question} {advice}".strip()) from error


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One line of a listing."""

    key: str
    size: int
    """Bytes."""
    modified: datetime
    """When it was written, UTC."""


class ObjectStore(Protocol):
    """Write-once objects by key.

    Every method raises ValueError for a key that `check_key` refuses, and StorageUnavailableError
    or another StorageError where the store itself fails.
    """

    def put(self, key: str, data: bytes) -> None:
        """Write an object, whole or not at all; nothing happens if it is there with this content.

        Raises:
            ObjectExistsError: the key holds other content.
        """

    def put_file(self, key: str, path: Path) -> None:
        """Write an object from a local file, without holding it in memory; otherwise as `put`.

        Raises:
            ObjectExistsError: the key holds other content.
            ValueError: the file is larger than 5 GiB and the store is S3.
            OSError: the local file cannot be read.
        """

    def get(self, key: str) -> bytes:
        """The object's content.

        Raises:
            ObjectNotFoundError: no object has this key.
        """

    def fetch(self, key: str, path: Path) -> None:
        """Stream the object to a local file, which is replaced whole or not at all; its folder is
        made if it is missing.

        Raises:
            ObjectNotFoundError: no object has this key.
            OSError: the local file cannot be written.
        """

    def exists(self, key: str) -> bool:
        """Whether an object has this key."""

    def size(self, key: str) -> int:
        """The object's size in bytes.

        Raises:
            ObjectNotFoundError: no object has this key.
        """

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Stream the objects whose key starts with `prefix`, a string rather than a folder.

        Each key comes once, and the keys of one folder come in byte order. A local folder and
        AWS keep that order across folders too; SeaweedFS puts "a/x" before "a-b".
        """

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens if there is none."""

    def sync(self, keys: Iterable[str]) -> None:
        """Have on disk what others than this class wrote under these keys, and the folders it is
        in; keys without an object are passed over. What `put` and `put_file` wrote is."""

    def uri(self, key: str) -> str:
        """The object's address, `file:///...` or `s3://...`; it holds no secret."""

    def delta_uri(self, key: str) -> str:
        """The address of a Delta table kept under this key, as deltalake takes it.

        Raises:
            StorageError: deltalake cannot work at this place.
        """

    def delta_options(self) -> dict[str, str]:
        """deltalake's `storage_options` for this store. They hold the secret key: do not log."""


def same_content(source: BinaryIO, chunks: Iterator[bytes]) -> bool:
    """Whether the source holds the chunks, in their order, and nothing more."""
    return all(source.read(len(chunk)) == chunk for chunk in chunks) and not source.read(1)
