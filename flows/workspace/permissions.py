"""Who may read what commands write: a workspace is its user's alone, results are made as the user
has it for all files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

OWNER_ONLY = 0o077
_users: int | None = None
"""The umask of the user, while another one holds."""


@contextmanager
def private_files() -> Iterator[None]:
    """The block, and processes that it starts, make files that nobody else can read, from their
    first byte: settings, catalog, store, backups, logs."""
    global _users
    _users = os.umask(OWNER_ONLY)
    try:
        yield
    finally:
        os.umask(_users)
        _users = None


@contextmanager
def for_people() -> Iterator[None]:
    """What the block writes are results, for a folder that the user named."""
    if _users is None:
        yield
        return
    os.umask(_users)
    try:
        yield
    finally:
        os.umask(OWNER_ONLY)
