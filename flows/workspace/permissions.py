"""File permissions: a workspace is readable by its user only, results follow the user's umask."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

OWNER_ONLY = 0o077
_users: int | None = None
"""The user's umask, while another one is set."""


@contextmanager
def private_files() -> Iterator[None]:
    """Files that the block and its child processes create (settings, catalog, store, backups, logs)
    are readable by the user only, from their first byte."""
    global _users
    _users = os.umask(OWNER_ONLY)
    try:
        yield
    finally:
        os.umask(_users)
        _users = None


@contextmanager
def for_people() -> Iterator[None]:
    """Files that the block creates are results and get the user's umask."""
    if _users is None:
        yield
        return
    os.umask(_users)
    try:
        yield
    finally:
        os.umask(OWNER_ONLY)
