"""A page with annotators, one without, one `dataengine up`, and clients that send requests from
outside."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.annotation.access import RateLimits
from flows.page.make_app import make_app
from flows.workspace.settings import FILE_NAME, create_workspace
from flows.workspace.workspace import Workspace, open_workspace
from tests.annotation.site import Site, make_site, served
from tests.flows.conftest import TOML
from tests.production.conftest import PRODUCTION
from tests.production.running import Production, running


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A workspace with two datasets, `d` and `secret`, each with an image in the queue."""
    site = make_site(tmp_path_factory.mktemp("security") / "ws", images=1)
    secret = site.workspace.catalog.datasets.get_or_create("secret")
    assert secret.id != site.dataset_id
    site.annotate()
    return site


@pytest.fixture(scope="package")
def url(site: Site) -> Iterator[str]:
    """Its page, with sign-in."""
    with served(site.workspace) as address:
        yield address


@pytest.fixture(scope="package")
def local_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of a workspace without images and annotators; local users need no sign-in."""
    with served(empty_workspace(tmp_path_factory.mktemp("local")), local=True) as address:
        yield address


def empty_workspace(folder: Path) -> Workspace:
    """A workspace with a catalog only."""
    workspace = open_workspace(str(create_workspace(folder)))
    workspace.catalog.migrate()
    return workspace


def raw(url: str, head: str, body: bytes = b"", *, seconds: float = 5.0) -> tuple[int, str]:
    """Status and rest of the answer to a raw request, which may be incomplete.

    Raises:
        TimeoutError: no answer within the time.
    """
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall("\r\n".join([*head.strip().splitlines(), "", ""]).encode() + body)
        answer = connection.recv(1 << 16).decode(errors="replace")
    return int(answer.split()[1]), answer


Ask = Callable[..., httpx.Response]


def asker(site: Site, proxies: list[str], peer: str) -> Ask:
    """A client of a new app at a given address. Its rate limits use a stopped clock."""
    workspace, settings = site.workspace, site.workspace.settings
    workspace.catalog.annotators.get_or_create("somebody")
    page = settings.page.model_validate({"trusted_proxies": proxies})
    workspace.settings = settings.model_copy(update={"page": page})
    app = make_app(workspace, "0.0.0.0", [])  # noqa: S104
    app.state.limits = RateLimits(lambda: 0.0)
    workspace.settings = settings

    def ask(method: str, path: str, **options: Any) -> httpx.Response:
        async def request() -> httpx.Response:
            transport = httpx.ASGITransport(app, client=(peer, 50_000))
            async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
                return await client.request(method, path, **options)

        return asyncio.run(request())

    return ask


@pytest.fixture(scope="module")
def attacked() -> Iterator[Production]:
    """A workspace with running services, in a folder that only its user can access."""
    with tempfile.TemporaryDirectory(prefix="up") as folder:
        Path(folder).chmod(0o700)
        root = Path(folder).resolve() / "ws"
        root.mkdir()
        (root / FILE_NAME).write_text(TOML + PRODUCTION)
        with running(root) as production:
            yield production
