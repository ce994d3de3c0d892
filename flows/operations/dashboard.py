"""The figures of the dashboard, as rows for tables and charts."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from engine.annotation.access import sight_of
from flows.data.import_model import open_choices
from flows.operations.agreement import agreement_rows
from flows.operations.category_counts import CategoryCounts
from flows.operations.status import round_rows
from flows.training.compared_scores import compared_set, score_row
from flows.workspace.costs import cost_rows
from flows.workspace.gold import advice, standing_row, standings
from flows.workspace.workspace import Workspace
from storage.catalog import (
    Annotator,
    AnnotatorWork,
    Dataset,
    Model,
    Release,
    ReleaseState,
    Run,
    RunKind,
    RunState,
    Split,
    Task,
    TaskKind,
    utc_now,
)
from storage.catalog.ledger import SubmittedWork
from storage.layout import RELEASE_FILES

RUNS = 20
DAY = timedelta(days=1)
HISTORY_TASKS = 5_000
"""The latest tasks, of which the history is made."""


MAKING = (TaskKind.ANNOTATE, TaskKind.COMPLETE)
"""Kinds of tasks in which masks are made."""


class WorkspaceReports:
    """The page's `Reports`."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._categories = CategoryCounts(workspace)

    def overview(self) -> dict[str, Any]:
        """The fields of `Overview`."""
        workspace = self._workspace
        catalog = workspace.catalog
        workspace.queue.expire()
        datasets, models = catalog.datasets.all(), catalog.models.all()
        compared = compared_set(models)
        verdicts: dict[str, int] = defaultdict(int)
        for row in datasets:
            for kind, count in catalog.verdicts.counts(row.id).items():
                verdicts[str(kind)] += count
        return {
            "datasets": _dataset_rows(workspace, datasets),
            "loops": [found for row in datasets if (found := _loop(workspace, row))],
            "queue": {str(kind): row for kind, row in workspace.queue.by_kind().items()},
            "annotators": annotator_rows(workspace),
            "models": [_model_row(model, compared) for model in models],
            "model_choices": [asdict(choice) for choice in open_choices(models)],
            "runs": [_run_row(workspace, run) for run in _latest_runs(workspace)],
            "history": history(workspace.queue.latest(HISTORY_TASKS, kinds=MAKING)),
            "verdicts": dict(verdicts),
            "releases": [
                {
                    "name": item.name,
                    "dataset": row.name,
                    "state": str(item.state),
                    "created_at": item.created_at,
                    "masks": item.card.get("masks"),
                    "images": item.card.get("images"),
                    "files": _files_of(item),
                }
                for row in datasets
                for item in catalog.releases.all(row.id)
            ],
            "categories": self._categories.rows(),
            "consensus": agreement_rows(workspace),
            "costs": cost_rows(workspace),
            "advice": advice(workspace),
        }


def _dataset_rows(workspace: Workspace, datasets: list[Dataset]) -> list[dict[str, Any]]:
    images, rows = workspace.catalog.images, []
    stages = defaultdict[str, dict[str, int]](dict)
    for (name, stage), number in workspace.masks.counts(("dataset", "stage")).items():
        stages[str(name)][str(stage)] = number
    people = workspace.catalog.ledger.people_since(utc_now() - DAY)
    submitted = workspace.catalog.ledger.submitted_work()
    for row in datasets:
        work = submitted.get(row.id, SubmittedWork())
        count = images.count(row.id)
        held_out = images.count(row.id, split=Split.HELD_OUT)
        made = sum(stages[row.name].values())
        rows.append(
            {
                "name": row.name,
                "images": count,
                "train": count - held_out,
                "held_out": held_out,
                "near_duplicates": images.count_near_duplicates(row.id),
                "annotated": work.images,
                "to_annotate": max(0, count - work.images),
                "masks": made,
                "masks_handed_in": work.masks,
                "masks_per_image": made / count if count else 0.0,
                "masks_by_stage": stages[row.name],
                "people_today": people.get(row.id, 0),
            }
        )
    return rows


def _files_of(release: Release) -> list[str]:
    """Files of a release that can be downloaded; none after an erasure of its images."""
    is_whole = release.state == ReleaseState.DONE and "erased" not in release.card
    return list(RELEASE_FILES) if is_whole else []


def _loop(workspace: Workspace, dataset: Dataset) -> dict[str, Any] | None:
    """The dataset's latest loop with its rounds, and each round's tasks."""
    loop = workspace.catalog.loops.latest(dataset.id)
    if loop is None:
        return None
    rounds = []
    round_figures = round_rows(workspace, loop.id)
    for row, figures in zip(workspace.catalog.rounds.for_loop(loop.id), round_figures, strict=True):
        tasks = workspace.queue.counts(round_id=row.id)
        plan = loop.plan[row.position]
        rounds.append(
            {
                **figures,
                "tasks": {str(state): count for state, count in tasks.items()},
                "planned_images": plan.images,
                "retrain": plan.retrain,
                "annotator": plan.annotator,
                "updated_at": row.updated_at,
            }
        )
    return {"dataset": dataset.name, "state": str(loop.state), "rounds": rounds}


def annotator_rows(workspace: Workspace) -> list[dict[str, Any]]:
    """One row per annotator, with the work that they have submitted."""
    done = workspace.queue.by_annotator()
    agreement = workspace.catalog.verdicts.agreement()
    gold, threshold = standings(workspace), workspace.settings.quality.gold_threshold
    names = {row.id: row.name for row in workspace.catalog.datasets.all()}
    rows = []
    for person in workspace.catalog.annotators.all():
        work = done.get(person.id, AnnotatorWork())
        masks, seconds = work.masks, work.seconds
        rows.append(
            {
                "name": person.name,
                "role": person.role,
                "kind": str(person.kind),
                "datasets": _names_of(person, names),
                "tasks": work.tasks,
                "reviews": work.reviews,
                "masks": masks,
                "seconds_per_mask": seconds / masks if masks else None,
                "masks_per_hour": 3600 * masks / seconds if seconds else None,
                "last_seen": work.last_seen,
                "agreement": agreement.get(person.id),
                "gold": standing_row(gold[person.id], threshold) if person.id in gold else None,
            }
        )
    return rows


def _names_of(person: Annotator, names: dict[int, str]) -> list[str] | None:
    """Names of the datasets that a person may see; None: all."""
    datasets = sight_of(person).datasets
    return None if datasets is None else sorted(names[one] for one in datasets if one in names)


def _model_row(model: Model, compared: str | None) -> dict[str, Any]:
    return {
        "version": model.version,
        "state": str(model.state),
        "architecture": model.architecture,
        "parent": model.parent,
        "created_at": model.created_at,
        **score_row(model, compared),
        "note": model.card.get("note", ""),
    }


def _latest_runs(workspace: Workspace) -> list[Run]:
    """The latest runs, without those of gold tasks, which are one per annotator."""
    runs = workspace.catalog.runs.all(limit=10 * RUNS)
    return [run for run in runs if run.kind != RunKind.GOLD][:RUNS]


def _run_row(workspace: Workspace, run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "kind": str(run.kind),
        "state": str(run.state),
        "dataset": workspace.catalog.datasets.get_by_id(run.dataset_id).name,
        "model": run.model,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "progress": _progress(workspace, run),
        "images": run.metrics.get("images"),
        "masks": run.metrics.get("masks"),
        "error": run.error,
    }


def _progress(workspace: Workspace, run: Run) -> float | None:
    """The share that the run has reported, else of its finished shards or tasks; None: unknown."""
    if run.state == RunState.FINISHED:
        return 1.0
    if (reported := run.metrics.get("progress")) is not None:
        return float(reported)
    totals = workspace.catalog.shards.totals(run.id)
    if totals.shards:
        return totals.committed / totals.shards
    tasks = workspace.queue.counts(run_id=run.id)
    total = sum(tasks.values())
    return 1 - workspace.queue.pending(run.id) / total if total else None


def history(tasks: list[Task]) -> list[dict[str, Any]]:
    """One row per hour of submitted tasks, oldest first: tasks, masks, seconds per mask."""
    hours: dict[datetime, list[Task]] = defaultdict(list)
    for task in tasks:
        when = task.submitted_at or utc_now()
        hours[when.replace(minute=0, second=0, microsecond=0)].append(task)
    rows = []
    for at, group in sorted(hours.items()):
        masks = sum(task.result.masks for task in group)
        seconds = sum(task.result.seconds for task in group)
        rows.append(
            {
                "at": at,
                "tasks": len(group),
                "masks": masks,
                "seconds_per_mask": seconds / masks if masks else None,
                "masks_per_image": masks / len(group),
            }
        )
    return rows
