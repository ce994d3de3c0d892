"""Attacks on the real servers of `dataengine up` from outside: by another user of the machine, who
reaches every port, and by a web page in the browser of the workspace's user."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from flows.prefect_api.client import AUTH_FILE, own_auth
from flows.services.definitions import OTHER_PORTS, choose_port, prefect_server, read_services_file
from flows.services.s3_security import KEY
from flows.workspace.settings import SERVICES, SERVICES_FILE, WorkspaceError
from flows.workspace.workspace import open_workspace
from tests.production.running import Production, processes_of
from tests.security.strangers import FOREIGN, knocks, open_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LOOPBACK = "0100007F"


def test_no_port_of_the_object_store_gives_takes_or_removes_anything_without_a_key(
    attacked: Production, tmp_path: Path
) -> None:
    store = open_workspace(str(attacked.root)).objects
    store.put("kept", b"what is kept")
    ports = {
        port: address
        for port, (address, command) in open_ports(attacked.root).items()
        if "weed" in command
    }
    assert len(ports) >= 10  # master, volume, filer, admin, and gRPC of each, and S3 with its own
    assert set(ports.values()) == {LOOPBACK}
    answers = [answer for port in ports for answer in knocks(port, tmp_path)]
    status = f"{attacked.services['s3']['url']}/status"  # reveals only that it is there
    assert {str(answer.url) for answer in answers if answer.status_code < 400} <= {status}
    # Any page may read it, and S3's errors for missing objects.
    told = [answer for answer in answers if "access-control-allow-origin" in answer.headers]
    assert {answer.url.port for answer in told} <= {httpx.URL(status).port}
    objects = [answer for answer in told if answer.url.path == "/dataengine/kept"]
    assert {answer.status_code for answer in objects} <= {405}  # method not allowed
    assert store.get("kept") == b"what is kept"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_s3_tells_a_browser_that_no_other_page_may_ask(attacked: Production, method: str) -> None:
    url = f"{attacked.services['s3']['url']}/dataengine/kept"
    asked = {"Origin": FOREIGN, "Access-Control-Request-Method": method}
    answer = httpx.options(url, headers=asked, timeout=5)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_whatever_else_listens_listens_on_this_machine_only(attacked: Production) -> None:
    ports = open_ports(attacked.root)
    assert {address for address, _ in ports.values()} == {LOOPBACK}
    for name in ("prefect", "page", "s3"):
        assert httpx.URL(attacked.services[name]["url"]).port in ports


CODE = {
    "name": "anything",
    "flow_id": "00000000-0000-0000-0000-000000000000",
    "work_pool_name": "dataengine",
    "pull_steps": [{"prefect.deployments.steps.run_shell_script": {"script": "touch /tmp/x"}}],
}
"""A deployment whose pull step a worker would run."""
EVENT = {
    "occurred": "2026-01-01T00:00:00Z",
    "event": "dataengine.model.promoted",
    "resource": {"prefect.resource.id": "dataengine.workspace.tested"},
    "payload": {},
    "id": "00000000-0000-0000-0000-000000000001",
}
REQUESTS: list[tuple[str, str, Any]] = [
    ("POST", "/deployments/", CODE),
    ("POST", "/deployments/filter", {}),
    ("POST", "/events", [EVENT]),
    ("POST", "/flows/", {"name": "anything"}),
    ("GET", "/admin/settings", None),
    ("POST", "/admin/database/drop", {"confirm": True}),
    ("DELETE", "/work_pools/dataengine", None),
]


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
@pytest.mark.parametrize("login", [None, ("dataengine", ""), ("dataengine", "guessed")])
def test_prefect_obeys_nobody_without_its_login(
    attacked: Production, method: str, path: str, body: Any, login: tuple[str, str] | None
) -> None:
    answer = httpx.request(method, f"{attacked.api}{path}", json=body, auth=login, timeout=10)
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Origin": "http://localhost:{port}"}, 200),
        ({"Host": "localhost:{port}"}, 200),
        ({"Origin": FOREIGN}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://localhost.foreign.example:{port}"}, 403),
        ({"Host": "foreign.example:{port}"}, 403),
        ({"Host": "foreign.example:{port}", "Origin": "http://foreign.example:{port}"}, 403),
    ],
)
def test_prefect_answers_to_its_own_names_and_its_own_pages_even_with_the_login(
    attacked: Production, headers: dict[str, str], status: int
) -> None:
    port = httpx.URL(attacked.api).port
    told = {name: value.format(port=port) for name, value in headers.items()}
    url = f"{attacked.api}/admin/version"
    answer = httpx.get(url, headers=told, auth=attacked.login, timeout=10)
    assert answer.status_code == status
    allowed = answer.headers.get("access-control-allow-origin")
    assert allowed == (told.get("Origin") if status == 200 else None)


@pytest.mark.parametrize("path", ["/events/in", "/events/out", "/logs/out"])
@pytest.mark.parametrize(
    ("origin", "token"), [(FOREIGN, "the login"), (None, "guessed"), (None, None)]
)
def test_prefects_sockets_want_the_login_and_refuse_other_pages(
    attacked: Production, path: str, origin: str | None, token: str | None
) -> None:
    url, right = f"{attacked.api}{path}".replace("http", "ws", 1), own_auth(attacked.root)
    assert "auth_success" in str(first_word(url, None, right))
    with pytest.raises(WebSocketException):
        first_word(url, origin, right if token == "the login" else token)


def first_word(url: str, origin: str | None, token: str | None) -> str | bytes:
    """The answer of a WebSocket of Prefect to a greeting."""
    page = None if origin is None else Origin(origin)
    with connect(url, origin=page, subprotocols=[Subprotocol("prefect")]) as opened:
        opened.send(json.dumps({"type": "auth", "token": token}))
        return opened.recv(timeout=10)


def test_another_prefect_server_on_the_port_does_not_count_as_the_workspaces_own(
    attacked: Production,
) -> None:
    port = httpx.URL(attacked.api).port
    assert port is not None
    assert prefect_server(port, own_auth(attacked.root)).healthy()
    assert not prefect_server(port, "dataengine:of another workspace").healthy()


def test_a_taken_port_is_replaced_by_one_that_no_program_gets_unasked(attacked: Production) -> None:
    port = httpx.URL(attacked.page).port
    assert port is not None
    assert choose_port("page", port, exact=False) in OTHER_PORTS
    with pytest.raises(WorkspaceError, match=f"port {port} for page is taken"):
        choose_port("page", port, exact=True)


def test_keys_and_logins_are_in_files_of_the_user_and_in_no_command_line(
    attacked: Production,
) -> None:
    services = attacked.root / SERVICES
    keys = read_services_file(attacked.root)["store"]
    secrets = [own_auth(attacked.root), str(keys["secret_key"])]
    assert all(len(secret) > 30 for secret in secrets)
    assert stat.S_IMODE(services.stat().st_mode) == 0o700
    for file in (AUTH_FILE, SERVICES_FILE, f"{SERVICES}/s3/{KEY}"):
        assert stat.S_IMODE((attacked.root / file).stat().st_mode) == 0o600
    commands = " ".join(processes_of(attacked.root).values())
    logs = " ".join(path.read_text(errors="replace") for path in services.glob("*.log"))
    assert not [secret for secret in secrets if secret in commands + logs]


def test_the_folders_above_a_workspace_stay_closed(attacked: Production) -> None:
    """Also as root, where PostgreSQL runs as a user without access to the folders above, and in
    none of root's groups."""
    assert stat.S_IMODE(attacked.root.parent.stat().st_mode) == 0o700
    data = attacked.root / SERVICES / "postgres" / "base"
    is_roots = (data.stat().st_uid == 0, data.stat().st_gid == 0)
    assert is_roots == (False, False) or os.geteuid() != 0
    assert open_workspace(str(attacked.root)).catalog.datasets.all() == []


def test_a_port_that_was_told_to_nobody_is_found(attacked: Production) -> None:
    """The scan of open ports therefore sees all of them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert server.getsockname()[1] not in open_ports(attacked.root)
    assert httpx.URL(attacked.page).port in open_ports(attacked.root)
