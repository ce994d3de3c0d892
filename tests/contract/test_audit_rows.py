"""What the catalog knows of audits and waiting reviews, on every database."""

from __future__ import annotations

from storage.annotation_queue import AnnotationQueue
from storage.catalog import Catalog, NewTask, RunKind, TaskKind
from storage.sweep import pinned_versions
from tests.contract.database_fixtures import (
    catalog_fixture,  # noqa: F401
    clock_fixture,  # noqa: F401
    database_server_fixture,  # noqa: F401
    make_world,
)


def test_masks_wait_in_review_until_their_run_ends_and_audits_pin_their_masks_until_then(
    catalog: Catalog,
) -> None:
    world = make_world(catalog, images=1)
    dataset_id = world.dataset.id
    plan = {"audit": {"table_version": 7}}
    catalog.runs.start("audit", RunKind.REVIEW, dataset_id=dataset_id, config=plan)
    catalog.runs.start("look", RunKind.REVIEW, dataset_id=dataset_id, config={"audit_of": "audit"})
    task = NewTask(
        dataset_id=dataset_id,
        image_id=world.image_ids[0],
        kind=TaskKind.REVIEW,
        run_id="look",
        payload={"mask_ids": ["a", "b"]},
    )
    AnnotationQueue(catalog).add([task])
    assert catalog.verdicts.waiting_mask_ids(dataset_id) == {"a", "b"}
    assert pinned_versions(catalog) == {7}
    for run_id in ("audit", "look"):
        catalog.runs.finish(run_id)
    assert catalog.verdicts.waiting_mask_ids(dataset_id) == set()
    assert pinned_versions(catalog) == set()
