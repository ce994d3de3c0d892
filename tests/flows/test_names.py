"""An invalid name is refused by every interface before anything is stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.annotation.errors import RefusedError
from flows.data.ingest import ingest_folder
from flows.deploy.schedules import add_schedule
from flows.deploy.start import parameters_of
from flows.page.actions import WorkspaceActions
from flows.training.retrain import run_retrain
from flows.workspace.workspace import Workspace
from storage.catalog import BadNameError

BAD = ["", "../x", "a\x07b", "x" * 300]


def _ingest(workspace: Workspace, name: str) -> None:
    ingest_folder(workspace, name, workspace.settings.root.parent)


def _retrain(workspace: Workspace, name: str) -> None:
    run_retrain(workspace, workspace.catalog.datasets.get("d"), name, None)


def _start_release(_: Workspace, name: str) -> None:
    parameters_of("release", {"dataset": "d", "name": name})


def _press_release(workspace: Workspace, name: str) -> None:
    WorkspaceActions(workspace).start("release", {"dataset": "d", "name": name})


def _schedule(workspace: Workspace, name: str) -> None:
    add_schedule(workspace, "generate", None, name=name, parameters={"dataset": "d"})


@pytest.mark.parametrize("name", BAD, ids=["empty", "upwards", "control", "long"])
@pytest.mark.parametrize("door", [_ingest, _retrain, _start_release, _press_release, _schedule])
def test_every_door_refuses_bad_names(
    workspace: Workspace, door: Callable[[Workspace, str], None], name: str
) -> None:
    workspace.catalog.datasets.get_or_create("d")
    stored = [found.key for found in workspace.objects.list()]
    with pytest.raises((BadNameError, RefusedError), match="cannot be"):
        door(workspace, name)
    assert workspace.catalog.runs.all() == []
    assert [row.name for row in workspace.catalog.datasets.all()] == ["d"]
    assert [found.key for found in workspace.objects.list()] == stored
    assert list(Path(workspace.cache).iterdir()) == []
