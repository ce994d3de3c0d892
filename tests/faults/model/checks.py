"""Invariants of a workspace, read from its tables, its log and its folder of objects."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from sqlalchemy import select

from engine.core.records import Mask, Source
from flows.operations import stale_runs
from flows.release.release import FILES
from storage.catalog import (
    Release,
    ReleaseState,
    RunKind,
    RunState,
    ShardState,
    TaskState,
)
from storage.catalog.tables import (
    Base,
    ImageRow,
    ModelRow,
    ReleaseRow,
    RunRow,
    ShardRow,
    TaskRow,
)
from tests.faults.model.truth import Truth
from tests.faults.model.world import SIZE, World, truth_of

RowT = TypeVar("RowT", bound=Base)
OPEN = (TaskState.OPEN, TaskState.LEASED)


def rows(world: World, table: type[RowT]) -> list[RowT]:
    """All rows of a table."""
    with world.catalog.reading() as session:
        found = list(session.scalars(select(table)))
        session.expunge_all()
        return found


def finished(world: World) -> set[str]:
    """Ids of the finished runs."""
    return {run.id for run in rows(world, RunRow) if run.state == RunState.FINISHED}


def check_people(world: World, truth: Truth) -> None:
    """An annotator who was told that a task is theirs holds it until the announced expiry."""
    tasks = {task.id: task for task in rows(world, TaskRow)}
    for task_id, held in truth.holder.items():
        if task_id in truth.doubtful or truth.answers.get(task_id):
            continue
        if held.is_good(world.clock.now):
            task = tasks[task_id]
            assert task.state == TaskState.LEASED, f"{held.person} lost task {task_id}"
            assert task.lease_id == held.view.lease_id, f"{held.person} lost task {task_id}"


def check_runs(world: World) -> None:
    """A running run has a process, waits for people, or is reported as stale."""
    since = world.clock.now - timedelta(seconds=world.workspace.settings.outage_seconds)
    tasks, told = rows(world, TaskRow), {run.id for run in stale_runs.find(world.workspace).runs}
    leased = {
        shard.run_id
        for shard in rows(world, ShardRow)
        if shard.state == ShardState.LEASED
        and shard.lease_expires_at is not None
        and shard.lease_expires_at > since
    }
    for run in rows(world, RunRow):
        if run.state != RunState.RUNNING or (run.alive_until or run.started_at) >= since:
            continue
        waits = any(task.run_id == run.id for task in tasks) or "late_of" in run.config
        assert run.id in leased or waits or run.id in told, f"nobody is at {run.kind} {run.id}"


def check_references(world: World) -> None:
    """Objects that the catalog names are in the store."""
    there = {info.key for info in world.workspace.objects.list()}
    named = {image.key for image in rows(world, ImageRow)}
    named |= {model.key for model in rows(world, ModelRow)}
    for release in rows(world, ReleaseRow):
        if release.state == ReleaseState.DONE and "erased" not in release.card:
            named |= {f"{release.key}/{file}" for file in FILES}
    over = finished(world)
    for task in rows(world, TaskRow):
        if task.run_id in over:
            continue
        if task.state == TaskState.SUBMITTED:
            named |= {task.result_key or "", (task.result or {}).get("trajectories") or ""}
        named.add(task.payload.get("prefill", ""))
    named |= {run.config.get("masks", "") for run in rows(world, RunRow) if run.id not in over}
    assert not named - there - {""}, f"named, but gone: {named - there - {''}}"


def check_nothing_left(world: World) -> None:
    """After a sweep, the store has no unreferenced object."""
    over, runs = finished(world), {run.id for run in rows(world, RunRow)}
    images = {str(image.id) for image in rows(world, ImageRow)}
    models = {model.key for model in rows(world, ModelRow)}
    releases = tuple(f"{release.key}/" for release in rows(world, ReleaseRow))
    answers: set[str] = set()
    for task in rows(world, TaskRow):
        if task.run_id not in over:
            answers |= {task.result_key or "", (task.result or {}).get("trajectories") or ""}
    for info in world.workspace.objects.list():
        kind, _, rest = info.key.partition("/")
        is_named = {
            "annotations": info.key in answers,
            "trajectories": info.key in answers or not rest.startswith("tasks/"),
            "prefill": rest.split("/")[0] in runs - over,
            "embeddings": rest.rpartition("/")[2].partition(".")[0] in images,
            "models": info.key in models,
            "releases": info.key.startswith(releases or "-"),
            "masks": rest.startswith("_delta_log/") or rest in _in_log(world, kind),
            "ground_truth": rest.startswith("_delta_log/") or rest in _in_log(world, kind),
        }.get(kind, kind in ("images", "generations", "erasures"))
        assert is_named, f"nothing refers to {info.key}, and the sweep left it"


def _in_log(world: World, table: str) -> set[str]:
    objects = world.workspace.objects
    found = set()
    for info in objects.list(f"{table}/_delta_log/"):
        if info.key.endswith(".json"):
            for line in objects.get(info.key).splitlines():
                found.add(json.loads(line).get("add", {}).get("path", ""))
    return found


def check_table(world: World, truth: Truth) -> list[Mask]:
    """No mask is in the table twice or without a submission. Returns the masks."""
    masks = list(world.workspace.masks.masks())
    counts = Counter(mask.mask_id for mask in masks)
    assert not masks or counts.most_common(1)[0][1] == 1, "a mask is in the table twice"
    tasks = {(task.run_id, task.image_id): task.id for task in rows(world, TaskRow)}
    for mask in masks:
        task_id = tasks.get((mask.run_id, mask.image_id))
        if task_id is not None:
            answers = truth.possible(task_id)
            known = any(mask.mask_id in answer.mask_ids for answer in answers)
            assert known, f"{mask.mask_id} is in the table, and nobody handed it in"
    images = {image.id for image in rows(world, ImageRow)}
    assert {mask.image_id for mask in masks} <= images, "a mask of an erased image is left"
    return masks


def check_accepted(world: World, truth: Truth, masks: list[Mask]) -> None:
    """All submissions of finished runs are in the table."""
    found: dict[tuple[str, int], set[str]] = {}
    for mask in masks:
        found.setdefault((mask.run_id, mask.image_id), set()).add(mask.mask_id)
    over = finished(world)
    for task in rows(world, TaskRow):
        if task.run_id in over and (answers := truth.possible(task.id)):
            there = found.get((str(task.run_id), task.image_id), set())
            assert there in [set(a.mask_ids) for a in answers], f"task {task.id} has lost masks"
            _check_verdicts(world, task, [answer.verdicts for answer in answers])
    automatic = {run.id for run in rows(world, RunRow) if run.kind == RunKind.FULLY_AUTOMATIC}
    for shard in rows(world, ShardRow):
        if shard.run_id in automatic and shard.state == ShardState.COMMITTED:
            for image in shard.image_ids:
                there = found.get((shard.run_id, image), set())
                assert there == {f"{shard.run_id}/{image}/{n}" for n in range(3)}, there


def _check_verdicts(world: World, task: TaskRow, possible: list[dict[str, str]]) -> None:
    if task.kind == "review":
        given = world.catalog.verdicts.for_run(str(task.run_id))
        there = {row.mask_id: str(row.verdict) for row in given if row.task_id == task.id}
        assert there in possible, f"verdicts of task {task.id} are {there}"


def check_export(world: World, truth: Truth, release: Release, path: Path) -> None:
    """An export has people's masks without verdicts, and no mask that another one supersedes or
    that all verdicts reject, if they were given before the release was begun."""
    content = json.loads(path.read_text())
    there = {(a["image_id"], a["segmentation"]["counts"]) for a in content["annotations"]}
    masks = list(world.workspace.masks.masks(version=release.table_version))
    gone = {mask.supersedes for mask in masks} | _rejected(world, truth, release)
    good = {_named(mask) for mask in masks if mask.mask_id not in gone}
    assert there <= good, f"exported, and rejected or superseded: {there - good}"
    peoples = {
        _named(mask)
        for mask in masks
        if mask.source != Source.AUTOMATIC
        and mask.mask_id not in gone
        and not truth.verdicts_on(mask.mask_id)
    }
    assert peoples <= there, f"accepted, and not exported: {peoples - there}"


def _named(mask: Mask) -> tuple[int, str]:
    return mask.image_id, mask.rle.counts.decode()


def _rejected(world: World, truth: Truth, release: Release) -> set[str]:
    """Masks with only reject verdicts, in reviews that were finished before a release."""
    over = {
        run.id
        for run in rows(world, RunRow)
        if run.finished_at is not None and run.finished_at < release.created_at
    } & finished(world)
    tasks = {task.id for task in rows(world, TaskRow) if task.run_id in over}
    found = {
        name
        for task_id in truth.answers.keys() & tasks
        for answer in truth.possible(task_id)
        for name in answer.verdicts
    }
    return {name for name in found if set(truth.verdicts_on(name)) == {"reject"}}


def check_ground_truth(world: World, truth: Truth, images: dict[int, int]) -> None:
    """Ingested images are in the catalog, each with annotations that were ingested with it.

    Args:
        images: ids in the catalog of the images that there are.
    """
    assert truth.ingested <= images.keys(), "an image is lost"
    held = world.workspace.truths_of(list(images.values()))
    for number, image_id in images.items():
        there = frozenset(held.get(image_id, []))
        assert all(rle.size == SIZE for rle in there)
        possible = [
            frozenset() if name is None else truth_of(number, name)
            for name in truth.annotations[number]
        ]
        assert there in possible, f"image {number} has other annotations"
