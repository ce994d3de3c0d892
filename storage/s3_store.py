"""Objects of an S3 bucket."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote, urlsplit

import boto3.session
from botocore import exceptions as boto_errors
from botocore.config import Config

from storage.keys import ESCAPE, check_key, check_prefix, is_key
from storage.local_files import CHUNK_BYTES, replace
from storage.objects import (
    ObjectExistsError,
    ObjectInfo,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
    same_content,
)

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MAX_S3_PUT_BYTES = 5 * 1024**3
"""S3's limit for an object that is put in one request, as a conditional write has to be."""


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

    def replace(self, key: str, path: Path, marks: dict[str, str]) -> None:
        """Write or replace an object of any size from a local file, with marks (ASCII) that
        `marks_of` returns. Objects of the workspace are never replaced: this is for exports.

        Raises:
            OSError: the local file cannot be read.
        """
        with _s3_errors(key):
            extra = {"Metadata": marks}
            self._client.upload_file(str(path), self.bucket, self._key(key), ExtraArgs=extra)

    def marks_of(self, key: str) -> dict[str, str]:
        """The marks with which the object was written.

        Raises:
            ObjectNotFoundError: no object has this key.
        """
        with _s3_errors(key):
            return self._client.head_object(Bucket=self.bucket, Key=self._key(key))["Metadata"]

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
        if found := ESCAPE.search(whole):
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
                return held["ContentLength"] == size and same_content(
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
