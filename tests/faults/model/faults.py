"""Kills and outages at chosen calls to the store, the mask table and the catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import current_thread, main_thread
from typing import Any

import pytest
from deltalake import DeltaTable
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from storage.catalog import CatalogUnavailableError
from storage.catalog.sessions import Sessions
from storage.local_store import LocalStore
from storage.objects import StorageUnavailableError
from storage.s3_store import S3Store

STORE, CATALOG = "store", "catalog"


class Killed(BaseException):
    """Stands for SIGKILL: nothing is written afterwards, even if somebody catches it."""


@dataclass(frozen=True)
class Fault:
    """The fault of one command. `kill`: it ends after this number of writes. Otherwise `service` is
    unavailable from its call number `first` on, for `calls` calls; `is_late`: these calls were
    carried out, and their answers were lost.

    `kill`: it ends after so many writes. Or `service` is away from its call number `first` on, for
    `calls` calls; `is_late`: these were carried out, and their answers got lost.
    """

    kill: int | None = None
    service: str | None = None
    first: int = 0
    calls: int = 0
    is_late: bool = False


NO_FAULT = Fault()


class Faults:
    """The chosen fault, and counters of calls. One per test, because it patches classes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._fault, self._writes, self._calls, self._is_dead = NO_FAULT, 0, 0, False
        self.happened = 0
        """How many commands were killed or found a service away."""
        for store in (LocalStore, S3Store):
            for name in ("put", "put_file", "delete"):
                self._wrap(patch, store, name, _store_away, is_write=True)
            for name in ("get", "exists", "size", "fetch", "list", "delta_uri"):
                self._wrap(patch, store, name, _store_away, is_write=False)
        for name in ("create_write_transaction", "create_checkpoint"):
            self._wrap(patch, DeltaTable, name, _table_away, is_write=True)
        self._wrap(patch, Session, "commit", _database_away, is_write=True)
        for name in ("session", "reading"):
            self._wrap(patch, Sessions, name, _catalog_away, is_write=False)

    @contextmanager
    def during(self, fault: Fault) -> Iterator[None]:
        """Inject the fault into the calls of the body."""
        self._fault, self._writes, self._calls, self._is_dead = fault, 0, 0, False
        try:
            yield
        finally:
            self._fault, self._is_dead = NO_FAULT, False

    def _wrap(
        self,
        patch: pytest.MonkeyPatch,
        owner: type,
        name: str,
        away: Callable[[], Exception],
        *,
        is_write: bool,
    ) -> None:
        original = getattr(owner, name)
        service = CATALOG if owner in (Session, Sessions) else STORE

        def call(*given: Any, **more: Any) -> Any:
            if current_thread() is not main_thread():  # a renewed lease
                return original(*given, **more)
            if is_write and self._is_dead:
                raise Killed
            is_away = self._is_away(service)
            if is_away and not (is_write and self._fault.is_late):
                raise away()
            made = original(*given, **more)
            if is_away:
                raise away()
            if is_write:
                self._count_write()
            return made

        patch.setattr(owner, name, call)

    def _is_away(self, service: str) -> bool:
        if self._fault.service != service:
            return False
        self._calls += 1
        first, last = self._fault.first, self._fault.first + self._fault.calls
        self.happened += self._calls == first
        return first <= self._calls < last

    def _count_write(self) -> None:
        self._writes += 1
        if self._writes == self._fault.kill:
            self._is_dead = True
            self.happened += 1
            raise Killed


def _store_away() -> Exception:
    return StorageUnavailableError("the store is away: by the test")


def _table_away() -> Exception:
    return OSError("the store is away: by the test")


def _catalog_away() -> Exception:
    return CatalogUnavailableError("the catalog is away: by the test")


def _database_away() -> Exception:
    return OperationalError("COMMIT", None, Exception("the catalog is away: by the test"))
