"""Counts of everything in a workspace."""

from __future__ import annotations

from typing import Any

from flows.data.inputs import passed_over_in
from flows.labels.categories import category_rows
from flows.operations.agreement import agreement_rows
from flows.workspace.costs import ledger
from flows.workspace.workspace import Workspace
from storage.catalog import Split


def status_of(workspace: Workspace) -> dict[str, Any]:
    """Everything that `dataengine status` shows, as JSON values."""
    catalog = workspace.catalog
    datasets = catalog.datasets.all()
    summary = catalog.summary()
    rounds: list[dict[str, Any]] = []
    quarantine: dict[str, int] = {}
    releases: list[dict[str, Any]] = []
    passed_over: dict[str, list[dict[str, Any]]] = {}
    categories: dict[str, dict[str, int]] = {}
    names = {}
    for row in datasets:
        names[row.name] = {
            "images": catalog.images.count(row.id),
            "held_out": catalog.images.count(row.id, split=Split.HELD_OUT),
            "near_duplicates": catalog.images.count_near_duplicates(row.id),
        }
        loop = catalog.loops.latest(row.id)
        if loop is not None:
            rounds += [{"dataset": row.name, **item} for item in round_rows(workspace, loop.id)]
        if listed := category_rows(workspace, row):
            categories[row.name] = {one["name"]: one["masks"] for one in listed}
        passed_over[row.name] = passed_over_in(workspace, row.id)
        for reason, count in catalog.quarantine.counts(row.id).items():
            quarantine[reason] = quarantine.get(reason, 0) + count
        releases += [
            {
                "name": item.name,
                "dataset": row.name,
                "state": str(item.state),
                "table_version": item.table_version,
                "masks": item.card.get("masks"),
            }
            for item in catalog.releases.all(row.id)
        ]
    masks = {str(key[0]): count for key, count in workspace.masks.counts(("stage",)).items()}
    return {
        "datasets": names,
        "images": {str(split): count for split, count in summary.images.items()},
        "masks": masks,
        "categories": categories,
        "rounds": rounds,
        "models": {model.version: str(model.state) for model in catalog.models.all()},
        "tasks": {str(state): count for state, count in summary.tasks.items()},
        "runs": {str(state): count for state, count in summary.runs.items()},
        "releases": releases,
        "quarantine": quarantine,
        "passed_over": passed_over,
        "consensus": agreement_rows(workspace),
        "costs": ledger(workspace).as_dict(),
    }


def round_rows(workspace: Workspace, loop_id: int) -> list[dict[str, Any]]:
    """The table of a loop: one row per round. The held-out scores are those of the model that the
    round used."""
    rows = []
    for row in workspace.catalog.rounds.for_loop(loop_id):
        figures, scores = row.metrics, row.metrics.get("held_out", {})
        rows.append(
            {
                "stage": str(row.stage),
                "round": row.number,
                "state": str(row.state),
                "images": figures.get("images"),
                "chosen": figures.get("chosen"),
                "near_duplicates_skipped": figures.get("near_duplicates_skipped"),
                "masks": figures.get("masks"),
                "masks_per_image": figures.get("masks_per_image"),
                "prefilled_kept": figures.get("prefilled_kept"),
                "clicks_per_mask": figures.get("clicks_per_mask"),
                "seconds_per_mask": figures.get("seconds_per_mask"),
                "clicks_per_added_mask": figures.get("clicks_per_added_mask"),
                "model": row.model_in,
                "model_after": row.model_out,
                "miou_1_click": scores.get("miou_1_click"),
                "miou_3_clicks": scores.get("miou_3_clicks"),
                "scored_on": scores.get("set"),
            }
        )
    return rows
