"""Open the object store at an address."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from storage.local_store import LocalStore
from storage.objects import ObjectStore
from storage.s3_store import S3Store


def open_store(
    uri: str,
    *,
    endpoint_url: str | None = None,
    access_key: str | None = None,
    secret_key: str | None = None,
    region: str | None = None,
    timeout_seconds: float = 60.0,
) -> ObjectStore:
    """The store at a folder's path, `file:///folder` or `s3://bucket/prefix`; nothing is read or
    written yet. The other arguments apply to S3 only.

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
