"""Write files below an S3 prefix of the user; only objects written before are replaced.

The S3 form of `storage.outputs.OutputFolder`. An object that we wrote has our mark in its metadata,
which is lost when another program replaces it.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from storage.objects import ObjectNotFoundError
from storage.outputs import OutputExistsError
from storage.s3_store import S3Store

_MARK = "dataengine-of"
"""Name of the mark: the SHA-256 of the source, which may be any text."""


class S3Outputs:
    """A prefix to write files below."""

    def __init__(self, store: S3Store) -> None:
        self._store = store
        self._scratch = tempfile.TemporaryDirectory(prefix="dataengine-")

    def __str__(self) -> str:
        prefix = f"/{self._store.prefix}" if self._store.prefix else ""
        return f"s3://{self._store.bucket}{prefix}"

    def is_ours(self, name: str, of: str | None = None) -> bool:
        """Whether we wrote the object, from the source `of` if one is given."""
        try:
            mark = self._store.marks_of(name).get(_MARK)
        except ObjectNotFoundError:
            return False
        return mark is not None and (of is None or mark == _digest(of))

    def refuse_others(self, names: Iterable[str]) -> None:
        """Check that these names are free or ours, before long work for them.

        Raises:
            OutputExistsError: an object that is not ours has one of them.
        """
        present = {info.key for info in self._store.list()}
        for name in names:
            if name in present and not self.is_ours(name):
                raise OutputExistsError(
                    f"{self._store.uri(name)} was not written by dataengine, or was replaced since:"
                    " move it away, or choose another prefix"
                )

    @contextlib.contextmanager
    def writing(self, name: str, of: str = "") -> Iterator[Path]:
        """A temporary path to write the content to; the object is written when the block ends, and
        stays unchanged if the block raises.

        Raises:
            OutputExistsError: an object that is not ours has the name.
            StorageError: S3 refuses it, or does not answer.
            OSError: the local disk is full.
        """
        if self._store.exists(name) and not self.is_ours(name):
            raise OutputExistsError(f"{self._store.uri(name)} was not written by dataengine")
        with tempfile.TemporaryDirectory(dir=self._scratch.name) as folder:
            path = Path(folder) / "file"
            yield path
            self._store.replace(name, path, {_MARK: _digest(of)})

    def write(self, name: str, content: bytes | str, of: str = "") -> None:
        """Write one object; raises as `writing`."""
        with self.writing(name, of) as path:
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
