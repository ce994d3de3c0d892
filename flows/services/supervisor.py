"""Runs the services of `dataengine up`: all of production on one machine, from pip packages alone.

Every service runs under a guard (`flows.services.process_guard`) that ends it when this command
ends, in any way. Data and logs are kept in the workspace's `.services` folder.
"""

from __future__ import annotations

import contextlib
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

from filelock import FileLock, Timeout

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
"""How long to wait for the lock: a command that checks whether `up` runs holds it briefly."""
LOOK_SECONDS = 1.0
CHECK_SECONDS = 10.0
MAX_WAIT_SECONDS = 30.0
"""Longest pause before a service that ends repeatedly is started again."""
STEADY_SECONDS = 60.0
"""A service that has run for this long is started again at once when it ends."""
OPTIONAL = ("page", "postgres", "s3")
DEPENDENTS = ("worker", "page")
"""Services that use the others."""


class ServiceError(DataEngineError):
    """A service of `dataengine up` did not start. The message names its log."""


@dataclass(slots=True)
class RunningService:
    """A service that was started, and its health."""

    service: Service
    log: Path
    process: subprocess.Popen[bytes]
    started: float
    restarts: int = 0
    health: str = "starting"
    next_start: float | None = None
    """If it has ended: when it is started again, by `time.monotonic`."""

    def row(self) -> dict[str, Any]:
        """The service as a row of the status table."""
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
    running: list[RunningService] = field(default_factory=list)
    api: str | None = None
    """URL of Prefect's API, once its server runs."""

    def start(self, service: Service) -> None:
        """Start a service under a guard; does not wait until it is healthy."""
        log = self.root / SERVICES / f"{service.name}.log"
        process = _start_guarded(self.root, service, log)
        self.running.append(RunningService(service, log, process, time.monotonic()))

    def wait(self) -> None:
        """Wait until all started services are healthy.

        Raises:
            ServiceError: one ended, or is not healthy within START_SECONDS.
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
        """Restart services that end, and check their health, until `stopping` is set."""
        checked = time.monotonic()
        while not self.stopping.wait(LOOK_SECONDS):
            for item in self.running:
                self._restart_if_ended(item)
            if time.monotonic() - checked >= CHECK_SECONDS:
                checked = time.monotonic()
                self._check_all()

    def _restart_if_ended(self, item: RunningService) -> None:
        code = item.process.poll()
        if code is None:
            return
        now = time.monotonic()
        if item.next_start is None:
            steady = now - item.started > STEADY_SECONDS
            wait = 0.0 if steady else min(2.0**item.restarts, MAX_WAIT_SECONDS)
            item.next_start, item.health = now + wait, f"ended with {code}"
            message = f"{item.service.name} ended with code {code}; restarting it: {item.log}"
            errors.print(message, style="yellow", markup=False, highlight=False, soft_wrap=True)
            self.write_state()
        if now >= item.next_start:
            item.process = _start_guarded(self.root, item.service, item.log)
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
                message = f"{item.service.name}: {item.health}"
                errors.print(message, markup=False, highlight=False)
        self.write_state()

    def stop(self) -> None:
        """Stop all services: the worker and the page before those that they use."""
        dependents = [item for item in self.running if item.service.name in DEPENDENTS]
        _stop_all(dependents)
        _stop_all([item for item in self.running if item not in dependents])
        (self.root / STATE_FILE).unlink(missing_ok=True)

    def rows(self) -> list[dict[str, Any]]:
        """The status table."""
        return [item.row() for item in self.running]

    def write_state(self) -> None:
        """Write STATE_FILE, which other commands in the workspace read."""
        state = {
            "process": os.getpid(),
            "prefect_api_url": self.api,
            "services": self.rows(),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        fresh = (self.root / STATE_FILE).with_suffix(".fresh")
        fresh.write_text(json.dumps(state, indent=2))
        fresh.replace(self.root / STATE_FILE)


def _stop_all(items: list[RunningService]) -> None:
    """Stop these services, all at the same time."""
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


def check(item: RunningService) -> bool:
    """Check a service's health, and note the result; returns whether it is healthy."""
    try:
        item.health = "healthy" if item.service.healthy() else "not ready"
    except Exception as error:  # any error is a finding
        item.health = f"not answering: {type(error).__name__}"
    return item.health == "healthy"


def _start_guarded(root: Path, service: Service, log: Path) -> subprocess.Popen[bytes]:
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
            start_new_session=True,  # Ctrl-C reaches only this command, which then stops them
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceOptions:
    """Which services to start, and the ports that the user chose; None: the settings' or any free
    one."""

    without: frozenset[str] = frozenset()
    page_port: int | None = None
    prefect_port: int | None = None
    s3_port: int | None = None


def run_services(root: Path, options: ServiceOptions, supervisor: Supervisor) -> None:
    """Start all services in order, and prepare the workspace and the deployments.

    Raises:
        WorkspaceError: the workspace cannot have these services; nothing was started.
        ServiceError: one did not start, or preparing the workspace failed.
    """
    settings = load_settings(root)
    check_fits(settings, options.without)
    chosen = settings.production
    store_port = _port("s3", options.s3_port, chosen.s3_port)
    prefect_port = _port("prefect", options.prefect_port, chosen.prefect_port)
    page_port = _port("page", options.page_port, chosen.page_port)
    database, store = None, None
    if "postgres" not in options.without:
        catalog = definitions.postgres(root)
        database = catalog.url
        supervisor.start(catalog)
    if "s3" not in options.without:
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
    _prepare(root, definitions.client_environment(supervisor.api, auth))
    supervisor.start(definitions.worker(load_settings(root), supervisor.api, auth))
    if "page" not in options.without:
        supervisor.start(definitions.page(page_port, supervisor.api, auth))
    supervisor.wait()
    supervisor.write_state()


def _port(name: str, asked: int | None, default: int) -> int:
    if asked is None:
        return definitions.choose_port(name, default, exact=False)
    return definitions.choose_port(name, asked, exact=True)


def _prepare(root: Path, server: dict[str, str]) -> None:
    """Run migrations, add the shipped model and create the deployments, in a process of their own:
    they load torch and Prefect, which would stay in this process's memory."""
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
        raise ServiceError(f"the workspace could not be prepared: {done.stderr.strip()[-2000:]}")


def check_fits(settings: Settings, without: frozenset[str]) -> None:
    """Check that the services would hide no masks or images that the workspace already has.

    Raises:
        WorkspaceError: they would; the message says what to do instead.
    """
    ours = definitions.read_services_file(settings.root)
    fresh = "create a new workspace with `dataengine init` and ingest there"
    if "database_url" in ours and "postgres" in without:
        raise WorkspaceError(
            "this workspace's catalog is in its PostgreSQL; leave --without postgres out"
        )
    if "store" in ours and "s3" in without:
        raise WorkspaceError("this workspace's objects are in its S3; leave --without s3 out")
    if "postgres" not in without and "database_url" not in ours:
        if settings.database_url is not None:
            raise WorkspaceError("database_url is already set; give --without postgres to use it")
        if datasets := _datasets_in(settings):
            raise WorkspaceError(
                f"this workspace has {datasets} dataset(s) in SQLite, which are not moved to "
                f"PostgreSQL; {fresh}, or give --without postgres --without s3"
            )
    if "s3" not in without and "store" not in ours:
        if "://" in settings.store.uri:
            raise WorkspaceError("[store] uri is already set; give --without s3 to use it")
        if any((settings.root / settings.store.uri / "images").glob("*")):
            raise WorkspaceError(
                "this workspace has images in its folder, which are not moved to S3; "
                f"{fresh}, or give --without postgres --without s3"
            )


def _datasets_in(settings: Settings) -> int:
    if not (settings.root / "catalog.db").exists():
        return 0
    from storage.catalog import Catalog

    with Catalog(settings.catalog_url) as catalog:
        catalog.migrate()
        return len(catalog.datasets.all())


@contextlib.contextmanager
def exclusive_services(root: Path) -> Iterator[None]:
    """Hold the lock on the workspace's services.

    Raises:
        WorkspaceError: another `dataengine up` holds it.
    """
    folder_of(root)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(FileLock(root / LOCK_FILE, LOCK_SECONDS))
        except Timeout as error:
            raise WorkspaceError(f"`dataengine up` already runs in {root}") from error
        yield


@contextlib.contextmanager
def stopped_by_signals(stopping: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM set the event while the body runs."""

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
