"""Types of the catalog's columns, the same in SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Double,
    Enum,
    Integer,
    String,
    Text,
    TypeDecorator,
)

from engine.core.records import Stage
from storage.catalog import states


class UtcDateTime(TypeDecorator[datetime]):
    """A time, written with a timezone and read in UTC on every database.

    Raises:
        ValueError: a written time has no timezone.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"times need a timezone, got the naive {value.isoformat()}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _words(enum: type[StrEnum]) -> Enum:
    """A text column for the enum's values that refuses others."""
    return Enum(
        enum,
        native_enum=False,
        length=32,
        validate_strings=True,
        values_callable=lambda members: [member.value for member in members],
    )


_STATES = [kind for kind in vars(states).values() if isinstance(kind, type) and kind is not StrEnum]
MASK_ID = String(200)
"""`RUN/IMAGE/NAME`; the name of a fix contains the page's id of it."""
BIG_ID = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers only INTEGER keys
RUN_ID = String(32)

TYPES: dict[Any, Any] = {
    str: Text(),
    float: Double(),
    datetime: UtcDateTime(),
    dict[str, Any]: JSON(none_as_null=True),
    list[dict[str, Any]]: JSON(none_as_null=True),
    list[int]: JSON(none_as_null=True),
    **{enum: _words(enum) for enum in (Stage, *_STATES)},
}
"""Database types by Python type."""
