"""Requeues skipped and quarantined work.

Tasks that too many people have skipped, or whose image was quarantined, are reopened. Images that
stage 3 has quarantined are planned in a new run.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.workspace.workspace import Workspace


def requeue_dataset(workspace: Workspace, dataset: str) -> dict[str, Any]:
    """Requeue the dataset's skipped and quarantined work; a second call changes nothing.

    Returns:
        `tasks`: the number reopened; `images`: the number that wait for stage 3 in the run `run`
        (None if there are none), which `generate --resume` resumes.

    Raises:
        CatalogError: no such dataset, or the catalog does not answer; repeat it.
    """
    from engine.core.records import Stage
    from flows.stages.fully_automatic import start_generate
    from flows.stages.shards import plan_shards

    row = workspace.catalog.datasets.get(dataset)
    tasks = workspace.queue.requeue(row.id)
    broken = workspace.catalog.quarantine.of_images(row.id, stage=Stage.FULLY_AUTOMATIC)
    run_id = None
    if broken:
        name = f"requeue/{row.id}/{[(item.id, str(item.created_at)) for item in broken]}"
        run_id = uuid.uuid5(uuid.NAMESPACE_URL, name).hex  # the same id after a stop here
        start_generate(workspace, run_id, dataset, limit=None, only_new=False)
        images = sorted({int(str(item.image_id)) for item in broken})
        plan_shards(workspace, run_id, images)
        workspace.catalog.quarantine.forget([item.id for item in broken])
    return {"tasks": tasks, "images": len(broken), "run": run_id}
