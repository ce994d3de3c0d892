"""The loop's plan: the button and the command mean the same; an unfinished loop keeps its own."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from typing import Any

import pytest
from typer.testing import CliRunner

from engine.annotation.errors import RefusedError
from flows.cli.main import app
from flows.loop import data_engine
from flows.loop.data_engine import LoopPlan
from flows.page.actions import WorkspaceActions
from flows.prefect_api import temporary_server
from flows.workspace import progress
from storage.catalog import LoopConflictError, PlannedRound
from tests.annotation.site import Site, make_site

PLANS = {
    "people": LoopPlan(
        assisted_manual=1, fully_automatic=0, images_per_round=3, annotator="people"
    ),
    "simulated": LoopPlan(assisted_manual=0, semi_automatic=2, images_per_round=7),
    "chosen": LoopPlan(assisted_manual=1, choice="diversity"),
    "automatic": LoopPlan(assisted_manual=0, semi_automatic=0, fully_automatic=2),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Datasets with an unfinished loop, and `d` without."""
    found = make_site(tmp_path_factory.mktemp("plans") / "ws", images=1)
    catalog = found.workspace.catalog
    for name, plan in PLANS.items():
        catalog.loops.start_or_resume(catalog.datasets.get_or_create(name).id, plan.rounds())
    return found


@pytest.fixture
def started(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[list[PlannedRound]]:
    """The plans that `dataengine run` would carry out."""
    plans: list[list[PlannedRound]] = []

    def run(root: str, dataset: str, plan: list[PlannedRound], new: bool) -> list[Any]:
        plans.append(plan)
        return []

    monkeypatch.setattr(data_engine, "data_engine", run)
    monkeypatch.setattr(temporary_server, "server", lambda root: nullcontext())
    monkeypatch.setenv("DATAENGINE_WORKSPACE", str(site.workspace.settings.root))
    monkeypatch.setattr(progress, "use", lambda reporter: None)
    return plans


@pytest.mark.parametrize("dataset", [*PLANS, "d"])
def test_what_the_button_starts_is_the_plan_that_it_shows(
    site: Site, started: list[list[PlannedRound]], dataset: str
) -> None:
    actions = WorkspaceActions(site.workspace)
    (fields,) = [row.fields for row in actions.all(dataset) if row.name == "round"]
    plan = actions.plan("round", fields)
    assert plan == actions.plan("round", {"dataset": dataset})
    result = CliRunner().invoke(app, shlex.split(plan.command)[1:])
    assert result.exit_code == 0, result.output
    known = PLANS.get(dataset)
    people = LoopPlan(images_per_round=20, annotator="people")
    assert started == [(known or people).rounds()]
    assert plan.text.startswith("Continue the loop" if known else "Go through")


@pytest.mark.parametrize("dataset", PLANS)
def test_a_loop_under_way_goes_on_without_its_plan_being_given_again(
    started: list[list[PlannedRound]], dataset: str
) -> None:
    for more in ([], ["--annotator", "people" if dataset == "people" else "simulated"]):
        result = CliRunner().invoke(app, ["run", "--dataset", dataset, *more])
        assert result.exit_code == 0, result.output
    assert started == [PLANS[dataset].rounds()] * 2


def test_without_a_loop_the_command_has_its_defaults(
    started: list[list[PlannedRound]],
) -> None:
    assert CliRunner().invoke(app, ["run", "--dataset", "d", "--rounds", "1,0"]).exit_code == 0
    assert started == [LoopPlan(assisted_manual=1, semi_automatic=0).rounds()]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rounds": "abc"}, "two or three numbers"),
        ({"rounds": "2"}, "two or three numbers"),
        ({"rounds": "²,1"}, "two or three numbers"),
        ({"rounds": "2,1.5"}, "two or three numbers"),
        ({"rounds": "0,0,0"}, "at least one round"),
        ({"rounds": "1,1,9999999999"}, "at most 1000 rounds"),
        ({"annotator": "bob"}, "people or simulated|simulated or people"),
        ({"choice": "best"}, "random, disagreement, diversity or mix"),
    ],
)
def test_a_plan_that_cannot_be_understood_is_refused_at_both_doors(
    site: Site,
    started: list[list[PlannedRound]],
    values: dict[str, str],
    message: str,
) -> None:
    with pytest.raises(RefusedError, match=message):
        WorkspaceActions(site.workspace).plan("round", {"dataset": "d", **values})
    options = [part for name, value in values.items() for part in (f"--{name}", value)]
    result = CliRunner().invoke(app, ["run", "--dataset", "d", *options])
    assert result.exit_code == 2
    assert not started


@pytest.mark.parametrize(
    "values",
    [{"rounds": "2,2"}, {"images_per_round": 4}, {"annotator": "simulated"}, {"choice": "mix"}],
)
def test_a_plan_that_contradicts_the_loop_under_way_is_refused_in_words(
    site: Site, started: list[list[PlannedRound]], values: dict[str, Any]
) -> None:
    words = "1,1,0 rounds of stages 1, 2, 3 with at most 3 images per round, annotated by people"
    with pytest.raises(RefusedError, match=words) as refused:
        WorkspaceActions(site.workspace).plan("round", {"dataset": "people", **values})
    assert "{" not in refused.value.message
    options = [
        part
        for name, value in values.items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    result = CliRunner().invoke(app, ["run", "--dataset", "people", *options])
    assert isinstance(result.exception, LoopConflictError)
    assert not started
