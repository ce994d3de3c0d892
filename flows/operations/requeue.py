"""Work that was set aside is done again.

Tasks that too many people have skipped, or whose image was quarantined, are open again. Images that
stage 3 has quarantined wait in a run of their own.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.workspace.workspace import Workspace


def requeue_dataset(workspace: Workspace, dataset: str) -> dict[str, Any]:
    """Open what was set aside of the dataset; again, it changes nothing.

    Returns:
        `tasks`: how many are open again; `images`: how many wait for stage 3, in the run `run`
        (None without any), which `generate --resume` goes on with.

    Raises:
        CatalogError: no such dataset, or the catalog does not answer; do it again.
    """
    from engine.core.records import Stage
    from flows.stages.fully_automatic import plan_shards, start_generate

    row = workspace.catalog.datasets.get(dataset)
    tasks = workspace.queue.requeue(row.id)
    broken = workspace.catalog.quarantine.of_images(row.id, stage=Stage.FULLY_AUTOMATIC)
    run_id = None
    if broken:
        named = f"requeue/{row.id}/{[(item.id, str(item.created_at)) for item in broken]}"
        run_id = uuid.uuid5(uuid.NAMESPACE_URL, named).hex  # stopped here, it is found again
        start_generate(workspace, run_id, dataset, limit=None, only_new=False)
        images = sorted({int(str(item.image_id)) for item in broken})
        plan_shards(workspace, run_id, images)
        workspace.catalog.quarantine.forget([item.id for item in broken])
    return {"tasks": tasks, "images": len(broken), "run": run_id}
