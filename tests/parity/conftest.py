"""The packages that the engine is compared with import torchvision."""

from __future__ import annotations

import pytest

from engine.sam.torchvision_ops import ensure_torchvision


@pytest.fixture(scope="package", autouse=True)
def _torchvision() -> None:
    """Not when the tests are collected: it takes seconds."""
    ensure_torchvision()
