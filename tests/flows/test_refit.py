"""A suggester is learned again by itself once enough labels have come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.deploy.prefect_flows import suggest_labels_of_dataset
from flows.prefect_api import events
from flows.semantics.refit import LabelsGiven, labels_since
from flows.workspace.workspace import Workspace
from storage.catalog import LabelSource, NewLabel
from tests.flows.conftest import make_workspace
from tests.flows.test_suggesting import ingest, run
from tests.labelled_folders import write_pictures

pytestmark = pytest.mark.usefixtures("prefect_server")

TOML = "shard_images = 50\n[production]\nsuggest_after_labels = 10\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "ws", TOML)


def label_some(workspace: Workspace, count: int) -> None:
    """Give people's labels to masks without one."""
    dataset = workspace.catalog.datasets.get("shapes")
    [first, *_] = workspace.catalog.categories.current(dataset.id).categories.names
    masks = list(workspace.masks.masks(dataset="shapes"))[:count]
    labels = [
        NewLabel(
            mask_id=mask.mask_id,
            image_id=mask.image_id,
            category_id=first,
            source=LabelSource.ANNOTATOR,
        )
        for mask in masks
    ]
    workspace.catalog.labels.add_many(dataset.id, labels)


def advanced(workspace: Workspace) -> dict[str, Any]:
    [row] = run(workspace, "advance", "--dataset", "shapes")["datasets"]
    found: dict[str, Any] = row["suggested"]
    return found


def test_advance_learns_once_enough_labels_came_and_not_again_before_as_many_more(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(events, "emit", lambda w, event, payload: sent.append((event, payload)))
    ingest(workspace, write_pictures(tmp_path / "in", range(8)))
    dataset = workspace.catalog.datasets.get("shapes")
    count, _ = labels_since(workspace, dataset)
    assert count >= 10
    first = advanced(workspace)
    assert first["reason"] == "the first suggester"
    assert labels_since(workspace, dataset)[0] == 0
    assert advanced(workspace) == {"suggester": None, "reason": "too few new labels"}

    given = LabelsGiven(workspace)  # as the page looks while people label
    label_some(workspace, 9)
    given.look(dataset.id)
    assert sent == []
    label_some(workspace, 10)
    for _ in range(2):
        given.look(dataset.id)
    assert sent == [("dataengine.labels.given", {"dataset": "shapes", "labels": 10})]

    root = str(workspace.settings.root)
    second = suggest_labels_of_dataset(root, "shapes", only_if_due=True)
    assert second["suggester"] != first["suggester"]
    assert (
        suggest_labels_of_dataset(root, "shapes", only_if_due=True)["reason"]
        == "too few new labels"
    )


def test_labels_that_teach_nothing_are_tried_once_and_datasets_without_categories_never(
    workspace: Workspace, tmp_path: Path
) -> None:
    ingest(workspace, write_pictures(tmp_path / "in", range(4), named=False))
    dataset = workspace.catalog.datasets.get("shapes")
    assert labels_since(workspace, dataset) == (0, 0)
    assert advanced(workspace)["reason"] == "too few new labels"
    (tmp_path / "one.yaml").write_text("- thing\n")
    run(workspace, "labels", "set", str(tmp_path / "one.yaml"), "--dataset", "shapes")
    label_some(workspace, 10)
    assert "label more" in advanced(workspace)["reason"]  # one category
    assert advanced(workspace)["reason"] == "too few new labels"
