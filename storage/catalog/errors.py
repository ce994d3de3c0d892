"""What can go wrong in the catalog. Each docstring says what the caller does next."""

from __future__ import annotations

from engine.core.errors import DataEngineError


class CatalogError(DataEngineError):
    """Base of every error of the catalog and the annotation queue. Catch it to report a failed
    catalog operation in one place."""


class CatalogNotMigratedError(CatalogError):
    """The database is missing, empty or older than this code. Call `catalog.migrate()` once,
    then try again."""


class CatalogTooNewError(CatalogError):
    """The database was migrated by a newer version of this code. Install that version; never
    write with this one."""


class CatalogUnavailableError(CatalogError):
    """The database cannot be reached, stayed locked, or broke the connection. Nothing was
    changed: wait and do the whole unit of work again."""


class ConstraintError(CatalogError):
    """A row names something that does not exist, or breaks a unique constraint. Nothing was
    changed: create what it refers to first, or look up the row that is there."""


class NotFoundError(CatalogError):
    """No such row. Check the id; the message says what was asked for. A web app answers 404."""


class DatasetNotFoundError(NotFoundError):
    """No dataset of that name. Choose one of the known names in the message, or ingest images
    under the new name."""


class TaskNotFoundError(NotFoundError):
    """No such task in the annotation queue. Lease another one."""


class AlreadyExistsError(CatalogError):
    """The name or id is taken by something else. Choose a fresh one."""


class BadNameError(CatalogError, ValueError):
    """A new thing cannot be named so. The message says what is wrong: give another name."""


class StaleStateError(CatalogError):
    """The row is no longer in the state the caller expected: somebody else changed it. Read it
    again and decide anew; do not retry blindly. A web app answers 409."""


class QuotaError(CatalogError):
    """Somebody keeps more than their share. Nothing was changed: they finish or drop some of it
    first. A web app answers 413."""


class LeaseLostError(CatalogError):
    """The lease ran out and somebody else took the work, or it was given back or handed in
    before. Throw the result away and lease again. A web app answers 409."""


class LoopConflictError(CatalogError):
    """The dataset has an unfinished loop with another plan. Resume that loop with its own plan,
    or finish it first."""
