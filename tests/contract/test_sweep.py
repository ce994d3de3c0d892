"""The lookups of the sweep, on every database and object store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from storage.annotation_queue import AnnotationQueue
from storage.catalog import Catalog, NewTask, TaskKind, TaskResult
from storage.masks import MaskTable
from storage.objects import ObjectStore
from storage.sweep import pinned_versions, sweep
from tests.contract.database_fixtures import (
    catalog_fixture,  # noqa: F401
    clock_fixture,  # noqa: F401
    database_server_fixture,  # noqa: F401
    make_world,
)
from tests.contract.test_masks import a_mask

DAY = timedelta(days=1)


def _keys(store: ObjectStore) -> set[str]:
    return {info.key for info in store.list()}


def test_what_nothing_refers_to_goes_and_the_rest_stays(
    catalog: Catalog, store: ObjectStore
) -> None:
    world = make_world(catalog, images=2)
    queue = AnnotationQueue(catalog)
    image, other = world.image_ids
    queue.add(
        [NewTask(dataset_id=world.dataset.id, image_id=image, kind=TaskKind.ANNOTATE, run_id="run")]
    )
    ada = catalog.annotators.get_or_create("ada")
    task = queue.lease(ada.id, kinds=[TaskKind.ANNOTATE])
    assert task is not None
    answer, steps = f"annotations/run/{task.id}-a.parquet", f"trajectories/tasks/run/{task.id}-a"
    queue.submit(task.id, str(task.lease_id), answer, TaskResult(trajectories=f"{steps}.parquet"))
    catalog.models.add("v1", architecture="lite", key="models/v1/model.safetensors")
    catalog.releases.start("r", dataset_id=world.dataset.id, table_version=7, key="releases/r")
    catalog.models.add("v2", architecture="lite", key="models/v2/x", table_version=3)
    MaskTable(store).commit([a_mask(image)], run_id="run", shard=0)
    kept = {
        *(answer, f"{steps}.parquet", "prefill/run/1.parquet"),
        *("models/v1/model.safetensors", "releases/r/instances.json"),
        *(f"embeddings/v1/{image}.safetensors", f"embeddings/v1/{other}.safetensors"),
        "images/aa/unknown.png",
    }
    orphans = {
        *(f"annotations/run/{task.id}-b.parquet", "annotations/run/999-a.parquet"),
        *(f"trajectories/tasks/run/{task.id}-b.parquet", "prefill/gone/1.parquet"),
        *("models/v3/model.safetensors", "releases/r2/instances.json"),
        *("embeddings/v1/999.safetensors", f"embeddings/v9/{image}.safetensors"),
        "masks/part-lost.parquet",
    }
    for key in kept | orphans:
        store.put(key, b"x")
    everything = _keys(store)
    assert sweep(catalog, store, older_than=DAY, delete=True).objects == 0
    later = datetime.now(UTC) + 2 * DAY
    told = sweep(catalog, store, older_than=DAY, delete=False, now=later)
    assert (told.objects, told.bytes) == (len(orphans), len(orphans))
    assert _keys(store) == everything
    sweep(catalog, store, older_than=DAY, delete=True, now=later)
    assert _keys(store) == everything - orphans
    assert len(list(MaskTable(store).masks())) == 1
    assert pinned_versions(catalog) == {3, 7}


def test_what_was_prefilled_for_a_run_without_answers_goes_once_it_is_over(
    catalog: Catalog, store: ObjectStore
) -> None:
    """A finished run without masks: all images skipped, or a late version equal to the submitted
    one."""
    make_world(catalog, images=1)
    store.put("prefill/run/1.parquet", b"x")
    later = datetime.now(UTC) + 2 * DAY
    assert sweep(catalog, store, older_than=DAY, delete=True, now=later).objects == 0
    catalog.runs.finish("run")
    assert sweep(catalog, store, older_than=DAY, delete=True, now=later).objects == 1
    assert _keys(store) == set()
