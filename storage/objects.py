"""Where files live: a folder of this machine or S3, under one contract.

An object is written once under a fresh key and never changed. Keys are `/`-separated relative
paths in UTF-8 ("images/000001.jpg"); they may come from outside, so every method checks them.
No key may be a folder of another one ("a" beside "a/b"): a file system cannot hold both.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol
from urllib.parse import quote, unquote, urlsplit

import boto3.session
from botocore import exceptions as boto_errors
from botocore.config import Config

from engine.core.errors import DataEngineError
from storage.keys import check_key, check_prefix, is_key
from storage.local_files import CHUNK_BYTES, link_new, make_folder, replace, sync
from storage.os_errors import sentence_of

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_AWAY = (
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.EBUSY),
    *(errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EAGAIN),
)
"""Errors of a disk or a network drive that does not answer."""

MAX_S3_PUT_BYTES = 5 * 1024**3
"""S3's limit for an object that is put in one request, as a conditional write has to be."""

_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_NOT_FOR_DELTA = re.compile(rf"{_ESCAPE.pattern}|[\[\]\\^|\x00-\x1f\x7f\ud800-\udfff]")
"""deltalake 1.6 decodes a path twice, and has it in a URL that may not hold the others; links do
not help, as it resolves them."""


def unfit_for_tables(path: str) -> str:
    """What in a folder's path keeps Delta tables from lying there; empty where nothing does."""
    return " ".join(repr(part).strip("'") for part in sorted(set(_NOT_FOR_DELTA.findall(path))))


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


@dataclass(eq=False)
class LocalStore:
    """Objects as files under `root`, which is made at the first write. Methods: see ObjectStore.

    Symbolic links below the root are refused by every method, with StorageError, and not listed.
    That keeps a link from leading outside; it is no defence against a local user who can swap
    folders for links while a call runs. A folder that is gone, or is another one than before (the
    disk is not mounted any more), is refused with StorageUnavailableError.
    """

    root: Path

    def __post_init__(self) -> None:
        self.root = self.root.resolve()
        self._seen: tuple[int, int] | None = None

    def put(self, key: str, data: bytes) -> None:
        self._put(key, lambda: io.BytesIO(data))

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb"):
            self._put(key, lambda: path.open("rb"))

    def get(self, key: str) -> bytes:
        with _local_errors(key):
            return self._path(key).read_bytes()

    def fetch(self, key: str, path: Path) -> None:
        with _local_errors(key):
            source = self._path(key).open("rb")
        with source:
            replace(path, lambda target: shutil.copyfileobj(source, target, CHUNK_BYTES))

    def exists(self, key: str) -> bool:
        with _local_errors(key):
            return self._path(key).is_file()

    def size(self, key: str) -> int:
        with _local_errors(key):
            path = self._path(key)
            if not path.is_file():
                raise ObjectNotFoundError(f"no object {key!r}")
            return path.stat().st_size

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._check_root()
        folder, slash, _ = check_prefix(prefix).rpartition("/")
        return self._walk(self._path(folder) if folder else self.root, folder + slash, prefix)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _local_errors(key):
            if path.is_file():
                path.unlink(missing_ok=True)

    def sync(self, keys: Iterable[str]) -> None:
        folders: set[Path] = set()
        top = self.root.parent  # deltalake makes the root, too
        for key in keys:
            path = self._path(key)
            with _local_errors(key), contextlib.suppress(FileNotFoundError):
                sync(path)
                folders |= {folder for folder in path.parents if folder.is_relative_to(top)}
        for folder in sorted(folders, reverse=True):
            with _local_errors(str(folder)):
                sync(folder)

    def uri(self, key: str) -> str:
        return self._path(key).as_uri()

    def delta_uri(self, key: str) -> str:
        path = str(self._path(key))
        if unfit := unfit_for_tables(path):
            raise StorageError(
                f"{path!r} cannot hold mask tables: deltalake takes no {unfit} in a path; rename"
                " the folder, or keep the store elsewhere (uri under [store])"
            )
        return path

    def delta_options(self) -> dict[str, str]:
        return {}

    def _check_root(self) -> None:
        """Note which folder the root is, or make sure that it still is that one."""
        seen = self._seen  # before looking: a thread may make the folder meanwhile
        try:
            found = self.root.stat()
        except OSError as error:
            if seen is None:
                return  # it is made at the first write
            raise StorageUnavailableError(f"{self.root} is gone: is it mounted?") from error
        now = (found.st_dev, found.st_ino)
        self._seen = seen or now
        if now != self._seen:
            raise StorageUnavailableError(
                f"{self.root} is another folder than before: is the disk mounted? "
                "If it was moved on purpose, start this process again"
            )

    def _path(self, key: str) -> Path:
        self._check_root()
        path = self.root.joinpath(check_key(key))
        try:
            straight = path.resolve() == path
        except (OSError, RuntimeError) as error:
            raise StorageError(f"{key!r} cannot be followed to a file") from error
        if not straight:
            raise StorageError(f"{key!r} leads through a symbolic link")
        return path

    def _put(self, key: str, open_source: Callable[[], BinaryIO]) -> None:
        path = self._path(key)
        with _local_errors(key, absent=StorageError):
            if not path.is_file():
                make_folder(path.parent)
                with open_source() as source:
                    if link_new(path, source):
                        self._check_root()
                        return
            with path.open("rb") as held, open_source() as source:
                if not _same(source, iter(lambda: held.read(CHUNK_BYTES), b"")):
                    raise ObjectExistsError(f"{key!r} exists with other content")

    def _walk(self, folder: Path, base: str, prefix: str) -> Iterator[ObjectInfo]:
        try:
            with os.scandir(folder) as entries:
                found = [entry for entry in entries if not entry.is_symlink()]
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise StorageError(f"{base!r} cannot be listed: {error}") from error
        # A folder sorts as "name/", so that the whole walk is in the order of the full keys.
        names = sorted((base + entry.name + "/" * entry.is_dir(), entry) for entry in found)
        for name, entry in names:
            if entry.is_dir():
                if name.startswith(prefix) or prefix.startswith(name):
                    yield from self._walk(Path(entry.path), name, prefix)
            elif name.startswith(prefix) and is_key(name):
                try:
                    held = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield ObjectInfo(name, held.st_size, datetime.fromtimestamp(held.st_mtime, UTC))


@dataclass(eq=False)
class S3Store:
    """Objects in an S3 bucket, below `prefix`. Thread-safe. Methods: see ObjectStore.

    Without `access_key` and `secret_key`, boto3's and deltalake's own search for credentials
    holds (environment, profile, instance role).

    Raises:
        ValueError: the prefix is a bad key, half a pair of credentials is given, or the endpoint's
            address holds a user name or password.
    """

    bucket: str
    prefix: str
    endpoint_url: str | None = None
    region: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    timeout_seconds: float = 60.0
    """How long a request may be without an answer."""
    attempts: int = 6
    """How often a request is tried, the first time included."""

    def __post_init__(self) -> None:
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("access_key and secret_key go together")
        if self.endpoint_url is not None and "@" in urlsplit(self.endpoint_url).netloc:
            raise ValueError("give credentials as access_key and secret_key, not in endpoint_url")
        self.prefix = self.prefix.strip("/")
        if self.prefix:
            check_key(self.prefix)
        self._client = _s3_client(self)

    def put(self, key: str, data: bytes) -> None:
        self._put(key, lambda: io.BytesIO(data), len(data))

    def put_file(self, key: str, path: Path) -> None:
        self._put(key, lambda: path.open("rb"), path.stat().st_size)

    def get(self, key: str) -> bytes:
        with _s3_errors(key):
            return self._client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"].read()

    def fetch(self, key: str, path: Path) -> None:
        with _s3_errors(key):
            found = self._client.get_object(Bucket=self.bucket, Key=self._key(key))

        def copy(target: BinaryIO) -> None:
            with _s3_errors(key):
                for chunk in found["Body"].iter_chunks(CHUNK_BYTES):
                    target.write(chunk)

        replace(path, copy)

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except ObjectNotFoundError:
            return False
        return True

    def size(self, key: str) -> int:
        with _s3_errors(key):
            return self._client.head_object(Bucket=self.bucket, Key=self._key(key))["ContentLength"]

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._pages(check_prefix(prefix))

    def delete(self, key: str) -> None:
        with _s3_errors(key):
            self._client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def sync(self, keys: Iterable[str]) -> None:
        """S3 has it before it answers."""

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{self._key(key)}"

    def delta_uri(self, key: str) -> str:
        whole = self._key(key)
        if found := _ESCAPE.search(whole):
            raise StorageError(
                f"{self.uri(key)} cannot hold mask tables: deltalake takes no {found[0]} in a key;"
                " use another prefix (uri under [store])"
            )
        return f"s3://{self.bucket}/{quote(whole)}"

    def delta_options(self) -> dict[str, str]:
        options = {
            "aws_region": self._client.meta.region_name,
            "aws_conditional_put": "etag",
            "connect_timeout": "5s",
            "timeout": f"{self.timeout_seconds:g}s",
            "max_retries": "4",
            "retry_timeout": "120s",
        }
        if self.endpoint_url is not None:
            options["aws_endpoint_url"] = self.endpoint_url
            if self.endpoint_url.startswith("http://"):
                options["aws_allow_http"] = "true"
        if self.access_key is not None and self.secret_key is not None:
            options["aws_access_key_id"] = self.access_key
            options["aws_secret_access_key"] = self.secret_key
        return options

    def _key(self, key: str) -> str:
        check_key(key)
        return f"{self.prefix}/{key}" if self.prefix else key

    def _put(self, key: str, open_source: Callable[[], BinaryIO], size: int) -> None:
        if size > MAX_S3_PUT_BYTES:
            raise ValueError(f"{key!r} has {size} bytes, S3 takes {MAX_S3_PUT_BYTES} in one put")
        with _s3_errors(key):
            try:
                with open_source() as source:
                    self._client.put_object(
                        Bucket=self.bucket, Key=self._key(key), Body=source, IfNoneMatch="*"
                    )
                return
            except boto_errors.ClientError as error:
                # 409: another conditional write to this key is under way.
                if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (409, 412):
                    raise
        try:
            same = self._holds(key, open_source, size)
        except ObjectNotFoundError as error:
            raise StorageUnavailableError(f"another write to {key!r} is under way") from error
        if not same:
            raise ObjectExistsError(f"{key!r} exists with other content")

    def _holds(self, key: str, open_source: Callable[[], BinaryIO], size: int) -> bool:
        with _s3_errors(key):
            held = self._client.get_object(Bucket=self.bucket, Key=self._key(key))
            with contextlib.closing(held["Body"]) as body, open_source() as source:
                return held["ContentLength"] == size and _same(
                    source, body.iter_chunks(CHUNK_BYTES)
                )

    def _pages(self, prefix: str) -> Iterator[ObjectInfo]:
        base = f"{self.prefix}/" if self.prefix else ""
        pages = self._client.get_paginator("list_objects_v2")
        with _s3_errors(prefix):
            for page in pages.paginate(Bucket=self.bucket, Prefix=base + prefix):
                for found in page.get("Contents", []):
                    key = found["Key"].removeprefix(base)
                    if is_key(key):
                        yield ObjectInfo(key, found["Size"], found["LastModified"].astimezone(UTC))


def open_store(
    uri: str,
    *,
    endpoint_url: str | None = None,
    access_key: str | None = None,
    secret_key: str | None = None,
    region: str | None = None,
    timeout_seconds: float = 60.0,
) -> ObjectStore:
    """The store at a folder's path, `file:///folder` or `s3://bucket/prefix`. Nothing is read or
    written yet. The other arguments are for S3 and unused for a folder.

    Raises:
        ValueError: another scheme, no bucket, or arguments S3Store refuses.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        if not uri:
            raise ValueError("an empty store address; expected a folder or s3://bucket/prefix")
        return LocalStore(Path(uri).expanduser())
    if scheme == "file" and rest.startswith("/"):
        return LocalStore(Path(unquote(rest, errors="surrogateescape")))
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ValueError(f"bad store address {uri!r}; expected a folder or s3://bucket/prefix")
    return S3Store(bucket, prefix, endpoint_url, region, access_key, secret_key, timeout_seconds)


def _s3_client(store: S3Store) -> S3Client:
    client: S3Client = boto3.session.Session().client(
        "s3",
        endpoint_url=store.endpoint_url,
        region_name=store.region,
        aws_access_key_id=store.access_key,
        aws_secret_access_key=store.secret_key,
        config=Config(
            connect_timeout=5,
            read_timeout=store.timeout_seconds,
            retries={"mode": "adaptive", "total_max_attempts": store.attempts},
            max_pool_connections=32,
            request_checksum_calculation="when_supported",
            response_checksum_validation="when_supported",
            s3={"addressing_style": "path" if store.endpoint_url else "auto"},
        ),
    )
    return client


@contextlib.contextmanager
def _s3_errors(key: str) -> Iterator[None]:
    """Turn botocore's errors into this module's."""
    try:
        yield
    except boto_errors.ClientError as error:
        code = error.response["Error"]["Code"]
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if code in ("NoSuchKey", "404"):
            raise ObjectNotFoundError(f"no object {key!r}") from error
        if status >= 500 or status in (408, 409, 429) or code in ("SlowDown", "RequestTimeout"):
            raise StorageUnavailableError(f"S3 is busy: {code} for {key!r}") from error
        if code == "RequestTimeTooSkewed":
            raise StorageError("S3 refuses this machine's clock: set it, by NTP") from error
        raise StorageError(f"S3 refused {key!r}: {error}") from error
    except (
        boto_errors.HTTPClientError,
        boto_errors.ConnectionError,
        boto_errors.IncompleteReadError,
        boto_errors.FlexibleChecksumError,
    ) as error:
        raise StorageUnavailableError(f"S3 did not answer for {key!r}: {error}") from error
    except boto_errors.BotoCoreError as error:
        raise StorageError(f"S3 cannot be used for {key!r}: {error}") from error


@contextlib.contextmanager
def _local_errors(key: str, absent: type[StorageError] = ObjectNotFoundError) -> Iterator[None]:
    """Turn the file system's errors into this module's, no such file (a folder is none) into
    `absent`."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise absent(f"no object {key!r}") from error
    except OSError as error:
        kind = StorageUnavailableError if error.errno in _AWAY else StorageError
        raise kind(sentence_of(error) or f"{key!r}: {error}") from error


def _same(source: BinaryIO, chunks: Iterator[bytes]) -> bool:
    return all(source.read(len(chunk)) == chunk for chunk in chunks) and not source.read(1)
