"""Which callers count as local, and the effect of a proxy."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import httpx
import pytest

from engine.annotation.access import COOKIE
from engine.annotation.guards import OVER_TLS
from flows.page.make_app import make_app
from flows.workspace.settings import FILE_NAME, WorkspaceError, load_settings
from tests.annotation.site import Site, served
from tests.security.conftest import asker, empty_workspace, raw

PROXIED = (
    *("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Whatever"),
    *("X-Real-IP", "Forwarded", "Via", "CF-Connecting-IP", "True-Client-IP", "X-Client-IP"),
)
FOREIGN_ORIGINS = (
    *("http://evil.example", "https://evil.example:8765", "null", "http://10.0.0.1", "file://"),
    *("http://127.0.0.1.evil.example", "http://localhost@evil.example", "http://[::2]", "x"),
)


asking = httpx.Client(timeout=60)


def status(url: str, **headers: str) -> int:
    return asking.get(f"{url}/api/me", headers=headers).status_code


def test_whoever_sits_at_the_machine_needs_no_sign_in(local_url: str) -> None:
    port = local_url.rpartition(":")[2]
    assert status(local_url) == 200
    for origin in (f"http://127.0.0.1:{port}", "http://localhost:1", "http://[::1]:8765"):
        assert status(local_url, Origin=origin) == 200, origin
    assert status(local_url, Host=f"localhost:{port}") == 200
    assert status(local_url, **{"Sec-Fetch-Site": "same-origin"}) == 200


def test_nobody_is_local_through_a_proxy_or_from_another_sites_page(local_url: str) -> None:
    for name in PROXIED:
        for value in ("127.0.0.1", "for=127.0.0.1", "http", "203.0.113.9, 127.0.0.1"):
            assert status(local_url, **{name: value}) == 401, (name, value)
    for origin in FOREIGN_ORIGINS:
        assert status(local_url, Origin=origin) == 401, origin
    for site in ("cross-site", "same-site"):
        assert status(local_url, **{"Sec-Fetch-Site": site}) == 403, site
    # nginx's defaults: HTTP/1.0, our own name as Host, no proxy headers
    assert raw(local_url, "GET /api/me HTTP/1.0\nHost: 127.0.0.1\n")[0] == 401
    assert raw(local_url, "GET /api/me HTTP/1.1\nHost: 127.0.0.1\n")[0] == 200
    two = "GET /api/me HTTP/1.1\nHost: 127.0.0.1\nOrigin: http://127.0.0.1\nOrigin: http://evil\n"
    assert raw(local_url, two)[0] == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "localhost."]
)
def test_a_name_that_was_made_to_point_here_reaches_nothing(local_url: str, host: str) -> None:
    for path in ("/api/me", "/annotate", "/static/css/base.css", "/metrics"):
        assert asking.get(local_url + path, headers={"Host": host}).status_code == 400, path


@pytest.mark.skipif(os.getuid() != 0, reason="only root can ask as somebody else")
@pytest.mark.parametrize("host", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_another_user_of_the_machine_is_not_local(local_url: str, host: str) -> None:
    def answer(user: int) -> bytes:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        os.seteuid(user)
        try:
            connection = socket.socket(family)  # belongs to the user who creates it
        finally:
            os.seteuid(0)
        with connection:
            connection.settimeout(5)
            connection.connect((host, int(local_url.rpartition(":")[2])))
            connection.sendall(b"GET /api/me HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            return connection.recv(1 << 16).split()[1]

    assert answer(0) == b"200"
    assert answer(65_534) == b"401"


def test_the_first_page_sends_strangers_to_sign_in(local_url: str) -> None:
    def first(**headers: str) -> str:
        return asking.get(local_url, headers=headers).headers["location"]

    assert first() == "/dashboard"
    assert first(**{"X-Forwarded-For": "203.0.113.9"}) == "/sign-in"


def test_people_who_are_entered_end_the_local_login_of_a_running_server(
    tmp_path: Path,
) -> None:
    workspace = empty_workspace(tmp_path)
    with pytest.raises(WorkspaceError, match=r"annotate\.example\.org.*annotators add"):
        make_app(workspace, "127.0.0.1", ["annotate.example.org"])
    with served(workspace, local=True) as url:
        assert status(url) == 200
        with asking.stream("GET", f"{url}/api/events", timeout=10) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("event:")
            workspace.catalog.annotators.get_or_create("ada")
            assert status(url) == 401
            list(lines)  # the event stream ends too
    make_app(workspace, "127.0.0.1", ["annotate.example.org"])


# proxies


@pytest.mark.parametrize(
    ("proxies", "peer", "is_believed"),
    [
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.1.2.3"], "10.1.2.3", True),
        (["fd00::/8"], "fd00::7", True),
        (["127.0.0.1", "::1"], "10.1.2.3", False),
        ([], "127.0.0.1", False),
    ],
)
def test_only_a_trusted_proxy_says_that_it_was_asked_over_tls(
    site: Site, proxies: list[str], peer: str, is_believed: bool
) -> None:
    ask = asker(site, proxies, peer)
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
    answer = ask("POST", "/api/sign-in", json={"token": site.link("ada")}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert COOKIE in answer.headers["set-cookie"]
    assert ("secure" in answer.headers["set-cookie"].lower()) == is_believed
    assert (answer.headers.get("strict-transport-security") == OVER_TLS) == is_believed
    plain = ask("GET", "/sign-in")
    assert "strict-transport-security" not in plain.headers


@pytest.mark.parametrize(
    ("mine", "others", "is_shared"),
    [
        ("203.0.113.9", "203.0.113.10", False),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("2001:db8::1", "2001:db8::ffff", True),  # one customer's network
        ("6.6.6.6, 203.0.113.9", "7.7.7.7, 203.0.113.9", True),  # forged addresses before ours
    ],
)
def test_guesses_are_counted_by_the_address_behind_the_proxy(
    site: Site, mine: str, others: str, is_shared: bool
) -> None:
    ask = asker(site, ["10.0.0.1"], "10.0.0.1")

    def guess(address: str) -> int:
        headers = {"X-Forwarded-For": address}
        return ask("POST", "/api/sign-in", json={"token": ""}, headers=headers).status_code

    assert [guess(mine) for _ in range(31)] == [422] * 30 + [429]
    assert guess(others) == (429 if is_shared else 422)


def test_an_address_that_is_none_is_refused_in_the_settings(tmp_path: Path) -> None:
    for wrong in ('["10.0.0.0/33"]', '["*"]', '["proxy.example.org"]'):
        (tmp_path / FILE_NAME).write_text(f"[page]\ntrusted_proxies = {wrong}\n")
        with pytest.raises(WorkspaceError, match="trusted_proxies"):
            load_settings(tmp_path)


def test_a_real_server_believes_no_header_of_a_stranger(site: Site) -> None:
    with served(site.workspace) as url:
        answer = asking.get(f"{url}/metrics", headers={"X-Forwarded-For": "127.0.0.1"})
        assert answer.status_code == 403
        assert asking.get(f"{url}/metrics").status_code == 200
