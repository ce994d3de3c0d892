"""Files of finished releases, for reviewers: downloads and the report."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from engine.annotation.access import sight_of
from engine.annotation.errors import not_found
from storage import layout
from storage.catalog import Annotator, Catalog, NotFoundError, ReleaseState
from storage.objects import ObjectNotFoundError, ObjectStore

MEDIA = {".html": "text/html", ".json": "application/json", ".tar": "application/x-tar"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"
    ),
    "Cache-Control": "private, no-cache",
}
"""A report's text comes from file names: no script of it would run, and not as this page."""


class ReleaseFiles:
    """Thread-safe."""

    def __init__(self, catalog: Catalog, objects: ObjectStore) -> None:
        self._catalog, self._objects = catalog, objects

    def fetch(self, annotator: Annotator, name: str, file: str) -> tuple[Path, str]:
        """A local copy of a release's file, which the caller deletes, and a name for it.

        Raises:
            RefusedError: they see no such release, it is not finished, or it lacks the file.
        """
        missing = not_found(f"there is no file {file!r} of a release {name!r}")
        if file not in layout.RELEASE_FILES:
            raise missing
        try:
            release = self._catalog.releases.get(name)
        except NotFoundError as error:
            raise missing from error
        is_seen = sight_of(annotator).includes(release.dataset_id)
        if not is_seen or release.state != ReleaseState.DONE:
            raise missing
        with tempfile.NamedTemporaryFile(prefix="dataengine-", delete=False) as copy:
            path = Path(copy.name)
        try:
            self._objects.fetch(layout.inside(release.key, file), path)
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, ObjectNotFoundError):  # e.g. erased
                raise missing from error
            raise
        return path, f"{re.sub(r'[^A-Za-z0-9._-]+', '_', name)}-{file}"
