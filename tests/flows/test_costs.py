"""The cost ledger: costs of runs and of accepted masks."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import pytest

from engine.core.records import Source, Stage
from flows.data.ingest import ingest_folder
from flows.operations.dashboard import WorkspaceReports
from flows.operations.status import status_of
from flows.workspace.costs import RunCost, Spent, cost_rows, ledger, spending, total
from flows.workspace.workspace import Workspace
from storage.catalog import (
    AnnotatorKind,
    CatalogUnavailableError,
    NewVerdict,
    RunKind,
    TaskKind,
    TaskResult,
    VerdictKind,
    utc_now,
)
from tests.annotation.site import Site, make_site

PRICES = {"cpu_hour": 36.0, "gpu_hour": 360.0, "person_hour": 3600.0, "gb_month": 1e9}
"""A cent a second of a processor, ten of a GPU; one a second of a person, one a byte and month."""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = make_site(tmp_path / "ws")
    prices = made.workspace.settings.costs.model_validate(PRICES)
    made.workspace.settings = made.workspace.settings.model_copy(update={"costs": prices})
    return made


def _of(workspace: Workspace, run_id: str) -> RunCost:
    (found,) = [item for item in ledger(workspace).runs if item.run == run_id]
    return found


def _submit(site: Site, run_id: str, name: str, kind: AnnotatorKind, made: int) -> None:
    person = site.workspace.catalog.annotators.get_or_create(name, kind=kind)
    task = site.workspace.queue.lease(person.id, kinds=[TaskKind.ANNOTATE], run_id=run_id)
    assert task is not None
    figures = TaskResult(made=made, seconds=10.0)
    site.workspace.queue.submit(task.id, str(task.lease_id), "key", figures)


def _judge(site: Site, mask_ids: list[str], kind: VerdictKind) -> None:
    catalog = site.workspace.catalog
    rita = catalog.annotators.get_or_create("rita", role="reviewer")
    task = site.workspace.queue.lease(rita.id, kinds=[TaskKind.REVIEW])
    assert task is not None
    catalog.verdicts.add_many(
        [
            NewVerdict(
                mask_id=mask_id, task_id=task.id, verdict=kind, annotator_id=rita.id, seconds=3.0
            )
            for mask_id in mask_ids
        ]
    )


def test_people_cost_and_the_simulated_annotator_does_not(site: Site) -> None:
    site.annotate()
    _submit(site, "annotate", "ada", AnnotatorKind.PERSON, made=4)
    _submit(site, "annotate", "simulated", AnnotatorKind.SIMULATED, made=2)
    site.workspace.catalog.runs.spend("annotate", cpu_seconds=100.0, gpu_seconds=2.0)
    spent = _of(site.workspace, "annotate").spent
    assert (spent.people_seconds, spent.simulated_seconds) == (10.0, 10.0)
    assert (spent.images, spent.masks, spent.accepted_masks) == (2, 6, 6)
    assert not spent.accepted_is_estimate
    assert spent.cost == pytest.approx(10.0 + 1.0 + 0.2)
    assert spent.cost_per_accepted_mask == pytest.approx(11.2 / 6)


def test_automatic_masks_count_by_the_share_that_reviewers_accept(site: Site) -> None:
    site.review()  # 9 masks of run "made", in three tasks
    catalog = site.workspace.catalog
    catalog.shards.plan("made", [site.image_ids])
    shard = catalog.shards.lease("made", "me", 60)
    assert shard is not None
    catalog.shards.commit("made", 0, str(shard.lease_id), masks=9, table_version=1, seconds=50.0)
    assert _of(site.workspace, "made").spent.accepted_masks is None  # not reviewed
    ids = [mask.mask_id for mask in site.workspace.masks.masks(run_id="made")]
    _judge(site, ids[:2], VerdictKind.ACCEPT)
    _judge(site, ids[2:3], VerdictKind.REJECT)
    made = _of(site.workspace, "made")
    assert (made.stage, made.model) == ("fully_automatic", "lite")
    assert (made.spent.judged_masks, made.spent.accepted_masks) == (3, 6)
    assert made.spent.accepted_is_estimate
    assert cost_rows(site.workspace)[-1]["accepted_is_estimate"]
    assert made.spent.cpu_seconds == 50.0  # the shards' time, because the processor time is unknown
    assert _of(site.workspace, "review").spent.people_seconds == 9.0


def test_bytes_cost_by_the_month(site: Site) -> None:
    site.review()
    catalog = site.workspace.catalog
    catalog.shards.plan("made", [site.image_ids])
    shard = catalog.shards.lease("made", "me", 60)
    assert shard is not None
    catalog.shards.commit("made", 0, str(shard.lease_id), masks=9, table_version=1, seconds=0.0)
    now = utc_now() + timedelta(days=30)
    (made,) = [item for item in ledger(site.workspace, now).runs if item.run == "made"]
    files = [info.size for info in site.workspace.objects.list("masks/part-")]
    assert made.spent.bytes == pytest.approx(sum(files), abs=9)
    assert made.spent.cost == pytest.approx(made.spent.bytes, rel=1e-3)


def test_training_has_the_time_and_the_size_of_its_model(site: Site) -> None:
    workspace = site.workspace
    workspace.objects.put("models/m/model.safetensors", b"x" * 1000)
    workspace.catalog.models.add(
        "m",
        architecture="lite",
        key="models/m/model.safetensors",
        card={"seconds": 30.0, "gpu_seconds": 20.0},
    )
    workspace.catalog.runs.start("t", RunKind.RETRAIN, dataset_id=site.dataset_id, model="lite")
    workspace.catalog.runs.finish("t", {"version": "m"})
    spent = _of(workspace, "t").spent
    assert (spent.cpu_seconds, spent.gpu_seconds, spent.bytes) == (30.0, 20.0, 1000)
    assert spent.accepted_masks is None
    assert spent.cost_per_accepted_mask is None


def test_rows_are_by_stage_and_model_and_the_total_has_everything(site: Site) -> None:
    site.annotate()
    _submit(site, "annotate", "ada", AnnotatorKind.PERSON, made=5)
    workspace = site.workspace
    workspace.catalog.runs.start("t", RunKind.RETRAIN, dataset_id=site.dataset_id, model="lite")
    workspace.catalog.runs.spend("t", cpu_seconds=500.0)
    first, training, whole = cost_rows(workspace)
    assert (first["stage"], first["model"], first["runs"]) == ("assisted_manual", "lite", 1)
    assert (training["stage"], training["accepted_masks"]) == ("retrain", None)
    assert (whole["stage"], whole["runs"]) == ("total", 2)
    assert whole["cost"] == pytest.approx(15.0)
    assert whole["cost_per_accepted_mask"] == pytest.approx(3.0)
    assert WorkspaceReports(workspace).overview()["costs"] == cost_rows(workspace)
    told = status_of(workspace)["costs"]
    assert told["total"]["cost"] == pytest.approx(15.0)
    assert [row["run"] for row in told["runs"]] == ["t", "annotate"]
    assert [row["stage"] for row in told["stages"]] == ["assisted_manual", "retrain"]


def test_nothing_costs_nothing() -> None:
    assert total([]) == Spent()
    assert Spent(cost=5.0).cost_per_accepted_mask is None


# Measuring


def _burn(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_processor_time_goes_to_the_run_that_works(site: Site) -> None:
    workspace = site.workspace
    site.start_run("a", RunKind.FULLY_AUTOMATIC)
    for _ in range(2):
        with spending(workspace, "a"):
            _burn(0.1)
            time.sleep(0.1)  # waiting uses no processor time
    run = workspace.catalog.runs.get("a")
    assert 0.2 <= run.cpu_seconds < 0.35
    assert run.gpu_seconds == 0.0


def test_two_runs_in_one_process_share_what_it_spends(site: Site) -> None:
    workspace, barrier = site.workspace, Barrier(2)
    for name in ("a", "b"):
        site.start_run(name, RunKind.FULLY_AUTOMATIC)

    def work(name: str) -> None:
        with spending(workspace, name):
            barrier.wait()
            _burn(0.2)
            barrier.wait()

    began = time.process_time()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, ("a", "b")))
    whole = time.process_time() - began
    both = [workspace.catalog.runs.get(name).cpu_seconds for name in ("a", "b")]
    assert 0.35 <= sum(both) <= whole + 0.05
    assert both[0] == pytest.approx(both[1], abs=0.1)


def test_work_that_failed_has_cost_too(site: Site) -> None:
    site.start_run("a", RunKind.FULLY_AUTOMATIC)

    def fail() -> None:
        with spending(site.workspace, "a"):
            _burn(0.05)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert site.workspace.catalog.runs.get("a").cpu_seconds >= 0.05


def test_bookkeeping_that_fails_does_not_undo_the_work(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise CatalogUnavailableError("gone")

    monkeypatch.setattr(site.workspace.catalog.runs, "spend", broken)
    with spending(site.workspace, "a"):
        done = True
    assert done
    assert "was not stored" in caplog.text


def test_ingest_counts_the_bytes_it_stored_once(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    data = site.workspace.objects.get("images/0.png")
    (folder / "a.png").write_bytes(data)
    first = ingest_folder(site.workspace, "e", folder)
    ingest_folder(site.workspace, "e", folder)
    assert first.bytes == len(data)
    spent = [item.spent for item in ledger(site.workspace).runs if item.stage == "ingest"]
    assert sorted(item.bytes for item in spent) == [0, len(data)]
    assert all(item.cpu_seconds > 0 for item in spent)


def test_generated_masks_are_booked(site: Site) -> None:
    """Run stage 3 on one image."""
    from flows.stages.fully_automatic import work_shard
    from flows.stages.run_context import RunContext
    from flows.workspace.progress import Silent

    workspace = site.workspace
    generator = workspace.settings.generator.model_copy(update={"points_per_side": 4})
    workspace.settings = workspace.settings.model_copy(update={"generator": generator})
    site.start_run("auto", RunKind.FULLY_AUTOMATIC)
    workspace.catalog.shards.plan("auto", [site.image_ids[:1]])
    shard = workspace.catalog.shards.lease("auto", "me", 60)
    assert shard is not None
    context = RunContext(
        run_id="auto",
        dataset="d",
        dataset_id=site.dataset_id,
        stage=Stage.FULLY_AUTOMATIC,
        round=0,
        model="lite",
    )
    with Silent().track("x", 1, "image") as advance:
        work_shard(workspace, context, shard, advance)
    spent = _of(workspace, "auto").spent
    assert spent.cpu_seconds > 0
    assert spent.images == 1
    assert spent.masks == len(list(workspace.masks.masks(source=Source.AUTOMATIC)))
