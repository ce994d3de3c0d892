"""Access rights at the page."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import httpx
import pytest

from engine.annotation.access import LINK_SECONDS, Access, Rate, RateLimits, hashed, new_link_token
from engine.annotation.callers import is_loopback
from engine.annotation.client import Client
from engine.annotation.errors import RefusedError
from engine.annotation.guards import HEADERS
from engine.annotation.routes import MAX_BODY, SIGN_INS
from flows.page.make_app import make_app
from flows.workspace.settings import WorkspaceError
from storage.catalog import AnnotatorKind, Catalog, TaskKind
from tests.annotation.site import Site, served
from tests.contract.database_fixtures import FakeClock


def refusal(call: object) -> tuple[int, str]:
    assert callable(call)
    with pytest.raises(RefusedError) as refused:
        call()
    return refused.value.status, refused.value.error


# signing in


def test_a_link_signs_in_once(site: Site, url: str) -> None:
    token = site.link("ada")
    with Client(url, token=token) as client:
        assert (client.me.name, client.me.role, client.me.is_local) == ("ada", "annotator", False)
    assert refusal(lambda: Client(url, token=token)) == (401, "bad_link")
    assert refusal(lambda: Client(url)) == (401, "not_signed_in")


def test_a_new_link_ends_the_old_one(site: Site, url: str) -> None:
    old, new = site.link("ada"), site.link("ada")
    assert refusal(lambda: Client(url, token=old))[0] == 401
    Client(url, token=new).close()


def test_tokens_and_sessions_are_kept_as_hashes_and_run_out(tmp_path: Path) -> None:
    clock = FakeClock()
    with Catalog(f"sqlite:///{tmp_path / 'c.db'}", clock=clock) as catalog:
        catalog.migrate()
        access = Access(catalog)
        person = catalog.annotators.get_or_create("ada")
        token = new_link_token(catalog, person)
        session, visitor = access.sign_in(token)
        assert visitor.annotator == person
        catalog.close()
        stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert token.encode() not in stored
        assert session.encode() not in stored
        assert hashed(session).encode() in stored
        clock.advance(15 * 24 * 3600)
        assert refusal(lambda: access.visitor(session))[0] == 401
        late = new_link_token(catalog, person)
        clock.advance(LINK_SECONDS + 1)
        assert refusal(lambda: access.sign_in(late))[0] == 401


def test_whoever_is_removed_is_out_at_once(site: Site, url: str, ada: Client) -> None:
    people = site.workspace.catalog.annotators
    person = people.find("ada")
    assert person is not None
    site.workspace.catalog.sign_ins.end_all(person.id)
    assert refusal(lambda: ada.next_task([TaskKind.ANNOTATE]))[0] == 401


def test_signing_out_ends_the_session(site: Site, url: str, ada: Client) -> None:
    session = ada.session
    ada._send("POST", "/api/sign-out")
    assert refusal(lambda: Client(url, session=session))[0] == 401


def test_the_sessions_cookie_is_out_of_reach_of_scripts_and_other_sites(
    site: Site, url: str
) -> None:
    answer = httpx.post(f"{url}/api/sign-in", json={"token": site.link("ada")})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


# local


def test_on_this_machine_alone_nobody_signs_in_until_people_are_entered(site: Site) -> None:
    with served(site.workspace, local=True) as url, Client(url) as client:
        assert (client.me.role, client.me.is_local) == ("admin", True)
    site.link("ada")
    with served(site.workspace) as url:
        assert refusal(lambda: Client(url))[0] == 401


def test_another_address_needs_people(site: Site) -> None:
    with pytest.raises(WorkspaceError, match="annotators add"):
        make_app(site.workspace, "0.0.0.0", [])  # noqa: S104
    site.workspace.catalog.annotators.get_or_create("simulated", kind=AnnotatorKind.SIMULATED)
    with pytest.raises(WorkspaceError):
        make_app(site.workspace, "192.168.1.4", [])
    site.link("ada")
    make_app(site.workspace, "192.168.1.4", [])


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.8.8.8", True)]
    + [(host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", "")],  # noqa: S104
)
def test_loopback_addresses_are_known(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_names_that_were_made_to_point_here_are_refused(url: str) -> None:
    answer = httpx.get(f"{url}/api/me", headers={"Host": "evil.example"})
    assert answer.status_code == 400


# rights


def test_annotators_see_their_tasks_and_nothing_else(site: Site, ada: Client, bob: Client) -> None:
    site.annotate()
    task = ada.next_task([TaskKind.ANNOTATE]).task
    assert task is not None
    assert ada.pixels(task.image.id, 64)[:2] == b"\xff\xd8"
    assert refusal(lambda: bob.pixels(task.image.id))[0] == 404
    assert refusal(lambda: bob.regions(task.image.id, (0, 0, 9, 9), 9))[0] == 404
    assert refusal(lambda: ada.pixels(task.image.id + 1))[0] == 404
    assert refusal(lambda: ada.pixels(2**62))[0] == 404
    for call in (ada.overview, ada.actions, ada.jobs, lambda: ada.start("retrain")):
        assert refusal(call) == (403, "role")
    assert refusal(lambda: ada.next_task([TaskKind.REVIEW])) == (403, "role")


def test_reviewers_see_everything_and_start_nothing(site: Site, rita: Client) -> None:
    assert rita.overview().datasets[0]["name"] == "d"
    assert rita.jobs() == []
    assert rita.pixels(site.image_ids[0], 64)
    for call in (rita.actions, lambda: rita.start("retrain"), lambda: rita.plan("retrain")):
        assert refusal(call) == (403, "role")


def test_a_change_needs_the_sessions_csrf_token(site: Site, url: str, ada: Client) -> None:
    site.annotate()
    for token in ("", "wrong"):
        ada._csrf = token
        assert refusal(lambda: ada.next_task([TaskKind.ANNOTATE])) == (403, "csrf")
    ada.renew()
    assert ada.next_task([TaskKind.ANNOTATE]).task is not None


def test_refused_and_done_things_are_in_the_audit_log(site: Site, url: str, ada: Client) -> None:
    refusal(lambda: Client(url, token="x" * 20))
    entries = site.workspace.catalog.audit.latest()
    assert [entry.action for entry in entries] == ["sign_in_refused", "sign_in"]
    assert entries[1].subject == "ada"


# limits


def test_too_many_requests_are_refused_and_soon_allowed_again() -> None:
    now = 0.0
    limits = RateLimits(lambda: now)
    rate = Rate(burst=3, a_second=2)
    for _ in range(3):
        limits.spend("ada", rate)
    assert refusal(lambda: limits.spend("ada", rate)) == (429, "too_many")
    limits.spend("bob", rate)
    now = 0.5
    limits.spend("ada", rate)
    assert refusal(lambda: limits.spend("ada", rate))[0] == 429


def test_sign_in_links_cannot_be_guessed_at_speed(url: str) -> None:
    codes: list[int] = []
    start = time.monotonic()
    with httpx.Client(base_url=url) as client:
        while 429 not in codes and len(codes) < 200:
            token = f"guess-{len(codes):030d}"
            codes.append(client.post("/api/sign-in", json={"token": token}).status_code)
    regained = SIGN_INS.a_second * (time.monotonic() - start)
    assert codes[-1] == 429
    assert codes[:-1] == [401] * (len(codes) - 1)
    assert SIGN_INS.burst <= len(codes) - 1 <= SIGN_INS.burst + regained


@pytest.mark.parametrize("says_so", [True, False])
def test_huge_requests_are_refused_before_they_are_read(
    site: Site, url: str, ada: Client, says_so: bool
) -> None:
    piece = b"x" * (1 << 20)
    count = (MAX_BODY >> 20) + 2
    content = piece * count if says_so else (piece for _ in range(count))
    headers = {"X-CSRF-Token": ada._csrf, "Content-Type": "application/json"}
    try:
        answer = ada._http.post("/api/tasks/next", content=content, headers=headers)
        assert answer.status_code == 413
        assert answer.json()["error"] == "too_large"
    except httpx.WriteError:
        pass  # the server closed the connection early: also refused
    assert ada.next_task([TaskKind.ANNOTATE]).task is None  # and the server still answers


def test_every_answer_has_the_security_headers(url: str) -> None:
    for path in ("/sign-in", "/api/me", "/static/css/base.css", "/nowhere"):
        answer = httpx.get(url + path)
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS, path
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2f..%2fsam/lite.py", "/static//etc"],
)
def test_static_files_end_at_their_folder(url: str, path: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:  # httpx would normalise the path
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := raw.recv(65536):
            answer += piece
    assert b" 404 " in answer.split(b"\r\n")[0]
    assert b"create_app" not in answer
