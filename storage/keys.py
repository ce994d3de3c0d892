"""Checks of object keys, which must be safe as relative paths in every store, and of the paths of
mask tables."""

from __future__ import annotations

import re

MAX_KEY_BYTES = 1024
"""S3's limit for a key."""
MAX_SEGMENT_BYTES = 255
"""A file system's limit for one name."""
ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_NOT_FOR_DELTA = re.compile(rf"{ESCAPE.pattern}|[\[\]\\^|\x00-\x1f\x7f\ud800-\udfff]")
"""deltalake 1.6 decodes a path twice, and puts it into a URL that may not hold the others. It
resolves links, so they do not help."""


def check_key(key: str) -> str:
    """The key, if it is safe as a relative path in every store.

    Raises:
        ValueError: it is empty, absolute or too long; has a backslash, a control character, an
            empty segment or one that starts with a dot (`..`, temporary names); is not UTF-8.
    """
    segments = key.split("/")
    if any(not segment or segment.startswith(".") for segment in segments):
        raise ValueError(f"bad key {key!r}: empty segments and leading dots are refused")
    if "\\" in key or any(ord(character) < 32 or ord(character) == 127 for character in key):
        raise ValueError(f"bad key {key!r}: backslashes and control characters are refused")
    if len(key.encode()) > MAX_KEY_BYTES or any(
        len(segment.encode()) > MAX_SEGMENT_BYTES for segment in segments
    ):
        raise ValueError(
            f"bad key {key[:80]!r}...: over {MAX_KEY_BYTES} bytes in total"
            f" or {MAX_SEGMENT_BYTES} in one segment"
        )
    return key


def check_prefix(prefix: str) -> str:
    """The prefix, if it may start a key; raises as `check_key`."""
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix


def is_key(key: str) -> bool:
    """Whether `check_key` accepts the key."""
    try:
        check_key(key)
    except ValueError:
        return False
    return True


def unfit_for_tables(path: str) -> str:
    """The parts of a folder's path that deltalake cannot handle; empty if there are none."""
    return " ".join(repr(part).strip("'") for part in sorted(set(_NOT_FOR_DELTA.findall(path))))
