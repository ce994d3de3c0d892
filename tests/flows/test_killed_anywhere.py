"""Every flow, killed after any of its writes, finishes when it is repeated."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.orm import Session

from engine.automatic import MaskGenerator
from engine.core.records import Source, Stage
from engine.sam import load_segmenter
from engine.sam.checkpoint import load_checkpoint, shipped_path
from engine.simulation.annotator import AnnotatedMask, SimulatedAnnotator
from engine.simulation.scenes import generate_scene
from engine.training.trainer import Trainer
from flows.data.import_model import import_model
from flows.data.ingest import ingest_folder
from flows.release import build, release
from flows.release.checking import verified
from flows.review.review import finish_if_submitted
from flows.stages import fully_automatic
from flows.stages.assisted_manual import run_assisted_manual
from flows.stages.fully_automatic import next_shard, start_generate
from flows.stages.rounds import open_round
from flows.stages.semi_automatic import run_semi_automatic
from flows.stages.shards import plan_shards
from flows.training import calibrate, retrain, scores
from flows.workspace.workspace import Workspace, open_workspace
from storage.catalog import (
    AlreadyExistsError,
    PlannedRound,
    ReleaseState,
    Round,
    RunKind,
    RunState,
    TaskKind,
    TaskResult,
    TaskVerdict,
    VerdictKind,
)
from storage.local_store import LocalStore
from storage.masks import write_parquet
from tests.annotation.site import Site, make_site
from tests.flows.conftest import write_scenes


class Killed(BaseException):
    """Stands for SIGKILL: nothing is written afterwards, even if somebody catches it."""


class Killer:
    """Counts writes to store and catalog, and ends the process after a number of them: killed, it
    writes no more; stopped (Ctrl-C), it writes that it was stopped."""

    def __init__(self, patch: pytest.MonkeyPatch, *, is_stopped: bool) -> None:
        self.is_stopped = is_stopped
        self.left: float = float("inf")
        for owner, names in ((LocalStore, ("put", "put_file", "delete")), (Session, ("commit",))):
            for name in names:
                patch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **more: Any) -> Any:
            if current_thread() is not main_thread():  # a renewed lease
                return write(*given, **more)
            if self.left <= 0:
                raise Killed
            written = write(*given, **more)
            self.left -= 1
            if self.left <= 0:
                self.left = float("inf") if self.is_stopped else 0
                raise Killed
            return written

        return counted


def _release(workspace: Workspace) -> None:
    release.release.fn(str(workspace.settings.root), "d", "d-1")


FROZEN = ("images.parquet", "masks-00000.parquet", "stats.json", "README.md", "manifest.json")


def _released(workspace: Workspace) -> None:
    found = workspace.catalog.releases.get("d-1")
    assert found.state == ReleaseState.DONE
    assert found.card["masks"] == 4
    assert {info.key for info in workspace.objects.list(f"{found.key}/")} == {
        f"{found.key}/{name}" for name in (*release.FILES, *FROZEN)
    }
    assert verified(workspace, "d-1")["ok"]


def _retrain(workspace: Workspace) -> None:
    dataset = workspace.catalog.datasets.get("d")
    retrain.run_retrain(workspace, dataset, "d-2", None)


def _retrained(workspace: Workspace) -> None:
    model = workspace.catalog.models.get("d-2")
    assert "Against lite" in model.card["note"]
    assert workspace.checkpoint("d-2").stat().st_size == workspace.objects.size(model.key)
    (run,) = workspace.catalog.runs.all(kind=RunKind.RETRAIN)
    assert run.state == RunState.FINISHED


def _import(workspace: Workspace) -> None:
    try:
        import_model(workspace, shipped_path(), "mine")
    except AlreadyExistsError:  # only the answer was missing
        assert workspace.objects.exists(workspace.catalog.models.get("mine").key)


def _imported(workspace: Workspace) -> None:
    assert load_segmenter(workspace.checkpoint("mine")).version == "mine"


def _generate(workspace: Workspace) -> None:
    start_generate(workspace, "run", "d", limit=None, only_new=False)
    plan_shards(workspace, "run", workspace.catalog.images.ids(1))
    while workspace.catalog.shards.remaining("run"):
        if next_shard(workspace, "run") is None:
            time.sleep(0.05)


def _generated(workspace: Workspace) -> None:
    assert workspace.catalog.shards.totals("run").masks == 2
    assert sum(workspace.masks.counts(run_id="run").values()) == 2


def _judge(workspace: Workspace) -> None:
    finish_if_submitted(workspace, "review")


def _judged(workspace: Workspace) -> None:
    assert workspace.catalog.runs.get("review").metrics["judged"] == 4
    assert sum(workspace.catalog.verdicts.counts(1).values()) == 4


def _ingest(workspace: Workspace) -> None:
    folder = workspace.settings.root / "scenes"
    ingest_folder(workspace, "new", folder, folder / "instances.json", held_out=0)


def _ingested(workspace: Workspace) -> None:
    dataset = workspace.catalog.datasets.get("new")
    ids = list(workspace.catalog.images.ids(dataset.id))
    objects = len({workspace.catalog.images.get(image).key for image in ids})
    assert (len(ids), objects) == (2, 2)
    known = json.loads((workspace.settings.root / "scenes" / "instances.json").read_text())
    assert sum(map(len, workspace.truths_of(ids).values())) == len(known["annotations"])
    (broken,) = workspace.catalog.quarantine.all(dataset.id)
    assert broken.path == "broken.png"


def _round(workspace: Workspace, stage: Stage) -> Round:
    """The only round of a loop over both images, opened."""
    loop = workspace.catalog.loops.start_or_resume(1, [PlannedRound(stage=stage, images=2)])
    (row,) = workspace.catalog.rounds.for_loop(loop.id)
    return open_round(workspace, row)


def _assist(workspace: Workspace) -> None:
    run_assisted_manual(workspace, _round(workspace, Stage.ASSISTED_MANUAL))


def _complete(workspace: Workspace) -> None:
    run_semi_automatic(workspace, _round(workspace, Stage.SEMI_AUTOMATIC))


def _annotated(workspace: Workspace) -> None:
    (run,) = (run for run in workspace.catalog.runs.all(unfinished=True) if run.round_id)
    assert workspace.queue.pending(run.id) == 0
    made = workspace.masks.counts(("image_id",), run_id=run.id)
    assert sorted(made.values()) == [1, 1]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with masks of people and automatic masks, and a submitted review."""
    site = make_site(tmp_path_factory.mktemp("killed") / "ws", images=2, size=(64, 96))
    workspace = site.workspace
    path = workspace.settings.root / "dataengine.toml"
    path.write_text(f"lease_seconds = 0.2\n{path.read_text()}")
    site.start_run("people", RunKind.ASSISTED_MANUAL)
    made = site.mask_rows(0, "people", Source.ANNOTATOR, Stage.ASSISTED_MANUAL, limit=2)
    made += site.mask_rows(1, "people", Source.ANNOTATOR, Stage.ASSISTED_MANUAL, limit=2)
    workspace.masks.commit(made, run_id="people", shard=0)
    site.start_run("review", RunKind.REVIEW)
    site.add_tasks(TaskKind.REVIEW, "review")
    rita = workspace.catalog.annotators.get_or_create("rita", role="reviewer")
    _hand_in(site, rita.id, [mask.mask_id for mask in made])
    workspace.truths.commit(made, run_id="people", shard=0)
    (write_scenes(workspace.settings.root / "scenes", 2) / "broken.png").write_bytes(b"not a PNG")
    workspace.catalog.close()
    return workspace.settings.root


def _hand_in(site: Site, person: int, ids: list[str]) -> None:
    queue, objects = site.workspace.queue, site.workspace.objects
    while task := queue.lease(person, kinds=[TaskKind.REVIEW]):
        objects.put(f"annotations/review/{task.id}.parquet", write_parquet([]))
        mine = [name for name in ids if f"/{task.image_id}/" in name]
        verdicts = tuple(
            TaskVerdict(mask_id=name, verdict=VerdictKind.ACCEPT, seconds=1.0) for name in mine
        )
        key = f"annotations/review/{task.id}.parquet"
        queue.submit(task.id, str(task.lease_id), key, TaskResult(verdicts=verdicts))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces slow parts; data that differs between two attempts still differs."""

    def report(workspace: Workspace, dataset: str, summary: Any, path: Path) -> None:
        path.write_text(uuid4().hex)

    def train(self: Trainer, *, log: Path, checkpoint: Path, **more: Any) -> None:
        log.write_text(f"step,seconds\n1,{time.perf_counter_ns()}\n")
        checkpoint.write_bytes(b"")

    def made_up(workspace: Workspace, version: str, chosen: Any) -> dict[str, Any]:
        nothing = {"scores": {"images": 0, "masks": 0, "version": version, "by": uuid4().hex}}
        return {**nothing, "by_image": {"names": ["x"], "totals": [], "counts": []}}

    def masks(workspace: Workspace, job: Any, shard: Any, advance: Any) -> list[Any]:
        rows = Site(workspace, 1, shard.image_ids, scenes).mask_rows
        return [
            row
            for number in range(len(shard.image_ids))
            for row in rows(number, "run", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC, limit=1)
        ]

    def save(sam: Any, card: Any, path: Path) -> None:
        path.write_bytes(uuid4().bytes)

    def annotate(self: SimulatedAnnotator, viewer: Any, truths: Any) -> list[AnnotatedMask]:
        return [AnnotatedMask(truths[0], 1.0, 1, 0, 1.0, (1.0, 1.0), 0.9)]

    sam, card = load_checkpoint(shipped_path(), "cpu")
    scenes = [generate_scene(31_000_000 + number, (64, 96)) for number in range(2)]
    monkeypatch.setattr(build, "write_report", report)
    monkeypatch.setattr(Trainer, "run", train)
    monkeypatch.setattr(SimulatedAnnotator, "annotate", annotate)
    monkeypatch.setattr(MaskGenerator, "generate", lambda self, pixels: [])
    segmenter = load_segmenter("lite")
    monkeypatch.setattr(Workspace, "segmenter", lambda self, version=None: segmenter)
    monkeypatch.setattr(scores, "_score_held_out", made_up)
    monkeypatch.setattr(Workspace, "load_model", lambda self, version: (sam, card))
    monkeypatch.setattr(retrain, "save_checkpoint", save)
    monkeypatch.setattr(calibrate, "calibration_images", lambda workspace, datasets: [None])
    found = (card.thresholds, {"recall_50": 0.5}, "Thresholds are calibrated.")
    monkeypatch.setattr(calibrate, "calibrated", lambda workspace, segmenter, images: found)
    monkeypatch.setattr(fully_automatic, "_shard_masks", masks)


FLOWS = {
    "ingest": (_ingest, _ingested, 5),
    "assisted manual": (_assist, _annotated, 5),
    "semi-automatic": (_complete, _annotated, 7),
    "release": (_release, _released, 5),
    "retrain": (_retrain, _retrained, 9),
    "add_model": (_import, _imported, 2),
    "generate": (_generate, _generated, 5),
    "review": (_judge, _judged, 3),
}
"""How a flow is given, what must be true in the end, and the fewest writes it can have."""


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("name", "is_stopped"), [*((name, False) for name in FLOWS), ("retrain", True)]
)
def test_ended_after_any_write_a_flow_ends_well_when_given_again(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, is_stopped: bool
) -> None:
    run, check, least = FLOWS[name]
    killer = Killer(monkeypatch, is_stopped=is_stopped)
    for writes in count(1):
        workspace = _copied(template, tmp_path / str(writes))
        killer.left = writes
        try:
            run(workspace)
            is_through = True
        except Killed:
            is_through = False
        killer.left = float("inf")
        run(workspace)
        check(workspace)
        workspace.catalog.close()
        if is_through:
            break
    assert writes > least, "not all writes are counted"


def _copied(template: Path, root: Path) -> Workspace:
    shutil.copytree(template, root)
    return open_workspace(str(root))
