"""A page that people are entered at, one that nobody is, and ways to ask them from outside."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.settings import create_workspace
from flows.wiring import Workspace, open_workspace
from tests.annotation.site import Site, make_site, served


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A workspace with two datasets, `d` and `secret`, an image of each waiting."""
    site = make_site(tmp_path_factory.mktemp("security") / "ws", images=1)
    secret = site.workspace.catalog.datasets.get_or_create("secret")
    assert secret.id != site.dataset_id
    site.annotate()
    return site


@pytest.fixture(scope="package")
def url(site: Site) -> Iterator[str]:
    """Its page; everybody signs in."""
    with served(site.workspace) as address:
        yield address


@pytest.fixture(scope="package")
def local_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of a workspace without images and people; whoever is at this machine is let in."""
    with served(empty_workspace(tmp_path_factory.mktemp("local")), local=True) as address:
        yield address


def empty_workspace(folder: Path) -> Workspace:
    """Nothing but a catalog."""
    workspace = open_workspace(str(create_workspace(folder)))
    workspace.catalog.migrate()
    return workspace


def raw(url: str, head: str, body: bytes = b"", *, seconds: float = 5.0) -> tuple[int, str]:
    """Status and rest of the answer to a request as it stands, which may be unfinished. Lines of
    the head end as one likes.

    Raises:
        TimeoutError: no answer within the time.
    """
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall("\r\n".join([*head.strip().splitlines(), "", ""]).encode() + body)
        answer = connection.recv(1 << 16).decode(errors="replace")
    return int(answer.split()[1]), answer
