"""Simulated annotators answer the copies of a round's tasks, each in their own way."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.data.ingest import ingest_folder
from flows.loop.data_engine import LoopPlan
from flows.operations.status import status_of
from flows.stages.assisted_manual import run_assisted_manual
from flows.stages.rounds import open_round
from flows.stages.semi_automatic import run_semi_automatic
from flows.workspace.costs import ledger
from flows.workspace.settings import FILE_NAME, load_settings
from flows.workspace.workspace import Workspace
from storage.catalog import AnnotatorKind, TaskState
from storage.task_copies import TaskCopies


@pytest.fixture
def workspace(workspace: Workspace, scenes: Path) -> Workspace:
    file = workspace.settings.root / FILE_NAME
    quality = "[quality]\nconsensus_share = 0.5\nconsensus_people = 3\nconsensus_agreement = 0.3\n"
    file.write_text(file.read_text() + quality)
    workspace.settings = load_settings(file.parent)
    ingest_folder(workspace, "d", scenes, coco=scenes / "instances.json", held_out=0.0)
    return workspace


def test_each_copy_is_answered_by_another_simulated_annotator(workspace: Workspace) -> None:
    catalog = workspace.catalog
    plan = LoopPlan(assisted_manual=1, semi_automatic=1, fully_automatic=0, images_per_round=4)
    dataset = catalog.datasets.get("d")
    loop = catalog.loops.start_or_resume(dataset.id, plan.rounds())
    copies = TaskCopies(catalog)
    runs = (run_assisted_manual, run_semi_automatic)
    for row, run in zip(catalog.rounds.for_loop(loop.id), runs, strict=True):
        opened = open_round(workspace, row)
        figures = run(workspace, opened)
        assert figures is not None
        assert figures.images == 4
        groups = copies.groups(str(opened.run_id))
        assert len(groups) == 2
        for group in groups:
            assert all(task.state == TaskState.SUBMITTED for task in group)
            people = [catalog.annotators.get(int(task.annotator_id or 0)) for task in group]
            assert [one.name for one in people] == ["simulated", "simulated-2", "simulated-3"]
            assert all(one.kind == AnnotatorKind.SIMULATED for one in people)
            image = group[0].image_id
            merged = list(workspace.masks.masks(image_ids=[image], run_id=str(opened.run_id)))
            assert all("merged-" in mask.mask_id for mask in merged)
        told = status_of(workspace)["consensus"][-1]
        assert (told["stage"], told["images"]) == (str(row.stage), 2)
        assert 0.3 < min(told["f1"], told["iou"]) < 1, "they differ, and are not strangers"
    assert ledger(workspace).as_dict()["total"]["images"] >= 8
