"""Labels that are submitted with tasks: by annotators, by reviewers, and where people disagree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.annotation.client import Client
from engine.annotation.errors import RefusedError
from engine.annotation.mask_labels import LABELS_ASKED
from engine.annotation.schemas import LabelIn, NewVerdict
from engine.core.categories import Category, CategoryList
from engine.core.records import Source, Stage
from flows.loop.data_engine import LoopPlan
from flows.stages.assisted_manual import run_assisted_manual
from flows.stages.commit_answers import commit_answers
from flows.stages.rounds import open_round
from flows.stages.run_context import context_without_round
from flows.stages.semi_automatic import run_semi_automatic
from flows.workspace.settings import FILE_NAME, load_settings
from storage import layout
from storage.catalog import Label, LabelSource, NewLabel, RunKind, TaskKind, VerdictKind
from storage.masks import write_parquet
from tests.annotation.site import Site, make_site, served
from tests.annotation.test_browse_commands import committed
from tests.annotation.test_comments import arrived, finished
from tests.annotation.test_consensus import QUALITY, opened, shared_image, shifted
from tests.annotation.test_late import lost_to
from tests.annotation.test_tasks import ANNOTATE, decoded, new_mask, square, taken

CELL, DUST, RETIRED = 1, 2, 3
NONE = 0
COMPLETE, REVIEW = [TaskKind.COMPLETE], [TaskKind.REVIEW]


@pytest.fixture(autouse=True)
def categories(site: Site) -> None:
    """Two categories, and one that was removed."""
    names = ("cell", "dust", "old")
    first = CategoryList(categories=tuple(Category(id=n, name=w) for n, w in enumerate(names, 1)))
    kept = site.workspace.catalog.categories
    kept.set(site.dataset_id, first, expected_version=0)
    kept.set(site.dataset_id, first.replaced(first.categories[:2]), expected_version=1)


def label_of(site: Site, mask_id: str) -> Label:
    return site.workspace.catalog.labels.current([mask_id])[mask_id]


def commit(site: Site, run_id: str) -> None:
    context = context_without_round(site.workspace, site.workspace.catalog.runs.get(run_id))
    commit_answers(site.workspace, context)


def accepted(mask_id: str, **more: object) -> NewVerdict:
    values = {"mask_id": mask_id, "verdict": VerdictKind.ACCEPT, "seconds": 1.0, **more}
    return NewVerdict.model_validate(values)


def test_labels_of_drawn_masks_are_written_once_with_the_masks(site: Site, ada: Client) -> None:
    site.annotate()
    task = taken(ada)
    drawn = [
        new_mask("cell", category_id=CELL),
        new_mask("none", category_id=NONE),
        new_mask("old", category_id=RETIRED),
        new_mask("plain"),
    ]
    ada.submit(task, drawn, seconds=5)
    assert site.workspace.catalog.labels.of_images([task.image.id]) == {}, "no masks yet"
    commit(site, "annotate")
    masks = list(site.workspace.masks.masks(image_ids=[task.image.id]))
    labels = site.workspace.catalog.labels.current([mask.mask_id for mask in masks])
    by_name = {mask_id.rpartition("-")[2]: label for mask_id, label in labels.items()}
    assert {name: label.category_id for name, label in by_name.items()} == {
        "cell": CELL,
        "none": None,
    }
    cell = by_name["cell"]
    ada_id = site.workspace.catalog.annotators.find("ada").id  # type: ignore[union-attr]
    assert (cell.source, cell.annotator_id, cell.task_id) == ("annotator", ada_id, task.id)

    later = NewLabel(
        mask_id=cell.mask_id,
        image_id=cell.image_id,
        category_id=DUST,
        source=LabelSource.ANNOTATOR,
        annotator_id=ada_id,
    )
    site.workspace.catalog.labels.add_many(site.dataset_id, [later])
    commit(site, "annotate")
    assert label_of(site, cell.mask_id).category_id == DUST, "a repeated commit changes no label"
    assert len(site.workspace.catalog.labels.history(cell.image_id, cell.mask_id)) == 2


def test_a_label_that_cannot_be_is_refused_and_the_work_stays(site: Site, ada: Client) -> None:
    site.complete()
    task = taken(ada, COMPLETE)
    known = task.masks[0].mask_id
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"masks": [new_mask("a", category_id=9)]}, "no category with id 9"),
        ({"labels": [LabelIn(mask_id="other", category_id=CELL)]}, "'other'"),
        ({"labels": [LabelIn(mask_id=known, category_id=CELL)] * 2}, "two labels"),
        (
            {"labels": [LabelIn(mask_id=known, category_id=CELL)], "rejected": [known]},
            "Not a pre-filled mask that is kept",
        ),
    ]
    for given, text in wrong:
        with pytest.raises(RefusedError, match=text) as found:
            ada.submit(task, **{"masks": [], "seconds": 1.0, **given})
        assert found.value.status == 422
    assert taken(ada, COMPLETE).lease_id == task.lease_id


def test_a_dataset_without_categories_takes_no_labels_and_stores_what_it_did_before(
    tmp_path: Path,
) -> None:
    plain = make_site(tmp_path / "plain", images=1)
    plain.annotate()
    with served(plain.workspace) as url, plain.client(url, "ada") as ada:
        task = taken(ada)
        with pytest.raises(RefusedError, match="no categories"):
            ada.submit(task, [new_mask("a", category_id=NONE)], seconds=1)
        ada.submit(task, [new_mask("a")], seconds=1)
    assert "labels" not in plain.workspace.queue.get(task.id).result.to_json()
    commit(plain, "annotate")
    assert plain.workspace.catalog.labels.of_images([task.image.id]) == {}


def test_kept_pre_filled_masks_are_labelled_and_come_back_with_their_labels_when_reopened(
    site: Site, ada: Client
) -> None:
    site.complete()
    task = taken(ada, COMPLETE)
    first, second, third = (mask.mask_id for mask in task.masks)
    assert {mask.category_id for mask in task.masks} == {None}
    fix = new_mask("fix", replaces=second, category_id=DUST)
    labels = [LabelIn(mask_id=first, category_id=CELL)]
    ada.submit(task, [fix], labels=labels, rejected=[third], seconds=4)
    ada._send("POST", f"/api/browse/finished/{task.id}/reopen")
    again = taken(ada, COMPLETE)
    assert again.former is not None
    assert again.former.labels == labels
    assert [mask.category_id for mask in again.former.masks] == [DUST]
    ada.submit(again, [fix], labels=labels, rejected=[third], seconds=5)
    commit(site, "complete")
    found = site.workspace.catalog.labels.of_images([task.image.id])
    assert sorted(label.category_id or 0 for label in found.values()) == [CELL, DUST]
    assert label_of(site, first).category_id == CELL


def test_a_reviewer_confirms_or_changes_labels_in_seconds_of_their_own(
    site: Site, rita: Client
) -> None:
    site.review()
    one, two, three = (f"made/{site.image_ids[0]}/{n}" for n in range(3))
    site.workspace.catalog.labels.add_many(
        site.dataset_id,
        [
            NewLabel(
                mask_id=one,
                image_id=site.image_ids[0],
                category_id=CELL,
                source=LabelSource.MODEL,
                model="suggester",
                score=0.9,
            )
        ],
    )
    task = taken(rita, REVIEW)
    assert [mask.category_id for mask in task.masks] == [CELL, None, None]
    better = new_mask("better", square(24))
    verdicts = [
        accepted(one, category_id=CELL, label_seconds=0.5),
        accepted(two, verdict=VerdictKind.FIX, fix=better, category_id=DUST, label_seconds=0.25),
        accepted(three, verdict=VerdictKind.REJECT, category_id=DUST),
    ]
    rita.judge(task, verdicts)
    result = site.workspace.queue.get(task.id).result
    assert result.seconds == 3.75
    commit(site, "review")
    confirmed = label_of(site, one)
    assert (confirmed.source, confirmed.seconds) == (LabelSource.ANNOTATOR, 0.5)
    fixed = result.verdicts[1].fixed_mask_id
    assert label_of(site, str(fixed)).category_id == DUST
    assert three not in site.workspace.catalog.labels.current([three]), "it is rejected"


def test_a_reviewer_is_asked_for_the_labels_that_a_model_is_not_sure_of(
    site: Site, rita: Client
) -> None:
    masks = site.mask_rows(0, "made", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC)
    site.workspace.masks.commit(masks, run_id="made", shard=0)
    site.start_run("asked", RunKind.REVIEW)
    ids = [mask.mask_id for mask in masks]
    payload = {"mask_ids": ids, LABELS_ASKED: ids[1:]}
    site.add_tasks(TaskKind.REVIEW, "asked", [payload, {"mask_ids": []}, {"mask_ids": []}])
    task = taken(rita, REVIEW)
    assert {mask.mask_id for mask in task.masks if mask.is_label_asked} == set(ids[1:])


def test_late_work_keeps_its_labels(site: Site, ada: Client, bob: Client, rita: Client) -> None:
    site.annotate()
    mine = lost_to(site, ada, bob, ANNOTATE)
    bob.submit(taken(bob), [new_mask("b", shifted(60))], seconds=1)
    ada.late(mine, [new_mask("a", category_id=DUST)], seconds=2)
    task = arrived(rita, REVIEW)
    assert [mask.category_id for mask in task.masks] == [None, DUST]
    rita.judge(task, [accepted(mask.mask_id) for mask in task.masks])
    run_id = str(site.workspace.queue.get(task.id).run_id)
    assert finished(site, run_id)
    label = label_of(site, task.masks[1].mask_id)
    ada_id = site.workspace.catalog.annotators.find("ada").id  # type: ignore[union-attr]
    assert (label.category_id, label.annotator_id) == (DUST, ada_id)


def test_where_people_label_a_merged_mask_differently_a_reviewer_decides(
    site: Site, ada: Client, bob: Client, rita: Client
) -> None:
    file = site.workspace.settings.root / FILE_NAME
    file.write_text(file.read_text() + QUALITY.replace("people = 3", "people = 2"))
    site.workspace.settings = load_settings(file.parent)
    row = opened(site)
    run_assisted_manual(site.workspace, row, wait=False)
    image = shared_image(site, row)
    label_all(ada, (shifted(0), CELL), (shifted(60), DUST), (shifted(100), CELL))
    label_all(bob, (shifted(2), DUST), (shifted(60), DUST), (shifted(100), None))
    assert run_assisted_manual(site.workspace, row, wait=False) is not None
    masks = list(site.workspace.masks.masks(image_ids=[image]))
    labels = site.workspace.catalog.labels.current([mask.mask_id for mask in masks])
    by_place = {mask.box_xyxy[0]: labels.get(mask.mask_id) for mask in masks}
    agreed = {x: None if one is None else one.category_id for x, one in by_place.items()}
    assert agreed == {32: None, 90: DUST, 130: CELL}

    task = arrived(rita, REVIEW)
    (mask,) = task.masks
    assert "disagree about the label of 1 mask" in str(task.note)
    said = {one.name: one.category_id for one in mask.disputed}
    assert said == {"ada": CELL, "bob": DUST}
    rita.judge(task, [accepted(mask.mask_id, category_id=DUST)])
    assert finished(site, str(site.workspace.queue.get(task.id).run_id))
    assert label_of(site, mask.mask_id).category_id == DUST
    run_assisted_manual(site.workspace, row, wait=False)
    assert rita.next_task(REVIEW).task is None, "it is asked once"


def label_all(client: Client, *masks: tuple[np.ndarray, int | None]) -> None:
    while (task := client.next_task(ANNOTATE).task) is not None:
        drawn = [new_mask(f"m{n}", mask, category_id=one) for n, (mask, one) in enumerate(masks)]
        client.submit(task, drawn, seconds=4)


def test_a_label_that_contradicts_another_persons_goes_to_review(
    site: Site, ada: Client, bob: Client, rita: Client
) -> None:
    ids = committed(site)[:3]
    bob_id = site.workspace.catalog.annotators.find("bob").id  # type: ignore[union-attr]
    labels = [
        NewLabel(
            mask_id=mask_id,
            image_id=site.image_ids[0],
            category_id=CELL,
            source=LabelSource.ANNOTATOR,
            annotator_id=bob_id,
        )
        for mask_id in ids
    ]
    site.workspace.catalog.labels.add_many(site.dataset_id, labels)
    rita._send("POST", "/api/browse/annotate", {"dataset": "d", "image_ids": [site.image_ids[0]]})
    task = taken(ada, COMPLETE)
    assert [mask.category_id for mask in task.masks] == [CELL] * 3
    fix = new_mask("fix", replaces=ids[1], category_id=DUST)
    given = [LabelIn(mask_id=ids[0], category_id=DUST), LabelIn(mask_id=ids[2], category_id=CELL)]
    ada.submit(task, [fix], labels=given, seconds=3)
    review = arrived(rita, REVIEW)
    found = {mask.mask_id: mask for mask in review.masks}
    assert ids[0] in found
    assert len(found) == 2
    fixed = next(mask for name, mask in found.items() if name != ids[0])
    for mask in found.values():
        assert [(one.name, one.category_id) for one in mask.disputed] == [
            ("bob", CELL),
            ("ada", DUST),
        ]
        assert mask.category_id == DUST, "the last one counts meanwhile"
    assert (decoded(fixed.rle) == square()).all()


def test_the_dashboard_counts_masks_by_category(site: Site, ada: Client, rita: Client) -> None:
    def counts() -> list[tuple[str, int]]:
        return [(row["name"], row["masks"]) for row in rita.overview().categories]

    assert counts() == [("cell", 0), ("dust", 0)]
    site.annotate()
    drawn = [new_mask("a", category_id=DUST), new_mask("b", category_id=DUST), new_mask("c")]
    ada.submit(taken(ada), drawn, seconds=5)
    commit(site, "annotate")
    assert counts() == [("dust", 2), ("cell", 0)]


def test_people_who_keep_the_same_pre_filled_mask_can_label_it_differently(
    site: Site, ada: Client, bob: Client, rita: Client
) -> None:
    file = site.workspace.settings.root / FILE_NAME
    quality = QUALITY.replace("people = 3", "people = 2").replace("share = 0.5", "share = 1.0")
    file.write_text(file.read_text() + quality)
    site.workspace.settings = load_settings(file.parent)
    plan = LoopPlan(
        assisted_manual=0,
        semi_automatic=1,
        fully_automatic=0,
        images_per_round=1,
        annotator="people",
    )
    loop = site.workspace.catalog.loops.start_or_resume(site.dataset_id, plan.rounds())
    row = open_round(site.workspace, site.workspace.catalog.rounds.for_loop(loop.id)[0])
    (image,) = site.workspace.catalog.rounds.image_ids(row.id)
    run_id, number = str(row.run_id), site.image_ids.index(image)
    given = site.mask_rows(number, run_id, Source.PREFILL, Stage.SEMI_AUTOMATIC)
    key = layout.PREFILL.key(run=run_id, name=image)
    site.workspace.objects.put(key, write_parquet(given))
    assert run_semi_automatic(site.workspace, row, wait=False) is None
    for client, category in ((ada, CELL), (bob, DUST)):
        task = taken(client, COMPLETE)
        first, second = (mask.mask_id for mask in task.masks[:2])
        labels = [(first, category), (second, CELL)]
        sent = [LabelIn(mask_id=name, category_id=one) for name, one in labels]
        client.submit(task, [], labels=sent, seconds=1)
    assert run_semi_automatic(site.workspace, row, wait=False) is not None
    task = arrived(rita, REVIEW)
    (mask,) = task.masks
    assert {one.name: one.category_id for one in mask.disputed} == {"ada": CELL, "bob": DUST}
    agreed = site.workspace.catalog.labels.of_images([image]).values()
    assert [label.category_id for label in agreed] == [CELL]
