"""The contract of the object stores: a local folder (`local_store`) or S3 (`s3_store`).

An object is written once under a fresh key and never changed. Keys are `/`-separated relative
paths in UTF-8 ("images/000001.jpg"); they may be untrusted, so every method checks them.
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
    """Base of all storage errors. Raised itself if a retry cannot help (access denied, disk full,
    no such bucket): the settings need a change."""


class ObjectNotFoundError(StorageError):
    """No object has this key: the caller's reference is wrong, or the object was swept."""


class ObjectExistsError(StorageError):
    """The key holds other content, which is unchanged: the caller uses a fresh key."""


class StorageUnavailableError(StorageError):
    """The store does not answer, or is busy: the caller retries later."""


class ObjectMissingError(StorageUnavailableError):
    """The catalog names an object that the store lacks. That does not make an image bad: the store
    may be unmounted, or another one. The caller waits as for any other outage."""


@contextlib.contextmanager
def named_by_catalog(advice: str = "") -> Iterator[None]:
    """Wraps reads of an object that the catalog names; `advice`: what to do if it is lost.

    Raises:
        ObjectMissingError: the store lacks it.
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
    """Time of writing, UTC."""


class ObjectStore(Protocol):
    """Write-once objects by key.

    Every method raises ValueError for a key that `check_key` refuses, and StorageUnavailableError
    or another StorageError if the store fails.
    """

    def put(self, key: str, data: bytes) -> None:
        """Write an object atomically; does nothing if it exists with this content.

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
        """Stream the object to a local file, which is replaced atomically; its folder is made if
        missing.

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
        """Delete the object; does nothing if there is none."""

    def sync(self, keys: Iterable[str]) -> None:
        """Flush to disk what other code wrote under these keys, with its folders; keys without an
        object are skipped. `put` and `put_file` flush what they write."""

    def uri(self, key: str) -> str:
        """The object's address, `file:///...` or `s3://...`, without secrets."""

    def delta_uri(self, key: str) -> str:
        """The address of a Delta table under this key, for deltalake.

        Raises:
            StorageError: deltalake cannot use this address.
        """

    def delta_options(self) -> dict[str, str]:
        """deltalake's `storage_options` for this store. They contain the secret key: do not log."""


def same_content(source: BinaryIO, chunks: Iterator[bytes]) -> bool:
    """Whether the source holds exactly these chunks, in this order."""
    return all(source.read(len(chunk)) == chunk for chunk in chunks) and not source.read(1)
