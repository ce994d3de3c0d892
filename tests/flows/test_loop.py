"""The whole loop on a small dataset: ingest, three stages with retraining, review, release,
exports."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from flows.data.ingest import ingest
from flows.loop.data_engine import LoopPlan, data_engine
from flows.operations.status import status_of
from flows.release.export import export_release
from flows.release.release import FILES, release
from flows.review.review import review
from flows.stages.fully_automatic import generate
from flows.workspace.workspace import Workspace
from storage.catalog import LoopConflictError, ModelState, RunKind, Split, VerdictKind
from storage.catalog.runs import Runs
from storage.formats.sa1b import read_sa1b
from tests.flows.conftest import make_workspace, write_scenes

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]

PLAN = LoopPlan(assisted_manual=1, semi_automatic=1, fully_automatic=1, images_per_round=3)


@pytest.fixture(scope="module")
def told() -> list[float]:
    """The progress that the retrains of `finished` reported."""
    return []


@pytest.fixture(scope="module")
def finished(
    prefect_server: None, tmp_path_factory: pytest.TempPathFactory, told: list[float]
) -> Workspace:
    """A workspace with a finished loop; the tests that share it only add to it."""
    folder = tmp_path_factory.mktemp("finished")
    scenes = write_scenes(folder / "scenes", 12)
    workspace = make_workspace(folder / "ws")
    root = str(workspace.settings.root)
    ingest(root, "d", str(scenes), str(scenes / "instances.json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.training.retrain.REPORT_SECONDS", -1.0)
        patch.setattr(Runs, "set_progress", lambda runs, run_id, progress: told.append(progress))
        data_engine(root, "d", PLAN.rounds())
    return workspace


def test_a_retrain_tells_how_far_it_has_come(finished: Workspace, told: list[float]) -> None:
    assert told == [0.45, 0.9, 0.45, 0.9]  # two steps, then the comparison


def test_the_loop_ends_in_a_release_that_other_tools_read(
    finished: Workspace, tmp_path: Path
) -> None:
    root = str(finished.settings.root)
    status = status_of(finished)
    assert [row["stage"] for row in status["rounds"]] == [
        "assisted_manual",
        "semi_automatic",
        "fully_automatic",
    ]
    assert all(row["state"] == "done" and row["images"] == 3 for row in status["rounds"])
    # the table has the masks that the rounds report
    assert status["masks"] == {row["stage"]: row["masks"] for row in status["rounds"]}
    assert all(status["masks"].values())
    assert status["tasks"]["submitted"] == 6
    assert status["tasks"]["open"] == status["tasks"]["leased"] == 0

    card = release(root, "d", "d-1")
    assert release(root, "d", "d-1") == card
    begun = finished.catalog.releases.get("d-1")
    counts = export_release(finished, begun, tmp_path / "coco", "coco")
    coco = COCO(str(tmp_path / "coco" / "instances.json"))
    assert len(coco.anns) == counts["masks"] == card["masks"]
    export_release(finished, begun, tmp_path / "sa1b", "sa1b")
    records = [read_sa1b(path) for path in sorted((tmp_path / "sa1b").glob("sa_*.json"))]
    assert sum(len(record.masks) for record in records) == counts["masks"]

    for name in FILES:
        finished.objects.fetch(f"{begun.key}/{name}", tmp_path / name)
    assert len(COCO(str(tmp_path / "instances.json")).anns) == counts["masks"]
    with tarfile.open(tmp_path / "sa1b.tar") as tar:
        assert tar.getnames() == sorted(path.name for path in (tmp_path / "sa1b").glob("sa_*"))
    report = (tmp_path / "report.html").read_text()
    assert "d-1" in report
    assert report.count("<img") >= 6


def test_rejected_masks_are_not_released(finished: Workspace, tmp_path: Path) -> None:
    root = str(finished.settings.root)
    figures = review(root, "d", 3)
    assert figures["judged"] == sum(finished.catalog.verdicts.counts(1).values()) > 0
    rejected = finished.catalog.verdicts.rejected_mask_ids(1)
    release(root, "d", "d-2")
    begun = finished.catalog.releases.get("d-2")
    export_release(finished, begun, tmp_path / "out", "coco")
    content = json.loads((tmp_path / "out" / "instances.json").read_text())
    released = {row["mask_id"] for row in content["annotations"]}
    assert not released & rejected
    assert finished.catalog.verdicts.counts(1).get(VerdictKind.REJECT, 0) == len(rejected)


def test_a_loop_of_simulated_annotators_leaves_held_out_images_alone(finished: Workspace) -> None:
    held_out = {image.id for image in finished.catalog.images.page(1, split=Split.HELD_OUT)}
    touched = {int(str(key[0])) for key in finished.masks.counts(("image_id",))}
    assert held_out
    assert not held_out & touched


def test_a_retrained_version_says_on_its_card_whether_it_is_better(finished: Workspace) -> None:
    retrained = [model for model in finished.catalog.models.all() if model.parent]
    assert len(retrained) == 2
    for model in retrained:
        held_out = model.card["scores"]["held_out"]
        assert held_out["masks"] > 0
        low, high = held_out["miou_1_click_ci"]
        assert low <= held_out["miou_1_click"] <= high
        said = re.match(rf"Against {model.parent}: (not )?better\b.* gain [+-]", model.card["note"])
        assert said
        assert (said[1] is None) == (model.state != ModelState.CANDIDATE)
    rounds = finished.catalog.rounds.for_loop(1)[:2]
    trainings = finished.catalog.runs.all(kind=RunKind.RETRAIN)
    assert {row.train_run_id for row in rounds} == {run.id for run in trainings}
    results = [row.metrics["retrain"] for row in rounds]
    notes = {model.version: model.card["note"] for model in retrained}
    assert all(result["reason"] in notes[result["version"]] for result in results)


def test_each_round_of_peoples_stages_takes_fresh_images(finished: Workspace) -> None:
    first, second, _ = (
        set(finished.catalog.rounds.image_ids(row.id))
        for row in finished.catalog.rounds.for_loop(1)
    )
    assert not first & second


def test_a_finished_loop_is_not_run_again(finished: Workspace) -> None:
    version = finished.masks.version()
    data_engine(str(finished.settings.root), "d", PLAN.rounds())
    assert finished.masks.version() == version


def test_another_plan_is_refused_while_a_loop_runs(workspace: Workspace, scenes: Path) -> None:
    root = str(workspace.settings.root)
    ingest(root, "d", str(scenes), str(scenes / "instances.json"))
    workspace.catalog.loops.start_or_resume(1, PLAN.rounds())
    other = LoopPlan(assisted_manual=2, images_per_round=3)
    with pytest.raises(LoopConflictError):
        data_engine(root, "d", other.rounds())


def test_generate_makes_masks_of_every_image_once(workspace: Workspace, scenes: Path) -> None:
    root = str(workspace.settings.root)
    ingest(root, "d", str(scenes), held_out=0.0)
    ids = [image.id for image in workspace.catalog.images.page(1)][:5]
    first = generate(root, "run-1", "d", ids)
    again = generate(root, "run-1", "d", ids)
    assert first["images"] == 5
    assert again["masks"] == first["masks"] == sum(workspace.masks.counts().values())


def test_an_image_whose_bytes_have_gone_bad_is_quarantined_and_stops_nothing(
    workspace: Workspace, scenes: Path
) -> None:
    root = str(workspace.settings.root)
    ingest(root, "d", str(scenes), held_out=0.0)
    images = workspace.catalog.images.page(1)[:3]
    (workspace.settings.root / "store" / images[1].key).write_bytes(b"no image")
    generate(root, "run-1", "d", [image.id for image in images])
    assert [row.image_id for row in workspace.catalog.quarantine.all(1)] == [images[1].id]
    assert (images[1].id,) not in workspace.masks.counts(("image_id",))
