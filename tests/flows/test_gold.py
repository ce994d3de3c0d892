"""Gold images and scores at the command line; reviews of people's masks by filters and rules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from engine.core.errors import DataEngineError
from engine.core.records import Mask, Source, Stage
from flows.cli.main import app
from flows.operations.dashboard import WorkspaceReports
from flows.operations.doctor import check_workspace
from flows.review import review
from flows.review.wanted import Wanted, check_wanted
from flows.stages.rounds import open_round
from flows.stages.semi_automatic import run_semi_automatic
from flows.workspace import progress
from storage.catalog import (
    GOLD,
    NewGoldScore,
    NewTask,
    NewVerdict,
    PlannedRound,
    RunKind,
    TaskKind,
    VerdictKind,
)
from tests.annotation.site import Site, make_site

IMAGES = 10
KINDS = [TaskKind.COMPLETE]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("DATAENGINE_QUALITY__GOLD_FIRST", "2")
    monkeypatch.setenv("DATAENGINE_GENERATOR__POINTS_PER_SIDE", "2")
    found = make_site(tmp_path / "ws", images=IMAGES, size=(96, 128))
    monkeypatch.chdir(tmp_path / "ws")
    monkeypatch.setattr(review, "make_embeddings", lambda *_: None)
    yield found
    progress.use(progress.Silent())


def with_truth(site: Site, *numbers: int) -> None:
    """Store the true masks of these images."""
    limits = {"limit": 99}
    rows = [
        mask
        for n in numbers
        for mask in site.mask_rows(n, "truth", Source.IMPORTED, Stage.ASSISTED_MANUAL, **limits)
    ]
    site.workspace.truths.commit(rows, run_id="truth", shard=0)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def asked(*arguments: str) -> dict[str, Any]:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def answered(site: Site, name: str, answers: list[tuple[int, int]]) -> None:
    """Store scores of a person: found and true objects of each gold task."""
    catalog, queue = site.workspace.catalog, site.workspace.queue
    person, run_id = catalog.annotators.get_or_create(name).id, f"gold-{name}"
    catalog.gold.mark(site.dataset_id, [site.image_ids[0]])
    for number, (found, truths) in enumerate(answers):
        run = f"{run_id}-{number}"
        catalog.runs.start(run, RunKind.GOLD, dataset_id=site.dataset_id)
        gold = NewTask(
            dataset_id=site.dataset_id,
            image_id=site.image_ids[0],
            kind=TaskKind.ANNOTATE,
            run_id=run,
            reserved_for=person,
            payload={GOLD: {}},
        )
        queue.add([gold])
        task = queue.lease(person, kinds=[TaskKind.ANNOTATE], run_id=run)
        assert task is not None
        queue.submit(task.id, str(task.lease_id), f"answers/{run}")
        catalog.gold.add_score(
            NewGoldScore(
                task_id=task.id,
                annotator_id=person,
                dataset_id=site.dataset_id,
                image_id=task.image_id,
                truths=truths,
                found_50=found,
                found_75=found,
                extra=0,
                iou=0.9,
                boundary_f=0.8,
            )
        )


BAD, GOOD = [(8, 10)] * 12, [(20, 20)] * 12


def test_gold_images_are_marked_from_truth_or_by_name_and_listed(site: Site) -> None:
    with_truth(site, 1, 2, 3)
    made = asked("gold", "add", "--dataset", "d", "--from-truth", "2")
    assert made["gold_images"] == 2
    rest = {site.image_ids[n] for n in (1, 2, 3)} - set(made["images"])
    name = site.workspace.catalog.images.get(rest.pop()).file_name
    assert asked("gold", "add", "--dataset", "d", "--images", name)["gold_images"] == 3
    rows = asked("gold", "list", "--dataset", "d")["images"]
    assert {row["image"] for row in rows} == {site.image_ids[n] for n in (1, 2, 3)}
    assert {row["image"]: row["truths"] for row in rows} == {
        site.image_ids[n]: len(site.masks_of(n)) for n in (1, 2, 3)
    }
    assert [(row["answers"], row["score"]) for row in rows] == [(0, None)] * 3
    assert "0.png" not in invoke("gold", "list", "--dataset", "d").stdout
    assert asked("gold", "scores")["annotators"] == []


def test_accepted_masks_of_a_reviewed_image_are_its_true_masks(site: Site) -> None:
    site.review()
    catalog, queue = site.workspace.catalog, site.workspace.queue
    rita = catalog.annotators.get_or_create("rita", role="reviewer").id
    task = queue.lease(rita, kinds=[TaskKind.REVIEW])
    assert task is not None
    first, *others = task.payload["mask_ids"]
    verdicts = {first: VerdictKind.ACCEPT} | dict.fromkeys(others, VerdictKind.REJECT)
    rows = [
        NewVerdict(mask_id=name, task_id=task.id, verdict=said, annotator_id=rita, seconds=1.0)
        for name, said in verdicts.items()
    ]
    catalog.verdicts.add_many(rows)
    asked("gold", "add", "--dataset", "d", "--images", str(task.image_id))
    (row,) = asked("gold", "list", "--dataset", "d")["images"]
    assert (row["image"], row["truths"]) == (task.image_id, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gold", "add", "--from-truth", "5"), "3 images with ingested true masks.*--coco"),
        (("gold", "add", "--images", "0.png"), "true masks of 0.png are not known.*--coco"),
        (("gold", "add", "--images", "no.png"), "no image named 'no.png'"),
        (("gold", "list", "--dataset", "x"), "no dataset 'x'"),
        (("review", "--score", "high"), "a score band is like 0.7-0.9"),
        (("review", "--score", "0.9-0.7"), "a score band is like 0.7-0.9"),
        (("review", "--size", "huge"), "small, medium, large"),
    ],
)
def test_wrong_use_says_what_to_do(site: Site, arguments: tuple[str, ...], words: str) -> None:
    with_truth(site, 1, 2, 3)
    given = arguments if "--dataset" in arguments else (*arguments, "--dataset", "d")
    with pytest.raises(DataEngineError, match=words):
        invoke(*given)
    assert site.workspace.catalog.gold.image_ids(site.dataset_id) == []


def test_images_and_from_truth_exclude_each_other(site: Site) -> None:
    both = invoke("gold", "add", "--dataset", "d", "--images", "1.png", "--from-truth", "1")
    assert (both.exit_code, invoke("gold", "add").exit_code) == (2, 2)


def test_doctor_dashboard_and_commands_say_that_gold_images_are_missing(site: Site) -> None:
    said = "d has 0 gold images, 2 or more are needed: `dataengine gold add --dataset d"
    rows = {row["name"]: row for row in check_workspace(site.workspace.settings.root)}
    assert rows["gold tasks"]["level"] == "look"
    assert said in rows["gold tasks"]["detail"]
    assert said in WorkspaceReports(site.workspace).overview()["advice"][0]
    assert said in asked("gold", "list", "--dataset", "d")["advice"][0]
    with_truth(site, 1, 2)
    assert "are needed" not in invoke("gold", "add", "--dataset", "d", "--from-truth", "2").output
    assert WorkspaceReports(site.workspace).overview()["advice"] == []


def test_scores_say_who_is_below_and_who_above(site: Site) -> None:
    answered(site, "ada", GOOD)
    answered(site, "bob", BAD)
    answered(site, "cat", GOOD[:3])
    found = {
        row["annotator"]: row for row in asked("gold", "scores", "--dataset", "d")["annotators"]
    }
    judged = {name: row["judgement"] for name, row in found.items()}
    assert judged == {"ada": "above", "bob": "below", "cat": "undecided"}
    bob = found["bob"]
    assert bob["low"] < bob["score"] == 0.8 < bob["high"] < 0.96
    assert [row["high"] for row in bob["history"]][:5] == [1, 1, 1, 1, bob["history"][4]["high"]]
    assert len(bob["history"]) == 12
    overview = WorkspaceReports(site.workspace).overview()
    shown = {row["name"]: row["gold"] for row in overview["annotators"]}
    assert shown["bob"]["judgement"] == "below"
    assert any(line.startswith("bob: ") and "--rules" in line for line in overview["advice"])
    assert "below 0.96" in invoke("gold", "scores").stdout


def test_answers_to_a_removed_gold_image_count_no_longer(site: Site) -> None:
    answered(site, "bob", BAD)
    name = site.workspace.catalog.images.get(site.image_ids[0]).file_name
    removed = asked("gold", "remove", "--dataset", "d", "--images", name)
    assert removed == {"dataset": "d", "images": [site.image_ids[0]], "gold_images": 0}
    assert asked("gold", "scores")["annotators"] == []
    with pytest.raises(DataEngineError, match=f"{name} is not a gold image"):
        invoke("gold", "remove", "--dataset", "d", "--images", name)
    site.workspace.catalog.gold.mark(site.dataset_id, [site.image_ids[0]])  # as it was
    (bob,) = asked("gold", "scores")["annotators"]
    assert bob["answers"] == len(BAD)


def test_people_are_not_given_gold_images_as_work(site: Site) -> None:
    with_truth(site, 1, 2)
    asked("gold", "add", "--dataset", "d", "--from-truth", "2")
    plan = PlannedRound(stage=Stage.ASSISTED_MANUAL, images=IMAGES, annotator="people")
    loop = site.workspace.catalog.loops.start_or_resume(site.dataset_id, [plan])
    row = open_round(site.workspace, site.workspace.catalog.rounds.for_loop(loop.id)[0])
    given = site.workspace.catalog.rounds.image_ids(row.id)
    assert set(given) == set(site.image_ids) - {site.image_ids[1], site.image_ids[2]}


def test_gold_images_are_prepared_like_the_images_of_the_round(site: Site) -> None:
    with_truth(site, 1, 2)
    asked("gold", "add", "--dataset", "d", "--from-truth", "2")
    plan = PlannedRound(stage=Stage.SEMI_AUTOMATIC, images=2, annotator="people")
    loop = site.workspace.catalog.loops.start_or_resume(site.dataset_id, [plan])
    row = open_round(site.workspace, site.workspace.catalog.rounds.for_loop(loop.id)[0])
    assert run_semi_automatic(site.workspace, row, wait=False) is None
    queued = {task.image_id for task in site.workspace.queue.upcoming(kinds=KINDS, limit=9)}
    assert len(queued) == 2
    prepared = queued | {site.image_ids[1], site.image_ids[2]}
    for image_id in prepared:
        assert site.workspace.objects.exists(f"prefill/{row.run_id}/{image_id}.parquet")
        assert site.workspace.objects.exists(f"embeddings/lite/{image_id}.safetensors")
    assert queued & {site.image_ids[1], site.image_ids[2]} == set()


# which masks are reviewed


def people_masks(site: Site) -> list[Mask]:
    """Masks of ada on the even images and of bob on the odd ones; one fix by a reviewer."""
    rows = []
    for number in range(IMAGES):
        found = site.mask_rows(number, "work", Source.ANNOTATOR, Stage.ASSISTED_MANUAL)
        rows += [replace(mask, annotator="bob" if number % 2 else "ada") for mask in found]
    fix = replace(rows[0], mask_id="work/fix/0", supersedes=rows[0].mask_id, annotator="ada")
    site.workspace.masks.commit([*rows, fix], run_id="work", shard=0)
    for name in ("ada", "bob"):
        site.workspace.catalog.annotators.get_or_create(name)
    return rows


def chosen(site: Site, run_id: str, wanted: Wanted, images: int | None = None) -> set[str]:
    job = review.start_review(site.workspace, "d", run_id, wanted)
    review.queue_sample(site.workspace, job, images, 0, wanted, with_truth=False)
    found = site.workspace.catalog.verdicts.asked_in_run(run_id)
    return {name for names in found.values() for name in names}


def test_filters_choose_the_masks_of_a_review(site: Site) -> None:
    rows = people_masks(site)
    site.review()  # queues automatic masks
    made = site.mask_rows(0, "more", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC)
    low = [replace(mask, predicted_iou=0.75) for mask in made]
    site.workspace.masks.commit(low, run_id="more", shard=0)
    assert chosen(site, "default", Wanted.parse(score="0.7-0.8", size="small")) == {
        mask.mask_id for mask in low if mask.area < 32**2
    }
    assert chosen(site, "high", Wanted.parse(score="0.95-1")) == set()
    bobs = {mask.mask_id for mask in rows if mask.annotator == "bob"}
    assert chosen(site, "one", Wanted.parse(by="bob"), images=1) < bobs
    assert chosen(site, "bob", Wanted.parse(by="bob", stage="semi_automatic")) == set()
    rest = chosen(site, "rest", Wanted.parse(source="annotator", stage="assisted_manual"))
    assert {mask.mask_id for mask in rows[1:]} - rest < bobs  # those of run "one"
    run = site.workspace.catalog.runs.get("rest")
    assert run.config["stage"] == "assisted_manual"


def test_rules_send_all_masks_of_bad_annotators_and_fewer_of_good_ones(site: Site) -> None:
    rows = people_masks(site)
    rules = Wanted.parse(rules=True)
    answered(site, "ada", GOOD)
    before = chosen(site, "before", rules)
    assert len(before) < len(rows) / 2
    assert "work/fix/0" not in before
    assert chosen(site, "again", rules) == set()  # only what is new
    answered(site, "bob", BAD)
    after = before | chosen(site, "after", rules)
    bobs = {row.mask_id for row in rows if row.annotator == "bob"}
    adas = {row.mask_id for row in rows if row.annotator == "ada"}
    assert bobs <= after
    assert len(adas & after) <= len(adas) / 4


def test_rules_at_the_command_line_say_what_they_do_with_whom(site: Site) -> None:
    people_masks(site)
    answered(site, "bob", BAD)
    with pytest.raises(DataEngineError, match="no annotator 'eve'"):
        check_wanted(site.workspace, "d", Wanted.parse(by="eve"))
    result = invoke("review", "--dataset", "d", "--rules")
    assert result.exit_code == 0
    assert "bob: 100% of the images (their gold score lies below the threshold)" in result.output
    assert "every mask that fits" in result.output  # the simulated reviewer needs true masks
