"""The longest values that the page, its API and the commands accept fit into every database."""

from __future__ import annotations

from typing import Any, get_args

from engine.annotation import schemas
from storage.annotation_queue import AnnotationQueue
from storage.catalog import (
    Catalog,
    NewTask,
    NewVerdict,
    RunKind,
    TaskKind,
    TaskResult,
    TaskVerdict,
    VerdictKind,
)
from storage.catalog.tables import Base
from tests.contract.database_fixtures import (
    catalog_fixture,  # noqa: F401
    clock_fixture,  # noqa: F401
    database_server_fixture,  # noqa: F401
    make_world,
    new_image,
)

NAME = "n" * 200
"""As long as `schemas.Id` allows."""
RUN = "r" * 32
LAST = 2**63 - 1
CLIENT = "c" * 64
"""As long as `schemas.ClientId` allows."""
MASK = f"{RUN}/{LAST}/fix-{CLIENT}"
"""The longest id that the page makes."""


def _limit(schema: Any) -> int:
    """The constraints of an annotated type."""
    field = get_args(schema)[1]
    return int(next(item.max_length for item in field.metadata if hasattr(item, "max_length")))


def test_no_id_that_the_api_takes_is_longer_than_its_column() -> None:
    longest = _limit(schemas.Id)
    assert len(NAME) == longest >= len(MASK)
    tables = Base.metadata.tables
    for table, column in (
        *(("verdicts", "mask_id"), ("verdicts", "fixed_mask_id")),
        *(
            ("datasets", "name"),
            ("models", "version"),
            ("annotators", "name"),
            ("releases", "name"),
        ),
    ):
        assert tables[table].columns[column].type.length >= longest, (table, column)  # type: ignore[attr-defined]


def test_the_longest_of_everything_comes_back_whole(catalog: Catalog) -> None:
    world = make_world(catalog, images=1)
    dataset = catalog.datasets.get_or_create(
        NAME[:150]
    )  # longer ones are refused with the field's name
    person = catalog.annotators.get_or_create(NAME, role="reviewer")
    image = catalog.images.add_many(dataset.id, [new_image(7, "f" * 4_000)])
    model = catalog.models.add(
        NAME, architecture="a" * 64, key=f"models/{NAME}/k", parent=NAME, table_version=LAST
    )
    catalog.runs.start(
        RUN, RunKind.REVIEW, dataset_id=dataset.id, model=NAME, code_version="v" * 200
    )
    release = catalog.releases.start(
        NAME, dataset_id=dataset.id, table_version=LAST, key=f"releases/{NAME}"
    )
    catalog.quarantine.add(dataset.id, "p" * 4_000, "w" * 9_000, stage="s" * 32)
    catalog.audit.add("a" * 64, "s" * 4_000, annotator_id=person.id)
    queue = AnnotationQueue(catalog)
    ids = [NAME, MASK]
    task = NewTask(
        dataset_id=dataset.id,
        image_id=image.ids[0],
        kind=TaskKind.REVIEW,
        run_id=RUN,
        payload={"mask_ids": ids},
    )
    queue.add([task])
    taken = queue.lease(person.id, kinds=[TaskKind.REVIEW], run_id=RUN)
    assert taken is not None
    said = tuple(
        TaskVerdict(mask_id=name, verdict=VerdictKind.FIX, seconds=1e7, fixed_mask_id=MASK)
        for name in ids
    )
    queue.submit(taken.id, str(taken.lease_id), "k" * 1_000, TaskResult(verdicts=said))
    verdicts = [
        NewVerdict(
            mask_id=name,
            task_id=taken.id,
            verdict=VerdictKind.FIX,
            annotator_id=person.id,
            seconds=1e7,
            fixed_mask_id=MASK,
            reason="x" * 200,
        )
        for name in ids
    ]
    catalog.verdicts.add_many(verdicts)
    kept = catalog.verdicts.for_run(RUN)
    assert [(row.mask_id, row.fixed_mask_id) for row in kept] == [(name, MASK) for name in ids]
    assert catalog.models.get(NAME) == model
    assert catalog.releases.get(NAME) == release
    assert catalog.images.get(image.ids[0]).file_name == "f" * 4_000
    assert world.dataset.id != dataset.id
