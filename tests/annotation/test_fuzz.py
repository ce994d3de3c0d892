"""Random requests of all roles cause no crash and reveal nothing that the role may not see.

Requests are drawn from the OpenAPI schema (schemathesis), half of them with the ids of a real task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.annotation.access import COOKIE, RateLimits
from engine.annotation.client import Client
from engine.annotation.schemas import TaskView
from storage.catalog import RunKind, TaskKind, TaskState, new_id
from tests.annotation.site import Site, make_site, served

pytestmark = pytest.mark.slow

EXAMPLES = 25
OPEN = {("POST", "/api/sign-in")}
"""What may be asked without being signed in."""

ENDLESS = "/api/events"
FOR_ADMINS = ("/api/actions",)
FOR_REVIEWERS = (
    *("/api/overview", "/api/jobs", "/api/tasks/{task_id}/judge"),
    *(
        f"/api/browse/{what}"
        for what in ("datasets", "masks", "figures", "outlines", "re", "annotate")
    ),
    *FOR_ADMINS,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("fuzz") / "ws")


@pytest.fixture(scope="module")
def url(site: Site) -> Iterator[str]:
    patch = pytest.MonkeyPatch()
    patch.setattr(RateLimits, "spend", lambda self, name, rate: None)
    patch.setattr("flows.page.actions.start_command", _start_nothing)
    site.annotate()
    with served(site.workspace) as address:
        yield address
    patch.undo()


def _start_nothing(folder: Path, job: Any, root: Path) -> None:
    (folder / job.id).mkdir(parents=True)


def operations(url: str) -> list[Any]:
    schema = schemathesis.openapi.from_url(f"{url}/api/openapi.json")
    results: list[Any] = list(schema.get_all_operations())
    found = [result.ok() for result in results]
    return [operation for operation in found if operation.path != ENDLESS]


Drawn = list[tuple[Any, list[tuple[Any, bool]]]]
"""For each operation its requests, and whether they get a real task's ids."""


@pytest.fixture(scope="module")
def drawn(url: str) -> Drawn:
    """The same requests for all roles: to draw them takes most of the time."""
    return [(operation, _draw(operation)) for operation in operations(url)]


def _draw(operation: Any) -> list[tuple[Any, bool]]:
    got: list[tuple[Any, bool]] = []

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(), real=st.booleans())
    def draw(case: Any, real: bool) -> None:
        got.append((case, real))

    draw()
    return got


class Visit:
    """A client that sends the requests, and the answers it received."""

    def __init__(
        self, drawn: Drawn, who: Client | None, held: Callable[[], TaskView] | None = None
    ) -> None:
        self._drawn, self._held = drawn, held
        self._headers = {"X-CSRF-Token": who.me.csrf} if who else {}
        self._cookies = {COOKIE: str(who.session)} if who else {}

    def answers(self, leave_out: str = "") -> Iterator[tuple[Any, Any]]:
        """Each operation with each of the server's answers."""
        for operation, cases in self._drawn:
            if operation.path != leave_out:
                yield from ((operation, answer) for answer in self._ask(cases))

    def _ask(self, cases: list[tuple[Any, bool]]) -> list[Any]:
        task = self._held() if self._held else None  # an operation may return the task
        return [self._send(case, task if real else None) for case, real in cases]

    def _send(self, case: Any, task: TaskView | None) -> Any:
        drawn = case.path_parameters, case.body
        if task and "task_id" in (case.path_parameters or {}):
            case.path_parameters = {**case.path_parameters, "task_id": task.id}
        if task and isinstance(case.body, dict) and "lease_id" in case.body:
            case.body = {**case.body, "lease_id": task.lease_id}
        answer = case.call(headers=self._headers, cookies=self._cookies)
        case.path_parameters, case.body = drawn  # as drawn, for the next role
        return answer


def test_strangers_are_told_nothing(drawn: Drawn) -> None:
    count = 0
    for operation, answer in Visit(drawn, None).answers():
        count += 1
        key = (operation.method.upper(), operation.path)
        allowed = {401, 422} if key in OPEN else {401}
        assert answer.status_code in allowed, (key, answer.status_code, answer.text[:300])
    assert count > 100


def test_annotators_reach_nothing_of_reviewers_and_break_nothing(
    site: Site, url: str, drawn: Drawn
) -> None:
    with site.client(url, "mallory") as client:

        def held() -> TaskView:
            task = client.next_task([TaskKind.ANNOTATE]).task
            if task is None:  # skipped until none is left
                run_id = new_id()
                site.start_run(run_id, RunKind.ASSISTED_MANUAL)
                site.add_tasks(TaskKind.ANNOTATE, run_id)
                return held()
            return task

        for operation, answer in Visit(drawn, client, held).answers("/api/sign-out"):
            key = (operation.method, operation.path)
            assert answer.status_code < 500, (key, answer.text[:300])
            if operation.path.startswith(FOR_REVIEWERS):
                assert answer.status_code in (401, 403, 404, 422), (key, answer.text[:300])
            if answer.status_code >= 400 and answer.status_code != 405:
                assert set(answer.json()) == {"error", "message"}, (key, answer.text[:300])
    tables = site.workspace.masks.version()
    assert tables is None, "no round was committed, so no mask can be in the table"


def test_admins_cannot_crash_it_either(site: Site, url: str, drawn: Drawn) -> None:
    with site.client(url, "adam", "admin") as client:
        for operation, answer in Visit(drawn, client).answers("/api/sign-out"):
            key = (operation.method, operation.path)
            assert answer.status_code < 500, (key, answer.text[:300])
    with site.client(url, "eve", "admin") as client:
        assert client.overview().datasets[0]["name"] == "d"
    states = site.workspace.queue.counts(run_id="annotate")
    assert sum(states[state] for state in TaskState) == 3
