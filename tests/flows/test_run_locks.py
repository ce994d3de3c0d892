"""Concurrent steps, started at the page, in the terminal or by a trigger: each runs once and none
fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations_with_replacement
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine.core.records import Source, Stage
from engine.evaluation.bootstrap import ByImage
from flows.deploy import prefect_flows
from flows.loop import advance, data_engine
from flows.release import build, release
from flows.review import rescore, review
from flows.stages import annotation_round, assisted_manual, fully_automatic, semi_automatic
from flows.stages.rounds import context_of, open_round
from flows.stages.run_context import RunContext
from flows.training import retrain
from flows.training.scores import HeldOut
from flows.workspace import progress, run_lock
from flows.workspace.run_lock import BusyError, loop_lock, named_lock, tracked_run
from flows.workspace.workspace import Workspace, open_workspace
from storage.catalog import (
    Dataset,
    NewImage,
    NewVerdict,
    PlannedRound,
    RoundState,
    RunKind,
    RunState,
    TaskKind,
    TaskResult,
    VerdictKind,
)
from storage.masks import write_parquet
from tests.annotation.site import Site, make_site

Step = Callable[[Workspace, Dataset], object]
PLAN = [
    PlannedRound(stage=stage, images=images, retrain=images == 1, annotator="people")
    for stage, images in ((Stage.ASSISTED_MANUAL, 1), (Stage.SEMI_AUTOMATIC, 2))
]


class PeopleNeededError(KeyboardInterrupt):
    """Replaces waiting for people."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    found = make_site(tmp_path_factory.mktemp("locks") / "ws")
    found.workspace.settings = found.workspace.settings.model_copy(
        update={
            "production": found.workspace.settings.production.model_copy(
                update={"retrain_after_accepted": 1}
            )
        }
    )
    return found


@pytest.fixture
def _plain(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows without Prefect and without a model; all writes are real."""
    monkeypatch.setattr(run_lock, "LOOK_SECONDS", 0.02)
    stages = {
        Stage.ASSISTED_MANUAL: assisted_manual.assisted_manual.fn,
        Stage.SEMI_AUTOMATIC: semi_automatic.semi_automatic.fn,
    }
    monkeypatch.setattr(data_engine, "STAGES", stages)
    for module in (data_engine, advance, prefect_flows):
        monkeypatch.setattr(module, "retrain", retrain.retrain.fn)
    monkeypatch.setattr(advance, "data_engine", data_engine.data_engine.fn)
    monkeypatch.setattr(data_engine, "held_out_scores", lambda *_: {})
    monkeypatch.setattr(fully_automatic, "generate_shard", fully_automatic.generate_shard.fn)
    generator = SimpleNamespace(
        segmenter=SimpleNamespace(thresholds=SimpleNamespace(confident_iou=0.5)),
        generate=lambda pixels: [],
    )
    for module in (semi_automatic, fully_automatic):
        monkeypatch.setattr(module, "mask_generator", lambda *_: generator)
    monkeypatch.setattr(
        semi_automatic, "write_parquet", lambda masks: write_parquet(masks) + b"%d" % time_ns()
    )
    for module in (annotation_round, review, rescore):
        monkeypatch.setattr(module, "make_embeddings", lambda *_: None)
    for module in (data_engine, review):
        monkeypatch.setattr(module, "wait_for_people", people_needed)
    monkeypatch.setattr(rescore, "disagreements", lambda w, m, sample: sample)
    monkeypatch.setattr(build, "write_report", lambda w, d, s, path: path.write_text(str(s)))
    monkeypatch.setattr(retrain, "_train", train)
    nothing = HeldOut({"masks": 0}, cast("ByImage", None))
    monkeypatch.setattr(retrain, "held_out", lambda *_: [nothing, nothing])
    monkeypatch.setattr(prefect_flows, "opened", opened)
    monkeypatch.setattr(prefect_flows, "_run_id", lambda: f"trigger{time_ns()}")
    progress.use(progress.Silent())


def time_ns() -> int:
    return time.monotonic_ns()


def people_needed(workspace: Workspace, context: RunContext, *_: Any, **__: Any) -> None:
    if workspace.queue.pending(context.run_id):
        raise PeopleNeededError


@contextmanager
def opened(root: str) -> Iterator[Workspace]:
    yield open_workspace(root)


def train(workspace: Workspace, dataset: Dataset, version: str, parent: Any, *_: Any) -> None:
    time.sleep(0.05)
    workspace.catalog.models.add(
        version, architecture="lite", key=f"{parent.key}", parent=parent.version, card={"note": ""}
    )


def drained(site: Site, name: str) -> Dataset:
    """A dataset whose first round people have submitted, with automatic masks of an older model,
    one of them accepted in a review."""
    workspace, catalog = site.workspace, site.workspace.catalog
    for info in list(workspace.objects.list("masks/")):
        workspace.objects.delete(info.key)  # a long log is slow to read
    dataset = catalog.datasets.get_or_create(name)
    known = catalog.images.get_many(site.image_ids)
    rows = [
        NewImage(sha256=i.sha256, key=i.key, file_name=i.file_name, height=i.height, width=i.width)
        for i in known
    ]
    ids = catalog.images.add_many(dataset.id, rows).ids
    made, judged = f"made-{name}", f"judged-{name}"
    masks = [
        replace(
            mask,
            mask_id=f"{made}/{image_id}/{number}",
            image_id=image_id,
            dataset=name,
            model="old",
            point_xy=(1.0, 1.0),
        )
        for n, image_id in enumerate(ids)
        for number, mask in enumerate(
            site.mask_rows(n, made, Source.AUTOMATIC, Stage.FULLY_AUTOMATIC, limit=2)
        )
    ]
    workspace.masks.commit(masks, run_id=made, shard=0)
    job = review.start_review(workspace, name, judged)
    review.queue_review(workspace, job, {ids[0]: masks[:1]})
    hand_in(workspace, judged, TaskKind.REVIEW)
    (task,) = workspace.queue.submitted(judged)
    person = catalog.annotators.get_or_create("ada")
    accepted = NewVerdict(
        mask_id=masks[0].mask_id,
        task_id=task.id,
        verdict=VerdictKind.ACCEPT,
        annotator_id=person.id,
        seconds=1.0,
    )
    catalog.verdicts.add_many([accepted])
    catalog.runs.finish(judged)
    loop = catalog.loops.start_or_resume(dataset.id, PLAN)
    row = open_round(workspace, catalog.rounds.for_loop(loop.id)[0])
    assisted_manual.run_assisted_manual(workspace, row, wait=False)
    hand_in(workspace, context_of(workspace, row).run_id, TaskKind.ANNOTATE)
    return dataset


def hand_in(workspace: Workspace, run_id: str, kind: TaskKind) -> None:
    person = workspace.catalog.annotators.get_or_create("ada")
    workspace.objects.put(f"annotations/{run_id}/empty.parquet", write_parquet([]))
    while task := workspace.queue.lease(person.id, kinds=[kind], run_id=run_id):
        key = f"annotations/{run_id}/empty.parquet"
        workspace.queue.submit(task.id, str(task.lease_id), key, TaskResult())


def run(workspace: Workspace, dataset: Dataset) -> None:
    with pytest.raises(PeopleNeededError):
        data_engine.data_engine.fn(root(workspace), dataset.name, PLAN)


def a_review(workspace: Workspace, dataset: Dataset) -> None:
    try:
        review.review.fn(root(workspace), dataset.name, 2, annotator="people")
    except PeopleNeededError:
        return


def root(workspace: Workspace) -> str:
    return str(workspace.settings.root)


STEPS: dict[str, tuple[Step, Step]] = {
    "run": (run, run),
    "advance": (
        advance.advance_dataset,
        lambda w, d: prefect_flows.advance_loop.fn(root(w), d.name),
    ),
    "retrain": (
        lambda w, d: retrain.run_retrain(w, d, f"{d.name}-by-hand", None),
        lambda w, d: prefect_flows.retrain_dataset.fn(root(w), d.name, only_if_due=True),
    ),
    "review": (a_review, lambda w, d: prefect_flows.review_sample.fn(root(w), d.name, 2)),
    "rescore": (
        rescore.rescore_dataset,
        lambda w, d: prefect_flows.rescore_masks.fn(root(w), d.name),
    ),
    "release": (
        lambda w, d: release.release.fn(root(w), d.name, f"{d.name}-1"),
        lambda w, d: release.release.fn(root(w), d.name, f"{d.name}-1"),
    ),
    "generate": (
        lambda w, d: fully_automatic.generate.fn(root(w), f"g{d.id}", d.name),
        lambda w, d: fully_automatic.generate.fn(root(w), f"g{d.id}", d.name),
    ),
}
"""As a command or a button takes them, and as a trigger does."""


def raced(workspace: Workspace, dataset: Dataset, steps: list[Step]) -> list[BaseException]:
    start, errors = threading.Barrier(len(steps)), list[BaseException]()

    def take(step: Step) -> None:
        start.wait()
        try:
            step(workspace, dataset)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=take, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


@pytest.mark.usefixtures("_plain")
def test_any_two_steps_at_once_are_each_taken_once(site: Site) -> None:
    workspace, catalog = site.workspace, site.workspace.catalog
    for first, second in combinations_with_replacement(STEPS, 2):
        dataset = drained(site, f"{first}-{second}")
        errors = raced(workspace, dataset, [STEPS[first][0], STEPS[second][1]])
        assert not errors, (first, second, errors)
        advance.advance_dataset(workspace, dataset)  # the work that one process left to the other
        loop = catalog.loops.latest(dataset.id)
        assert loop is not None
        one, two = catalog.rounds.for_loop(loop.id)
        assert (one.state, two.state) == (RoundState.DONE, RoundState.OPENED), (first, second)
        assert workspace.queue.pending(str(two.run_id)) == 2
        runs = catalog.runs.all(dataset_id=dataset.id)
        assert not [run.error for run in runs if run.state == RunState.FAILED], (first, second)
        waiting = [run for run in runs if run.state == RunState.RUNNING]
        assert all(workspace.queue.pending(run.id) for run in waiting), (first, second)
        reviews = [run.id for run in runs if run.kind == RunKind.REVIEW]
        asked = [
            name
            for run in reviews
            for names in catalog.verdicts.asked_in_run(run).values()
            for name in names
        ]
        assert len(asked) == len(set(asked)), (first, second)
        assert catalog.locks.holder(loop_lock(dataset.id)) is None


def test_a_step_that_can_wait_is_left_to_the_process_that_is_at_it(site: Site) -> None:
    workspace = site.workspace
    told: list[BaseException] = []

    def other() -> None:
        try:
            with named_lock(workspace, "loop/99", wait=False):
                raise AssertionError("both had it")
        except BusyError as error:
            told.append(error)

    with named_lock(workspace, "loop/99"), named_lock(workspace, "loop/99", wait=False):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert str(told[0]) == f"process {run_lock.owner()} runs this step"
    with named_lock(workspace, "loop/99", wait=False):
        pass


def end_with(workspace: Workspace, run_id: str, error: BaseException) -> None:
    with tracked_run(workspace, run_id):
        raise error


@pytest.mark.parametrize(
    ("error", "is_planned", "expected"),
    [
        (OSError("no space left"), False, (RunState.FAILED, "no space left")),
        (ValueError(), True, (RunState.FAILED, "ValueError")),
        (KeyboardInterrupt(), False, (RunState.FAILED, "stopped")),
        (KeyboardInterrupt(), True, (RunState.RUNNING, None)),
    ],
)
def test_a_run_that_ends_early_says_why_or_can_go_on(
    site: Site, error: BaseException, is_planned: bool, expected: tuple[RunState, str | None]
) -> None:
    runs, run_id = site.workspace.catalog.runs, f"early-{time_ns()}"
    runs.start(run_id, RunKind.FULLY_AUTOMATIC, dataset_id=site.dataset_id)
    if is_planned:
        site.workspace.catalog.shards.plan(run_id, [site.image_ids])
    with pytest.raises(type(error)):
        end_with(site.workspace, run_id, error)
    found = runs.get(run_id)
    assert found.alive_until is not None
    assert (found.state, found.error) == expected
    assert runs.start(run_id, found.kind, dataset_id=site.dataset_id).state == RunState.RUNNING
