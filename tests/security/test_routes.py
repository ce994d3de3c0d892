"""Every route with every role: the app's rights are compared with the declared ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from engine.annotation.access import COOKIE
from engine.annotation.admission import GuardedRoute
from engine.annotation.app import ROUTERS
from engine.annotation.browse_routes import CHOSEN
from engine.annotation.client import Client
from engine.annotation.guideline_routes import PICTURE, TEXT
from engine.annotation.routes import MAX_BODY, PROMPT, WORDS
from flows.page.make_app import make_app
from tests.annotation.site import Site
from tests.security.conftest import raw

KEY = tuple[str, str]

RULES: dict[KEY, tuple[str | None, str, int]] = {
    ("GET", "/me"): ("annotator", "read", 0),
    ("POST", "/sign-in"): (None, "sign-in", WORDS),
    ("POST", "/sign-out"): ("annotator", "change", 0),
    ("POST", "/tasks/next"): ("annotator", "change", WORDS),
    ("GET", "/tasks/{task_id}"): ("annotator", "read", 0),
    ("GET", "/tasks/{task_id}/suggestions"): ("annotator", "read", 0),
    ("POST", "/tasks/{task_id}/heartbeat"): ("annotator", "change", WORDS),
    ("POST", "/tasks/{task_id}/skip"): ("annotator", "change", WORDS),
    ("POST", "/tasks/{task_id}/release"): ("annotator", "change", WORDS),
    ("PUT", "/tasks/{task_id}/draft"): ("annotator", "change", MAX_BODY),
    ("POST", "/tasks/{task_id}/predict"): ("annotator", "prompt", PROMPT),
    ("POST", "/tasks/{task_id}/submit"): ("annotator", "submission", MAX_BODY),
    ("POST", "/tasks/{task_id}/late"): ("annotator", "submission", MAX_BODY),
    ("POST", "/tasks/{task_id}/judge"): ("reviewer", "submission", MAX_BODY),
    ("POST", "/tasks/{task_id}/return"): ("reviewer", "submission", WORDS),
    ("POST", "/tasks/{task_id}/comments"): ("annotator", "change", WORDS),
    ("GET", "/images/{image_id}/comments"): ("annotator", "read", 0),
    ("GET", "/images/{image_id}/pixels"): ("annotator", "picture", 0),
    ("GET", "/images/{image_id}/tiles/{level}/{column}/{row}"): ("annotator", "tile", 0),
    ("GET", "/images/{image_id}/regions"): ("annotator", "regions", 0),
    ("GET", "/guidelines"): ("annotator", "read", 0),
    ("PUT", "/guidelines"): ("admin", "change", TEXT),
    ("POST", "/guidelines/preview"): ("admin", "read", TEXT),
    ("GET", "/guidelines/history"): ("reviewer", "read", 0),
    ("GET", "/guidelines/pictures"): ("reviewer", "read", 0),
    ("POST", "/guidelines/pictures"): ("admin", "change", PICTURE),
    ("GET", "/guidelines/pictures/{name}"): ("annotator", "picture", 0),
    ("GET", "/overview"): ("reviewer", "read", 0),
    ("GET", "/actions"): ("admin", "read", 0),
    ("POST", "/actions/{name}/plan"): ("admin", "change", WORDS),
    ("POST", "/actions/{name}"): ("admin", "change", WORDS),
    ("GET", "/jobs"): ("reviewer", "read", 0),
    ("GET", "/jobs/{job_id}"): ("reviewer", "read", 0),
    ("POST", "/jobs/{job_id}/stop"): ("admin", "change", 0),
    ("POST", "/jobs/{job_id}/retry"): ("admin", "change", 0),
    ("GET", "/events"): ("annotator", "read", 0),
    ("GET", "/browse/datasets"): ("reviewer", "browse", 0),
    ("GET", "/browse/masks"): ("reviewer", "browse", 0),
    ("GET", "/browse/images"): ("reviewer", "browse", 0),
    ("GET", "/browse/figures"): ("reviewer", "browse", 0),
    ("GET", "/browse/outlines"): ("reviewer", "browse", 0),
    ("GET", "/browse/images/{image_id}"): ("reviewer", "browse", 0),
    ("GET", "/browse/images/{image_id}/thumbnail"): ("annotator", "thumbnail", 0),
    ("GET", "/browse/categories"): ("annotator", "browse", 0),
    ("POST", "/browse/label"): ("reviewer", "change", CHOSEN),
    ("GET", "/browse/finished"): ("annotator", "browse", 0),
    ("GET", "/browse/finished/{task_id}"): ("annotator", "browse", 0),
    ("POST", "/browse/finished/{task_id}/reopen"): ("annotator", "change", 0),
    ("GET", "/team"): ("admin", "read", 0),
    ("POST", "/team/people"): ("admin", "change", WORDS),
    ("POST", "/team/people/{person_id}/invite"): ("admin", "change", 0),
    ("PUT", "/team/people/{person_id}"): ("admin", "change", WORDS),
    ("POST", "/team/people/{person_id}/disable"): ("admin", "change", 0),
    ("POST", "/team/people/{person_id}/enable"): ("admin", "change", 0),
    ("POST", "/team/people/{person_id}/assign"): ("admin", "change", WORDS),
    ("POST", "/team/people/{person_id}/take-back"): ("admin", "change", WORDS),
    ("POST", "/team/tokens"): ("admin", "change", WORDS),
    ("POST", "/team/tokens/{token_id}/revoke"): ("admin", "change", 0),
    ("GET", "/team/audit"): ("admin", "read", 0),
    ("GET", "/releases/{name}/{file}"): ("reviewer", "download", 0),
    ("GET", "/settings"): ("admin", "read", 0),
    ("PUT", "/settings/{name}"): ("admin", "change", WORDS),
    ("GET", "/webhooks"): ("admin", "read", 0),
    ("POST", "/webhooks"): ("admin", "change", WORDS),
    ("POST", "/webhooks/{webhook_id}/pause"): ("admin", "change", 0),
    ("POST", "/webhooks/{webhook_id}/resume"): ("admin", "change", 0),
    ("POST", "/webhooks/{webhook_id}/remove"): ("admin", "change", 0),
    ("POST", "/webhooks/{webhook_id}/test"): ("admin", "change", 0),
    ("POST", "/webhooks/deliveries/{delivery_id}/again"): ("admin", "change", 0),
    ("GET", "/work"): ("annotator", "browse", 0),
    ("GET", "/work/waiting"): ("annotator", "browse", 0),
    ("POST", "/work/tasks/{task_id}/take"): ("annotator", "change", 0),
    ("POST", "/browse/review"): ("reviewer", "change", CHOSEN),
    ("POST", "/browse/annotate"): ("reviewer", "change", CHOSEN),
    ("POST", "/browse/reject"): ("reviewer", "change", CHOSEN),
}
"""Role, what is counted, largest body."""

ALL_DATASETS = {("GET", "/overview"), ("GET", "/jobs"), ("GET", "/jobs/{job_id}")}

BESIDES = {
    *(
        "/",
        "/work",
        "/guidelines",
        "/annotate",
        "/review",
        "/browse",
        "/dashboard",
        "/team",
        "/sign-in",
    ),
    *("/static", "/favicon.ico", "/api/openapi.json", "/metrics"),
}
"""What is there beside the interface: pages that say nothing, and metrics, which have a guard."""

PEOPLE = {
    "annotator": ("annotator", None),
    "annotator of some datasets": ("annotator", ["d"]),
    "reviewer": ("reviewer", None),
    "reviewer of some datasets": ("reviewer", ["d"]),
    "admin": ("admin", None),
}
LADDER = ("annotator", "reviewer", "admin")


def routes() -> dict[KEY, GuardedRoute]:
    """The routes of the app."""
    found: dict[KEY, GuardedRoute] = {}
    for prefix, router in ROUTERS.items():
        for route in router.routes:
            assert isinstance(route, GuardedRoute), f"{route} has no rule"
            (method,) = sorted(route.methods or ())
            found[method, f"{prefix}{route.path}".removeprefix("/api")] = route
    return found


@pytest.fixture(scope="module")
def people(site: Site, url: str) -> Iterator[dict[str, Client]]:
    """One signed-in client per role."""
    catalog = site.workspace.catalog
    with ExitStack() as stack:
        found = {}
        for who, (role, datasets) in PEOPLE.items():
            found[who] = stack.enter_context(site.client(url, who, role))
            person = catalog.annotators.find(who)
            assert person is not None
            ids = None if datasets is None else [catalog.datasets.get(n).id for n in datasets]
            catalog.annotators.set_datasets(person.id, ids)
        yield found


def answer_to(url: str, key: KEY, who: Client | None) -> httpx.Response:
    """The status of an empty request of a client, which signs in anew to sign out."""
    method, path = key
    for name in ("task_id", "image_id", "person_id", "token_id", "webhook_id", "delivery_id"):
        path = path.replace(f"{{{name}}}", str(2**30))
    path = f"{url}/api{path}"
    headers = {"X-CSRF-Token": who._csrf} if who else {}
    cookies = {COOKIE: str(who.session)} if who else {}
    body: dict[str, str] | None = None if method == "GET" else {}
    with httpx.stream(method, path, json=body, headers=headers, cookies=cookies) as answer:
        if "event-stream" not in answer.headers["content-type"]:
            answer.read()
        return answer


def test_the_app_has_the_routes_that_are_meant_and_no_other(site: Site) -> None:
    found = routes()
    rules = {key: route.rule for key, route in found.items()}
    told = {key: (rule.role, rule.rate.name, rule.max_body) for key, rule in rules.items()}
    assert told == RULES
    assert {key for key, rule in rules.items() if rule.all_datasets} == ALL_DATASETS
    app = make_app(site.workspace, "127.0.0.1", [])
    served = {
        (method.upper(), path.removeprefix("/api"))
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    assert served == set(RULES)
    paths = {path for route in app.routes if (path := getattr(route, "path", None)) is not None}
    flat = {f"/api{path}" for _, path in RULES}  # older versions of FastAPI list them here
    assert paths - flat == BESIDES


@pytest.mark.parametrize("who", [None, *PEOPLE])
def test_every_route_lets_in_whom_it_is_for(
    url: str, people: dict[str, Client], who: str | None
) -> None:
    for key, (role, _, _) in RULES.items():
        if key == ("POST", "/sign-out") and who is not None:
            continue  # it would: the other routes follow
        answer = answer_to(url, key, people[who] if who else None)
        if role is None:
            expected = 422  # without a token
        elif who is None:
            expected = 401
        else:
            mine, datasets = PEOPLE[who]
            is_low = LADDER.index(mine) < LADDER.index(role)
            is_partial = key in ALL_DATASETS and datasets is not None
            expected = 403 if is_low or is_partial else 0
        if expected:
            assert answer.status_code == expected, (key, answer.status_code)
        else:  # admitted: the object is missing or the request invalid, but it was processed
            assert answer.status_code in (200, 404, 422), (key, answer.status_code, answer.text)
        assert b"secret" not in getattr(answer, "_content", b"") or who in ("reviewer", "admin")


@pytest.mark.parametrize("key", [key for key, (_, _, size) in RULES.items() if size])
def test_nobody_gets_a_body_read_before_they_are_let_in(
    url: str, people: dict[str, Client], key: KEY
) -> None:
    method, path = key
    for name, value in (("task_id", "1"), ("person_id", "1"), ("name", "retrain")):
        path = path.replace(f"{{{name}}}", value)
    role, _, size = RULES[key]
    head = f"{method} /api{path} HTTP/1.1\nHost: localhost\nContent-Type: application/json\n"
    unsent = f"{head}Content-Length: 1000\n"
    too_large = f"{head}Content-Length: {size + 1}\n"
    if role is None:
        assert raw(url, too_large)[0] == 413
        return
    assert raw(url, unsent)[0] == 401
    assert raw(url, too_large)[0] == 401
    admin = people["admin"]
    cookie = f"Cookie: {COOKIE}={admin.session}\n"
    assert raw(url, unsent + cookie)[0] == 403, "without the CSRF token"
    signed = f"{cookie}X-CSRF-Token: {admin._csrf}\n"
    assert raw(url, too_large + signed)[0] == 413
    with pytest.raises(TimeoutError):  # it waits for the body
        raw(url, unsent + signed, seconds=0.1)
    assert raw(url, f"{unsent}{signed}Sec-Fetch-Site: cross-site\n")[0] == 403


@pytest.mark.parametrize("path", ["/sign-in", "/tasks/next"])
def test_a_body_that_hides_its_size_is_cut_off(
    url: str, people: dict[str, Client], path: str
) -> None:
    admin = people["admin"]
    head = (
        f"POST /api{path} HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n"
        f"Cookie: {COOKIE}={admin.session}\nX-CSRF-Token: {admin._csrf}\n"
    )
    assert raw(url, head, b"%x\r\n%s\r\n" % (WORDS + 1, b"[" * (WORDS + 1)))[0] == 413
