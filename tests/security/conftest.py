"""One `dataengine up` for all attacks on it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.settings import FILE_NAME
from tests.flows.conftest import TOML
from tests.production.conftest import PRODUCTION
from tests.production.running import Production, running


@pytest.fixture(scope="session")
def attacked() -> Iterator[Production]:
    """Its services run. The folder above it is for its user only, and is not to be opened."""
    with tempfile.TemporaryDirectory(prefix="up") as folder:
        Path(folder).chmod(0o700)
        root = Path(folder).resolve() / "ws"
        root.mkdir()
        (root / FILE_NAME).write_text(TOML + PRODUCTION)
        with running(root) as production:
            yield production
