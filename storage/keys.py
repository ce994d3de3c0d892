"""Which keys objects may have: those that are safe as relative paths in every store."""

from __future__ import annotations

MAX_KEY_BYTES = 1024
"""S3's limit for a whole key."""
MAX_SEGMENT_BYTES = 255
"""A file system's limit for one name."""


def check_key(key: str) -> str:
    """The key itself, if it is safe to use as a relative path in every store.

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
            f"bad key {key[:80]!r}...: over {MAX_KEY_BYTES} bytes in all"
            f" or {MAX_SEGMENT_BYTES} in one segment"
        )
    return key


def check_prefix(prefix: str) -> str:
    """The start of a key itself, if keys may start so; raises as `check_key`."""
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix


def is_key(key: str) -> bool:
    """Whether `check_key` lets it pass."""
    try:
        check_key(key)
    except ValueError:
        return False
    return True
