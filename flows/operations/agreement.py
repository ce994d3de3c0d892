"""How far people agree on the images that several of them annotated."""

from __future__ import annotations

from typing import Any

from flows.workspace.workspace import Workspace


def agreement_rows(workspace: Workspace) -> list[dict[str, Any]]:
    """One row per round with such images: dataset, stage, round, images, f1, iou, reviewed."""
    return [
        {
            "dataset": dataset.name,
            "stage": row.stage,
            "round": row.round,
            "images": row.images,
            "f1": row.f1,
            "iou": row.iou,
            "reviewed": row.reviewed,
        }
        for dataset in workspace.catalog.datasets.all()
        for row in workspace.catalog.consensus.by_round(dataset.id)
    ]
