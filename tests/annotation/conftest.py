"""Fixtures: a site, the address of its page, and signed-in annotators."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.annotation.client import Client
from tests.annotation.site import Site, make_site, served

torch.set_num_threads(1)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path / "ws")


@pytest.fixture
def url(site: Site) -> Iterator[str]:
    with served(site.workspace) as address:
        yield address


@pytest.fixture
def ada(site: Site, url: str) -> Iterator[Client]:
    """An annotator."""
    with site.client(url, "ada") as client:
        yield client


@pytest.fixture
def bob(site: Site, url: str) -> Iterator[Client]:
    """Another annotator."""
    with site.client(url, "bob") as client:
        yield client


@pytest.fixture
def rita(site: Site, url: str) -> Iterator[Client]:
    """A reviewer."""
    with site.client(url, "rita", "reviewer") as client:
        yield client


@pytest.fixture
def adam(site: Site, url: str) -> Iterator[Client]:
    """An admin."""
    with site.client(url, "adam", "admin") as client:
        yield client
