"""The page Team over HTTP: people and their rights, links, API tokens, and the log of changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from engine.annotation.access import COOKIE
from engine.annotation.client import Client
from engine.annotation.errors import RefusedError
from engine.annotation.team_schemas import PersonView, TeamView
from storage.catalog import NewTask, TaskKind
from tests.annotation.site import Site, make_site, served
from tests.annotation.test_tasks import new_mask, taken


def refusal(call: Callable[[], object]) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        call()
    return refused.value


def person(view: TeamView, name: str) -> PersonView:
    (found,) = [one for one in view.people if one.name == name]
    return found


def test_a_person_is_invited_with_rights_and_signs_in_once(
    site: Site, url: str, adam: Client
) -> None:
    made = adam.team.invite("grace", "reviewer", ["d"])
    with Client(url, token=made.token) as grace:
        assert (grace.me.name, grace.me.role) == ("grace", "reviewer")
        found = person(adam.team.view(), "grace")
        assert (found.datasets, found.state, found.is_signed_in) == (["d"], "active", True)
        assert refusal(lambda: Client(url, token=made.token)).error == "bad_link"
        assert refusal(grace.team.view).error == "role"
        adam.team.set_rights(found.id, "admin")
        assert [one.name for one in grace.team.view().people if one.is_self] == ["grace"]
        again = adam.team.invite_again(found.id)
    with Client(url, token=again.token) as grace:
        assert grace.me.role == "admin"


@pytest.mark.parametrize(
    ("name", "role", "datasets", "error"),
    [
        ("adam", "annotator", None, "exists"),
        ("local", "annotator", None, "exists"),
        ("-x", "annotator", None, "invalid"),
        ("eve\x00", "annotator", None, "invalid"),
        ("eve", "owner", None, "invalid"),
        ("eve", "annotator", ["nowhere"], "invalid"),
    ],
)
def test_a_wrong_invitation_adds_nobody(
    adam: Client, name: str, role: str, datasets: list[str] | None, error: str
) -> None:
    before = adam.team.view().people
    assert refusal(lambda: adam.team.invite(name, role, datasets)).error == error
    assert adam.team.view().people == before


def test_a_disabled_person_is_out_at_once_and_what_waits_for_them_is_everybodys(
    site: Site, url: str, ada: Client, bob: Client, adam: Client
) -> None:
    site.annotate()
    ada.submit(taken(ada), [new_mask()], seconds=3)
    found = person(adam.team.view(), "ada")
    token = adam.team.make_token(found.id, "script", 5).token
    link = adam.team.invite_again(found.id).token
    kept = NewTask(
        dataset_id=site.dataset_id,
        image_id=site.image_ids[0],
        kind=TaskKind.COMPLETE,
        run_id="annotate",
        reserved_for=found.id,
    )
    site.workspace.queue.add([kept])
    assert bob.next_task([TaskKind.COMPLETE]).task is None
    adam.team.disable(found.id)
    assert refusal(ada.renew).status == 401
    assert refusal(lambda: Client(url, api_token=token)).status == 401
    assert refusal(lambda: Client(url, token=link)).status == 401
    assert bob.next_task([TaskKind.COMPLETE]).task is not None
    assert person(adam.team.view(), "ada").state == "disabled"
    for call in (adam.team.invite_again, lambda one: adam.team.make_token(one, "x", 1)):
        assert refusal(lambda: call(found.id)).error == "disabled"  # noqa: B023
    adam.team.enable(found.id)
    with Client(url, token=adam.team.invite_again(found.id).token) as again:
        assert again.finished().total == 1
    assert adam.team.view().tokens == []


def test_an_admin_cannot_take_their_own_rights_away(adam: Client) -> None:
    mine = person(adam.team.view(), "adam")
    assert refusal(lambda: adam.team.disable(mine.id)).error == "own"
    assert refusal(lambda: adam.team.set_rights(mine.id, "annotator")).error == "own"
    assert adam.team.view().people[0].role == "admin"
    for call in (adam.team.disable, adam.team.enable, adam.team.invite_again):
        assert refusal(lambda: call(10_000)).status == 404  # noqa: B023


def test_an_api_token_acts_as_its_person_until_it_expires_or_is_revoked(
    site: Site, url: str, ada: Client, adam: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.annotate()
    owner = person(adam.team.view(), "ada")
    made = adam.team.make_token(owner.id, "nightly", 2)
    assert made.token not in json.dumps(adam.team.view().model_dump(mode="json"))
    with Client(url, api_token=made.token) as script:
        assert script.me.name == "ada"
        script.submit(taken(script), [new_mask()], seconds=4)  # without a CSRF token
        (shown,) = adam.team.view().tokens
        assert shown.used_at is not None
        assert refusal(script.team.view).error == "role"
        with monkeypatch.context() as later:
            at = datetime.now(UTC) + timedelta(days=2, seconds=1)
            later.setattr(site.workspace.catalog, "now", lambda: at)
            assert refusal(script.renew).error == "bad_token"
        script.renew()
        adam.team.revoke_token(shown.id)
        assert refusal(script.renew).error == "bad_token"
    assert refusal(lambda: adam.team.revoke_token(shown.id)).status == 404
    files = [one for one in site.workspace.settings.root.rglob("*") if one.is_file()]
    assert not any(made.token.encode() in one.read_bytes() for one in files)


def test_a_token_of_an_admin_changes_no_people_and_makes_no_tokens(url: str, adam: Client) -> None:
    mine = person(adam.team.view(), "adam")
    made = adam.team.make_token(mine.id, "figures", 1)
    with Client(url, api_token=made.token) as script:
        assert person(script.team.view(), "adam").is_self
        assert script.overview().datasets
        for call in (
            lambda: script.team.invite("eve", "admin"),
            lambda: script.team.make_token(mine.id, "more", 366),
            lambda: script.team.invite_again(mine.id),
        ):
            assert refusal(call).error == "script"


def test_a_wrong_token_is_refused_even_beside_a_valid_cookie(url: str, adam: Client) -> None:
    cookies = {COOKIE: str(adam.session)}
    for value in ("Bearer", "Bearer ode_wrong", "bearer x"):
        headers = {"Authorization": value}
        assert httpx.get(f"{url}/api/me", headers=headers, cookies=cookies).status_code == 401
    headers = {"Authorization": "Basic dXNlcjpwYXNz"}  # of a proxy in front of the page
    assert httpx.get(f"{url}/api/me", headers=headers, cookies=cookies).status_code == 200


def test_the_events_of_a_token_end_when_it_is_revoked(url: str, adam: Client) -> None:
    mine = person(adam.team.view(), "adam")
    made = adam.team.make_token(mine.id, "events", 1)
    headers = {"Authorization": f"Bearer {made.token}"}
    with httpx.stream("GET", f"{url}/api/events", headers=headers, timeout=20) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("event:")
        adam.team.revoke_token(made.view.id)
        assert list(lines) is not None  # it ends, else this would time out


def test_the_log_says_who_changed_what_and_when(adam: Client) -> None:
    made = adam.team.invite("grace", "annotator", ["d"])
    found = person(adam.team.view(), "grace")
    adam.team.set_rights(found.id, "reviewer")
    token = adam.team.make_token(found.id, "nightly", 3)
    adam.team.revoke_token(token.view.id)
    adam.team.disable(found.id)
    log = [one for one in adam.team.audit() if one.subject == made.name]
    assert [one.action for one in log] == [
        "annotator_removed",
        "token_revoked",
        "token_made",
        "annotator_changed",
        "annotator_added",
    ]
    assert {one.who for one in log} == {"adam"}
    assert log[-1].detail == {"role": "annotator", "datasets": ["d"]}
    assert datetime.now(UTC) - log[0].at < timedelta(minutes=5)
    assert token.token not in str(log)


def test_the_first_person_is_an_admin_and_then_everybody_signs_in(tmp_path: Path) -> None:
    site = make_site(tmp_path / "alone")
    with served(site.workspace, local=True) as url, Client(url) as local:
        assert local.team.view().people == []
        assert refusal(lambda: local.team.invite("ada", "annotator")).error == "invalid"
        made = local.team.invite("grace", "admin")
        assert refusal(local.team.view).status == 401
        with Client(url, token=made.token) as grace:
            assert [one.name for one in grace.team.view().people] == ["grace"]


def test_assigned_images_are_for_one_person_until_they_are_taken_back(
    site: Site, ada: Client, bob: Client, adam: Client
) -> None:
    site.annotate()
    view = adam.team.view()
    first, second = person(view, "ada").id, person(view, "bob").id
    assert adam.team.assign(first, "d", image_ids=[site.image_ids[2]]) == 1
    assert [task.state for task in ada.work(datetime.now(UTC)).tasks] == ["reserved"]
    assert taken(ada).image.id == site.image_ids[2]
    assert adam.team.assign(second, "d", share=0.5) == 1  # of the two that are left
    assert adam.team.assign(second, "d", images=7) == 1
    assert person(adam.team.view(), "bob").reserved == 2
    ada.submit(taken(ada), [new_mask()], seconds=2)
    assert ada.next_task([TaskKind.ANNOTATE]).task is None
    found = refusal(lambda: adam.team.assign(first, "d", images=1))
    assert (found.status, found.error) == (409, "none")
    assert adam.team.take_back(second, "d") == 2
    assert taken(ada).image.id == site.image_ids[0]
    assert adam.team.audit()[0].detail == {"dataset": "d", "tasks": 2}


def test_an_assignment_is_one_thing_to_somebody_who_sees_the_dataset(
    site: Site, ada: Client, adam: Client
) -> None:
    site.annotate()
    mine = person(adam.team.view(), "ada").id
    for given in ({}, {"images": 1, "share": 0.5}, {"share": 0}, {"share": 1.1}, {"images": 0}):
        assert refusal(lambda: adam.team.assign(mine, "d", **given)).status == 422  # noqa: B023
    assert refusal(lambda: adam.team.assign(mine, "nowhere", images=1)).status == 422
    assert refusal(lambda: adam.team.assign(10_000, "d", images=1)).status == 404
    adam.team.set_rights(mine, "annotator", [])
    assert "does not see 'd'" in refusal(lambda: adam.team.assign(mine, "d", images=1)).message
    assert person(adam.team.view(), "ada").reserved == 0
