"""The log: lines for people, or JSON lines for machines (`log = "json"`, `DATAENGINE_LOG=json`).

Modules log with `logging.getLogger(__name__)` and `extra={...}`; `bound(run_id=...)` adds ids to
every line of a block. Everything goes to standard error. Secrets are masked: secret values of the
settings and passwords in addresses are replaced anywhere in the finished line.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO
from urllib.parse import quote, unquote, urlsplit

from pydantic import BaseModel, SecretStr

from flows.workspace.settings import Settings

MASK = "***"
SHORTEST_SECRET = 4
"""Shorter secrets are not masked: they would match parts of many words."""

_PASSWORD = re.compile(r"(?<=://)([^\s/@:]*):([^\s/@]+)(?=@)")
_TOKEN = re.compile(r"(?i)(?<=bearer )[\w.~+/=-]{4,}|(?<=sign-in#)[\w-]{16,}")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_bound: ContextVar[dict[str, Any]] = ContextVar("bound", default={})  # noqa: B039 - never changed


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Set up the log of this process; the last call wins.

    Args:
        settings: the form of the log, and the secrets to mask.
        stream: where to write; None: what standard error is when a line is written.
    """
    hidden = secrets_of(settings)
    handler = logging.StreamHandler(stream) if stream else StandardError()
    is_json = settings.log == "json"
    handler.setFormatter(JsonLines(hidden) if is_json else PlainLines(hidden))
    handler.addFilter(_add_bound)
    root = logging.getLogger()
    for held in [held for held in root.handlers if _is_replaced(held)]:
        root.removeHandler(held)
    handler.of_dataengine = True  # type: ignore[attr-defined]  # so that the next call finds it
    root.addHandler(handler)
    for name in ("flows", "engine", "storage", "dataengine"):
        logging.getLogger(name).setLevel(logging.INFO if is_json else logging.WARNING)


def _is_replaced(handler: logging.Handler) -> bool:
    """Whether it is ours of an earlier call, or Prefect's for the console, which masks nothing."""
    is_prefects = type(handler).__module__ == "prefect.logging.handlers"
    return is_prefects or getattr(handler, "of_dataengine", False)


@contextmanager
def bound(**ids: Any) -> Iterator[None]:
    """Add ids, such as `run_id`, `shard` or `task_id`, to every line that the block logs."""
    token = _bound.set({**_bound.get(), **ids})
    try:
        yield
    finally:
        _bound.reset(token)


def secrets_of(settings: Settings) -> frozenset[str]:
    """All secret values of the settings, also as quoted in an address."""
    found = set(_secret_values(settings))
    if settings.database_url:
        try:
            password = urlsplit(settings.database_url).password
        except ValueError:
            password = None  # not an address: it is never used or logged
        if password:
            found |= {password, unquote(password)}
    found |= {quote(value, safe="") for value in found}
    return frozenset(value for value in found if len(value) >= SHORTEST_SECRET)


def masked(text: str, hidden: frozenset[str] = frozenset()) -> str:
    """The text with these values, passwords of addresses and bearer tokens masked."""
    text = _TOKEN.sub(MASK, _PASSWORD.sub(rf"\1:{MASK}", text))
    for value in sorted(hidden, key=len, reverse=True):
        text = text.replace(value, MASK)
    return text


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, ids, and the error with its trace."""

    def __init__(self, hidden: frozenset[str]) -> None:
        super().__init__()
        self._hidden = hidden

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        # before encoding: JSON may escape characters of a secret
        return json.dumps(self._clean(line), ensure_ascii=False, default=str)

    def _clean(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._clean(str(key)): self._clean(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [self._clean(part) for part in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        return masked(str(value), self._hidden)


class PlainLines(logging.Formatter):
    """For people: `warning flows.training.retrain: message (run_id=...)`."""

    def __init__(self, hidden: frozenset[str]) -> None:
        super().__init__()
        self._hidden = hidden

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, the trace of an error below it."""
        ids = ", ".join(f"{key}={value}" for key, value in _extras(record).items())
        line = f"{record.levelname.lower()} {record.name}: {record.getMessage()}"
        line += f" ({ids})" if ids else ""
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return masked(line, self._hidden)


class StandardError(logging.StreamHandler[TextIO]):
    """Writes to what standard error is when the line is written. The class has no leading
    underscore: Prefect, set up later, would replace a handler of such a name by its own."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        raise AttributeError("this handler always writes to standard error")


def _add_bound(record: logging.LogRecord) -> bool:
    for name, value in _bound.get().items():
        if name not in record.__dict__:
            setattr(record, name, value)
    return True


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    found = {
        key: value
        for key, value in vars(record).items()
        if key not in _STANDARD and not key.startswith("_")  # of other libraries, such as Ray
    }
    if threading.current_thread() is not threading.main_thread():
        found.setdefault("thread", record.threadName)
    return found


def _secret_values(values: BaseModel) -> Iterator[str]:
    for name in type(values).model_fields:
        value = getattr(values, name)
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
        elif isinstance(value, BaseModel):
            yield from _secret_values(value)
