"""Errors of the catalog. Each docstring says what the caller does next."""

from __future__ import annotations

from engine.core.errors import DataEngineError


class CatalogError(DataEngineError):
    """Base of every error of the catalog and the annotation queue. Catch it to report a failed
    catalog operation in one place."""


class CatalogNotMigratedError(CatalogError):
    """The database is missing, empty or older than this code. Call `catalog.migrate()` once,
    then retry."""


class CatalogTooNewError(CatalogError):
    """The database was migrated by a newer version of this code. Install that version; never
    write with this one."""


class CatalogUnavailableError(CatalogError):
    """The database is unreachable, stayed locked, or broke the connection. Nothing was changed:
    wait and repeat the whole unit of work."""


class ConstraintError(CatalogError):
    """A row refers to a missing row, or breaks a unique constraint. Nothing was changed: create the
    missing row first, or look up the existing one."""


class NotFoundError(CatalogError):
    """No such row. Check the id, which the message names. A web app answers 404."""


class DatasetNotFoundError(NotFoundError):
    """No dataset of that name. Choose one of the known names in the message, or ingest images
    under the new name."""


class TaskNotFoundError(NotFoundError):
    """No such task in the annotation queue. Lease another one."""


class AlreadyExistsError(CatalogError):
    """The name or id is taken. Choose a fresh one."""


class BadNameError(CatalogError, ValueError):
    """The name is not allowed for a new row. The message says why: choose another name."""


class StaleStateError(CatalogError):
    """The row is no longer in the expected state: somebody else changed it. Read it again and
    decide anew; do not retry blindly. A web app answers 409."""


class QuotaError(CatalogError):
    """An annotator exceeds their quota. Nothing was changed: they finish or drop some work first. A
    web app answers 413."""


class LeaseLostError(CatalogError):
    """The lease expired and somebody else took the work, or it was released or submitted before.
    Discard the result and lease again. A web app answers 409."""


class LoopConflictError(CatalogError):
    """The dataset has an unfinished loop with another plan. Resume that loop with its own plan,
    or finish it first."""
