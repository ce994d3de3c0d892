"""The services of `dataengine up`: the production shape on one machine, from pip packages alone.

Every service runs under a guard (`flows.services.process_guard`) that ends it when this command is
gone, in whatever way. Data and logs are in the workspace's `.services` folder; started again,
everything is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.core.errors import DataEngineError
from flows.prefect_api.client import LOCK_FILE, STATE_FILE
from flows.services import definitions
from flows.services.definitions import Service, folder_of
from flows.workspace.console import errors
from flows.workspace.processes import environment, python
from flows.workspace.settings import SERVICES, Settings, WorkspaceError, load_settings

if TYPE_CHECKING:
    from types import FrameType

START_SECONDS = 180.0
STOP_SECONDS = 30.0
LOCK_SECONDS = 1.0
"""A command that looks whether `up` runs holds the lock for a moment."""
LOOK_SECONDS = 1.0
CHECK_SECONDS = 10.0
MAX_WAIT_SECONDS = 30.0
"""Before a service that ends again and again is started once more."""
STEADY_SECONDS = 60.0
"""A service that has run for so long starts at once when it ends."""
OPTIONAL = ("page", "postgres", "s3")
USERS = ("worker", "page")
"""Services that use the others."""


class ServiceError(DataEngineError):
    """A service of `dataengine up` did not start. Look at its log, which the message names."""


@dataclass(slots=True)
class Running:
    """A service that was started, and how it is."""

    service: Service
    log: Path
    process: subprocess.Popen[bytes]
    started: float
    restarts: int = 0
    health: str = "starting"
    next_start: float | None = None
    """When one that has ended is started again."""

    def row(self) -> dict[str, Any]:
        """For the table."""
        return {
            "service": self.service.name,
            "url": self.service.url,
            "health": self.health,
            "process": self.process.pid,
            "restarts": self.restarts,
            "log": str(self.log),
        }


@dataclass(slots=True)
class Supervisor:
    """The services of one workspace while `dataengine up` runs."""

    root: Path
    stopping: threading.Event = field(default_factory=threading.Event)
    running: list[Running] = field(default_factory=list)
    api: str | None = None
    """URL of Prefect's API, once its server is there."""

    def start(self, service: Service) -> None:
        """Start a service under a guard; not yet whether it is well."""
        log = self.root / SERVICES / f"{service.name}.log"
        process = _guarded(self.root, service, log)
        self.running.append(Running(service, log, process, time.monotonic()))

    def wait(self) -> None:
        """Until all that were started are well.

        Raises:
            ServiceError: one ended, or is not well within START_SECONDS.
        """
        deadline = time.monotonic() + START_SECONDS
        for item in self.running:
            while not self.stopping.is_set() and not check(item):
                if item.process.poll() is not None or time.monotonic() > deadline:
                    raise ServiceError(
                        f"{item.service.name} did not start ({item.health}): {item.log}"
                    )
                self.stopping.wait(0.2)

    def watch(self) -> None:
        """Look after the services until `stopping`: one that ends is started again."""
        checked = time.monotonic()
        while not self.stopping.wait(LOOK_SECONDS):
            for item in self.running:
                self._revive(item)
            if time.monotonic() - checked >= CHECK_SECONDS:
                checked = time.monotonic()
                self._check_all()

    def _revive(self, item: Running) -> None:
        code = item.process.poll()
        if code is None:
            return
        now = time.monotonic()
        if item.next_start is None:
            steady = now - item.started > STEADY_SECONDS
            wait = 0.0 if steady else min(2.0**item.restarts, MAX_WAIT_SECONDS)
            item.next_start, item.health = now + wait, f"ended with {code}"
            told = f"{item.service.name} ended with code {code}; starting it again: {item.log}"
            errors.print(told, style="yellow", markup=False, highlight=False, soft_wrap=True)
            self.write_state()
        if now >= item.next_start:
            item.process = _guarded(self.root, item.service, item.log)
            item.started, item.next_start, item.health = now, None, "starting"
            item.restarts += 1
            self.write_state()

    def _check_all(self) -> None:
        before = [item.health for item in self.running]
        for item in self.running:
            if item.process.poll() is None:
                check(item)
        for item, health in zip(self.running, before, strict=True):
            if item.health != health:
                told = f"{item.service.name}: {item.health}"
                errors.print(told, markup=False, highlight=False)
        self.write_state()

    def stop(self) -> None:
        """End everything: the worker and the page before what they use."""
        users = [item for item in self.running if item.service.name in USERS]
        _end(users)
        _end([item for item in self.running if item not in users])
        (self.root / STATE_FILE).unlink(missing_ok=True)

    def rows(self) -> list[dict[str, Any]]:
        """The status table."""
        return [item.row() for item in self.running]

    def write_state(self) -> None:
        """For other commands in the workspace, and for whoever wants to look."""
        state = {
            "process": os.getpid(),
            "prefect_api_url": self.api,
            "services": self.rows(),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        fresh = (self.root / STATE_FILE).with_suffix(".fresh")
        fresh.write_text(json.dumps(state, indent=2))
        fresh.replace(self.root / STATE_FILE)


def _end(items: list[Running]) -> None:
    """End these, all at the same time."""
    for item in items:
        assert item.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            item.process.stdin.close()
    for item in items:
        try:
            item.process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            item.process.kill()
            item.process.wait()


def check(item: Running) -> bool:
    """Ask a service how it is."""
    try:
        item.health = "healthy" if item.service.healthy() else "not ready"
    except Exception as error:  # whatever is wrong is the finding
        item.health = f"not answering: {type(error).__name__}"
    return item.health == "healthy"


def _guarded(root: Path, service: Service, log: Path) -> subprocess.Popen[bytes]:
    lock = root / SERVICES / f"{service.name}.lock"
    command = python("flows.services.process_guard", str(lock), service.stop, service.user or "-")
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(handle, "ab") as output:
        return subprocess.Popen(
            [*command, *service.command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=service.folder or root,
            umask=0o077,
            env=environment(root, **service.environment),
            start_new_session=True,  # Ctrl-C reaches this command first, which then stops them
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is to be started, and where: ports that were asked for, or None."""

    without: frozenset[str] = frozenset()
    page_port: int | None = None
    prefect_port: int | None = None
    s3_port: int | None = None


def run_services(root: Path, wanted: Wanted, supervisor: Supervisor) -> None:
    """Start all services in their order, and make the workspace and the deployments ready.

    Raises:
        WorkspaceError: the workspace cannot have these services; nothing was started then.
        ServiceError: one did not start, or the workspace could not be prepared on them.
    """
    settings = load_settings(root)
    check_fits(settings, wanted.without)
    chosen = settings.production
    store_port = _port("s3", wanted.s3_port, chosen.s3_port)
    prefect_port = _port("prefect", wanted.prefect_port, chosen.prefect_port)
    page_port = _port("page", wanted.page_port, chosen.page_port)
    database, store = None, None
    if "postgres" not in wanted.without:
        catalog = definitions.postgres(root)
        database = catalog.url
        supervisor.start(catalog)
    if "s3" not in wanted.without:
        keys = definitions.s3_keys(root)
        objects = definitions.s3(root, store_port, keys)
        store = (objects.url, keys)
        supervisor.start(objects)
    auth = definitions.prefect_auth(root)
    server = definitions.prefect_server(prefect_port, auth)
    supervisor.start(server)
    supervisor.wait()
    supervisor.api = f"{server.url}/api"
    if supervisor.stopping.is_set():
        return
    if database or store:
        definitions.write_services_file(root, database, store)
    _prepare(root, definitions.client_of(supervisor.api, auth))
    supervisor.start(definitions.worker(load_settings(root), supervisor.api, auth))
    if "page" not in wanted.without:
        supervisor.start(definitions.page(page_port, supervisor.api, auth))
    supervisor.wait()
    supervisor.write_state()


def _port(name: str, asked: int | None, default: int) -> int:
    if asked is None:
        return definitions.choose_port(name, default, exact=False)
    return definitions.choose_port(name, asked, exact=True)


def _prepare(root: Path, server: dict[str, str]) -> None:
    """Migrations, the shipped model and the deployments, in a process of their own: they need
    torch and Prefect, which this one would keep in memory."""
    done = subprocess.run(
        python("flows.cli.main", "deploy", "--json"),
        cwd=root,
        env=environment(root, **server),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    (root / SERVICES / "deploy.log").write_text(done.stdout + done.stderr)
    if done.returncode:
        raise ServiceError(f"the workspace could not be made ready: {done.stderr.strip()[-2000:]}")


def check_fits(settings: Settings, without: frozenset[str]) -> None:
    """Refuse what would leave masks and images behind where nobody looks for them.

    Raises:
        WorkspaceError: what to do instead.
    """
    ours = definitions.read_services_file(settings.root)
    fresh = "make a fresh workspace with `dataengine init` and ingest there"
    if "database_url" in ours and "postgres" in without:
        raise WorkspaceError(
            "this workspace's catalog is in its PostgreSQL; leave --without postgres out"
        )
    if "store" in ours and "s3" in without:
        raise WorkspaceError("this workspace's objects are in its S3; leave --without s3 out")
    if "postgres" not in without and "database_url" not in ours:
        if settings.database_url is not None:
            raise WorkspaceError(
                "database_url is set already; give --without postgres to use that one"
            )
        if datasets := _datasets_in(settings):
            raise WorkspaceError(
                f"this workspace has {datasets} dataset(s) in SQLite, which are not moved to "
                f"PostgreSQL; {fresh}, or give --without postgres --without s3"
            )
    if "s3" not in without and "store" not in ours:
        if "://" in settings.store.uri:
            raise WorkspaceError("[store] uri is set already; give --without s3 to use that one")
        if any((settings.root / settings.store.uri / "images").glob("*")):
            raise WorkspaceError(
                "this workspace has images in its folder, which are not moved to S3; "
                f"{fresh}, or give --without postgres --without s3"
            )


def _datasets_in(settings: Settings) -> int:
    if not (settings.root / "catalog.db").exists():
        return 0
    from storage.catalog import open_catalog

    with open_catalog(settings.catalog_url) as catalog:
        catalog.migrate()
        return len(catalog.datasets.all())


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold the workspace's services.

    Raises:
        WorkspaceError: another `dataengine up` has them.
    """
    folder_of(root)
    deadline = time.monotonic() + LOCK_SECONDS
    with (root / LOCK_FILE).open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise WorkspaceError(f"`dataengine up` runs in {root} already") from error
            time.sleep(0.1)
        yield


@contextlib.contextmanager
def stopped_by_signals(stopping: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM set the event, while the body runs."""

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
