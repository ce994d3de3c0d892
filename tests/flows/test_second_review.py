"""Reviews ask for each mask once, and retrains train on accepted masks, however they are
started."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.core.records import Source, Stage
from flows.page.actions import WorkspaceActions
from flows.review import review
from flows.review.rescore import old_masks
from flows.review.retrain_triggers import verdicts_since_retrain
from flows.training.training_set import MaskSource, trained_on
from storage.catalog import NewImage, NewVerdict, Split, TaskKind, TaskResult, VerdictKind
from tests.annotation.site import Site, make_site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Automatic masks of an older model on four images, two on each."""
    found = make_site(tmp_path / "ws", images=4)
    masks = [
        replace(mask, model="old", point_xy=(1.0, 1.0))
        for n in range(4)
        for mask in found.mask_rows(n, "made", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC, limit=2)
    ]
    found.workspace.masks.commit(masks, run_id="made", shard=0)
    return found


def sampled(site: Site, run_id: str, images: int, seed: int | None = None) -> set[str]:
    workspace = site.workspace
    job = review.start_review(workspace, "d", run_id)
    review.queue_sample(workspace, job, images, seed, with_truth=False)
    asked = workspace.catalog.verdicts.asked_in_run(run_id)
    return {name for names in asked.values() for name in names}


def judge(site: Site, run_id: str, verdicts: dict[str, VerdictKind]) -> None:
    """Submit the run's tasks with these verdicts."""
    catalog, queue = site.workspace.catalog, site.workspace.queue
    person = catalog.annotators.get_or_create("rita", role="reviewer")
    while task := queue.lease(person.id, kinds=[TaskKind.REVIEW], run_id=run_id):
        queue.submit(task.id, str(task.lease_id), f"annotations/{task.id}", TaskResult())
        rows = [
            NewVerdict(
                mask_id=name,
                task_id=task.id,
                verdict=verdicts[name],
                annotator_id=person.id,
                seconds=1.0,
            )
            for name in task.payload["mask_ids"]
        ]
        catalog.verdicts.add_many(rows)
    catalog.runs.finish(run_id)


@pytest.fixture(autouse=True)
def _no_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "make_embeddings", lambda *_: None)


@pytest.mark.parametrize("seed", [None, 0])
def test_a_review_leaves_out_what_was_judged_or_waits_in_the_queue(
    site: Site, seed: int | None
) -> None:
    first = sampled(site, "first", 2, seed)
    assert sampled(site, "first", 2, seed) == first  # stopped and restarted
    judge(site, "first", dict.fromkeys(first, VerdictKind.ACCEPT))
    second = sampled(site, "second", 1, seed)
    third = sampled(site, "third", 9, seed)
    assert (len(first), len(second), len(third)) == (4, 2, 2)
    assert len(first | second | third) == 8
    assert sampled(site, "fourth", 9, seed) == set()
    assert old_masks(site.workspace, site.workspace.catalog.datasets.get("d"), "lite") == {}


@pytest.mark.parametrize("asked", [[0, 1, 2], [1, 2, 3], [0, 1, 3], [0, 2, 3]])
def test_a_comparison_looks_on_past_images_whose_masks_were_all_asked(
    site: Site, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, dataset = site.workspace, site.workspace.catalog.datasets.get("d")
    production = workspace.settings.production.model_copy(update={"rescore_images": 1})
    settings = workspace.settings.model_copy(update={"production": production})
    monkeypatch.setattr(workspace, "settings", settings)
    everything = review.sample_masks(workspace, "d", 9, 0, with_truth=False)
    ids = sorted(everything)
    job = review.start_review(workspace, "d", "first")
    review.queue_review(workspace, job, {ids[n]: everything[ids[n]] for n in asked})
    (left,) = set(range(4)) - set(asked)
    assert list(old_masks(workspace, dataset, "lite")) == [ids[left]]


def test_reviews_without_a_seed_draw_other_images(site: Site) -> None:
    drawn: set[int] = set()
    for n in range(12):
        seed = list(f"run-{n}".encode())
        drawn |= review.sample_masks(site.workspace, "d", 1, seed, with_truth=False).keys()
    assert len(drawn) > 1


def test_what_reviewers_accept_is_trained_on_and_what_they_reject_never(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, dataset = site.workspace, site.workspace.catalog.datasets.get("d")
    names = sorted(sampled(site, "first", 2))
    kinds = [VerdictKind.ACCEPT, VerdictKind.ACCEPT, VerdictKind.REJECT, VerdictKind.ACCEPT]
    judge(site, "first", dict(zip(names, kinds, strict=True)))

    def sources() -> dict[str, int]:
        version = workspace.masks.version()
        found = MaskSource(workspace, dataset, version, None).counts()
        return dict(found["masks"])

    told = "3 masks that people made or confirmed, accepted automatic ones among them"
    assert sources() == {"automatic": 3}
    assert verdicts_since_retrain(workspace, dataset).accepted == 3
    assert trained_on(workspace, dataset) == f"{told}, on 2 training images"
    assert told in WorkspaceActions(workspace).plan("retrain", {"dataset": "d"}).text
    chosen = workspace.settings.train.model_copy(update={"automatic": True})
    monkeypatch.setattr(
        workspace, "settings", workspace.settings.model_copy(update={"train": chosen})
    )
    assert sources() == {"automatic": 7}
    assert trained_on(workspace, dataset) == (
        f"{told}, and 4 unjudged automatic ones, on 4 training images"
    )


def test_masks_accepted_on_held_out_images_start_no_retrain_that_would_find_none(
    site: Site,
) -> None:
    workspace, catalog = site.workspace, site.workspace.catalog
    known = catalog.images.get(site.image_ids[0])
    image = NewImage(
        sha256="f" * 64,
        key=known.key,
        file_name="held.png",
        height=known.height,
        width=known.width,
        split=Split.HELD_OUT,
    )
    (image_id,) = catalog.images.add_many(site.dataset_id, [image]).ids
    (mask,) = site.mask_rows(0, "held", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC, limit=1)
    workspace.masks.commit([replace(mask, image_id=image_id)], run_id="held", shard=0)
    job = review.start_review(workspace, "d", "judged")
    review.queue_review(workspace, job, {image_id: [mask]})
    judge(site, "judged", {mask.mask_id: VerdictKind.ACCEPT})
    dataset = catalog.datasets.get("d")
    assert verdicts_since_retrain(workspace, dataset).accepted == 0
    assert trained_on(workspace, dataset).startswith("0 masks")
