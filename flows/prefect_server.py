"""Prefect's server as an app, with what it lacks under SQLAlchemy 2.1.

Prefect 3.8.8 schedules runs with bulk INSERTs whose rows also name hybrid properties (`data`,
`state`). SQLAlchemy 2.0 passes over those; 2.1 asks each for a `bulk_dml` function, which Prefect
has none of, so that no schedule ever fires: "Can't evaluate bulk DML statement". Here such a
property is passed over again. With SQLAlchemy 2.0, and where a property has the function, nothing
changes. A server that is started in another way needs `sqlalchemy<2.1`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI


def create_app() -> FastAPI:
    """What `prefect server start` serves."""
    pass_over_hybrids()
    from prefect.server.api.server import create_app as create

    return create()


def pass_over_hybrids() -> None:
    """Make bulk INSERTs ignore hybrid properties that have no `bulk_dml` function."""
    from sqlalchemy.ext import hybrid

    comparator: Any = hybrid.ExprComparator
    ask = getattr(comparator, "_bulk_dml_setter", None)
    if ask is None:  # SQLAlchemy 2.0
        return

    def setter(self: Any, key: str) -> Callable[..., Any] | None:
        if self.hybrid.bulk_dml_setter is None:
            return None
        found: Callable[..., Any] | None = ask(self, key)
        return found

    comparator._bulk_dml_setter = setter
