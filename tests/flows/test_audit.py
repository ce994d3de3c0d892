"""An audit has a sample of automatic masks corrected until its interval decides on the target."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from engine.core.records import Mask, Provenance, Source, Stage
from engine.core.rle import decode, encode
from flows.cli.audit import print_audit
from flows.cli.main import app
from flows.data.ingest import ingest_folder
from flows.release.release import REPORT_FILE, release
from flows.review import audit as audit_module
from flows.review import audit_thresholds, review
from flows.review.audit import audit
from flows.review.audit_plan import AuditError, AuditOptions, start_audit
from flows.stages.run_context import RunContext
from flows.stages.task_runner import answer_tasks
from flows.workspace.workspace import Workspace
from storage.catalog import (
    PEOPLE,
    SIMULATED,
    RunKind,
    TaskKind,
    TaskResult,
    TaskVerdict,
    VerdictKind,
)
from storage.masks import write_parquet
from storage.sweep import pinned_versions
from tests.flows.conftest import make_workspace, write_scenes


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace as the current folder. Dataset `d` has automatic masks: those of objects with an
    even number are exact, the others much too small. Dataset `bare` has images only."""
    workspace = make_workspace(tmp_path / "ws")
    folder = write_scenes(tmp_path / "scenes", 4)
    ingest_folder(workspace, "d", folder, folder / "instances.json", held_out=0.0)
    ingest_folder(workspace, "bare", write_scenes(tmp_path / "more", 1), held_out=0.0)
    stage, source = Stage.FULLY_AUTOMATIC, Source.AUTOMATIC
    origin = Provenance(dataset="d", stage=stage, run_id="made", model="lite", source=source)
    masks = []
    for image_id, truths in workspace.truths_of(list(workspace.catalog.images.ids(1))).items():
        for number, rle in enumerate(truths):
            shown = decode(rle)
            if number % 2:
                inside = cv2.distanceTransform(shown.astype(np.uint8), cv2.DIST_L2, 5)
                shown &= inside > np.quantile(inside[shown], 0.3)
            score = 0.5 if number % 2 else 0.9
            masks.append(origin.mask(image_id, number, encode(shown), predicted_iou=score))
    workspace.masks.commit(masks, run_id="made", shard=0)
    monkeypatch.chdir(workspace.settings.root)
    return workspace


def automatic(workspace: Workspace) -> list[Mask]:
    return list(workspace.masks.masks(run_id="made"))


def audited(workspace: Workspace, dataset: str = "d", **options: Any) -> dict[str, Any]:
    chosen = AuditOptions(**{"annotator": SIMULATED, **options})
    return audit(str(workspace.settings.root), start_audit(workspace, dataset, chosen).id)


@pytest.mark.usefixtures("prefect_server")
def test_an_audit_of_all_masks_finds_their_share_and_the_release_shows_it(
    made: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = automatic(made)
    exact = sum(int(mask.mask_id.rsplit("/", 1)[1]) % 2 == 0 for mask in masks) / len(masks)
    options = ["--annotator", "simulated", "--limit", "1000", "--json"]
    command = ["audit", "--dataset", "d", "--target", str(exact), *options]
    result = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)
    share = result["shares"]["0.9"]
    assert share["low"] == share["high"] == pytest.approx(exact)
    assert (result["judged"], result["unanswered"]) == (len(masks), 0)
    assert sum(result["verdicts"].values()) == sum(row["masks"] for row in result["strata"])
    current = {m.mask_id for m in made.masks.masks(dataset="d", current_only=True)}
    assert len(current & {mask.mask_id for mask in masks}) == len(masks) - result["verdicts"]["fix"]
    print_audit(result)
    told = capsys.readouterr().out
    assert "SAM's paper, SA-1B" in told
    assert f"target {exact:g} at IoU 0.9: " in told

    card = release(str(made.settings.root), "d", "d-1")
    assert card["audit"] == result
    key = made.catalog.releases.get("d-1").key
    made.objects.fetch(f"{key}/{REPORT_FILE}", tmp_path / REPORT_FILE)
    report = (tmp_path / REPORT_FILE).read_text()
    assert f"Audit of {len(masks)} of {len(masks)} automatic masks" in report
    assert "paper on SA-1B: 94%" in report


@pytest.mark.usefixtures("prefect_server")
def test_an_audit_stops_asking_as_soon_as_the_target_is_out_of_reach(made: Workspace) -> None:
    result = audited(made, target=1.0, limit=16)
    assert result["decision"] == "missed"
    assert result["judged"] < 16
    assert len(made.catalog.verdicts.asked_mask_ids(1)) == result["judged"]


@pytest.mark.usefixtures("prefect_server")
def test_a_stopped_audit_resumes_and_asks_for_no_mask_twice(
    made: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: Any = {"limit": 12, "target": 0.5, "confidence": 0.999}
    answer, calls = answer_tasks, []

    def stopped(*given: Any) -> None:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        answer(*given)

    monkeypatch.setattr(audit_module, "answer_tasks", stopped)
    version = made.masks.version()
    with pytest.raises(KeyboardInterrupt):
        audited(made, **options)
    first = made.catalog.verdicts.asked_mask_ids(1)
    assert pinned_versions(made.catalog) == {version}  # the masks that it draws from stay readable
    result = audited(made, **options)
    assert result["judged"] == sum(result["verdicts"].values()) == 12
    assert [look["judged"] for look in result["looks"]] == [2, 3, 6, 12]
    assert len(first) == 6
    assert first < made.catalog.verdicts.asked_mask_ids(1)
    assert (
        start_audit(made, "d", AuditOptions(annotator=SIMULATED, **options)).id != result["audit"]
    )


def correct(workspace: Workspace, context: RunContext, kind: TaskKind) -> None:
    """Ada's work on a look: she rejects its first mask, and accepts the others."""
    ada = workspace.catalog.annotators.get_or_create("ada", role="reviewer")
    kinds = [VerdictKind.REJECT]
    while task := workspace.queue.lease(ada.id, kinds=[kind], run_id=context.run_id):
        assert "This is an audit" in task.payload["note"]
        verdicts = tuple(
            TaskVerdict(
                mask_id=name, verdict=kinds.pop() if kinds else VerdictKind.ACCEPT, seconds=1.0
            )
            for name in task.payload["mask_ids"]
        )
        key = f"annotations/{context.run_id}/{task.id}-1.parquet"
        workspace.objects.put(key, write_parquet([]))
        workspace.queue.submit(task.id, str(task.lease_id), key, TaskResult(verdicts=verdicts))


@pytest.mark.usefixtures("prefect_server")
def test_people_answer_audits_as_reviews_and_a_rejected_mask_counts_as_bad(
    made: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "wait_for_people", correct)
    monkeypatch.setattr(audit_module, "make_embeddings", lambda *_: None)
    options: Any = {"limit": 8, "target": 0.6, "annotator": PEOPLE}
    result = audited(made, **options)
    looks = len(result["looks"])
    assert result["verdicts"] == {"accept": 8 - looks, "reject": looks, "fix": 0}
    assert result["decision"] == "limit"
    share = result["shares"]["0.75"]
    assert share["low"] < share["estimate"] < share["high"] < 1
    assert audited(made, **options)["masks"] == result["masks"] - looks  # without rejected ones


@pytest.mark.usefixtures("prefect_server")
def test_masks_that_wait_in_another_review_are_not_given_out_twice(made: Workspace) -> None:
    context = review.start_review(made, "d", "other")
    by_image: dict[int, list[Mask]] = {}
    for mask in automatic(made):
        by_image.setdefault(mask.image_id, []).append(mask)
    review.queue_review(made, context, by_image)
    with pytest.raises(AuditError, match="wait in other reviews"):
        audited(made, limit=8)
    assert made.queue.by_kind()[TaskKind.REVIEW]["open"] == len(by_image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 94}, "target must be above 0 and at most 1, got 94; 94 percent is 0.94"),
        ({"at_iou": 0.0}, "at_iou must be above 0"),
        ({"confidence": 1.0}, "confidence must be at least 0.5 and below 1"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"annotator": "me"}, "people or simulated, got 'me'"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_range(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(AuditError, match=message):
        AuditOptions(**options)


def test_an_audit_that_nobody_could_answer_gets_a_message_that_says_what_to_do(
    made: Workspace,
) -> None:
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("d", {"stage": Stage.SEMI_AUTOMATIC}, "no automatic masks of stage semi_automatic"),
        ("bare", {}, "dataengine generate --dataset bare"),
        ("bare", {"annotator": SIMULATED}, "give --annotator people"),
    ]
    for dataset, options, message in wrong:
        with pytest.raises(AuditError, match=message):
            start_audit(made, dataset, AuditOptions(**options))
    assert made.catalog.runs.all(kind=RunKind.REVIEW) == []
    people = made.catalog.annotators
    people.get_or_create("bob", role="annotator")
    eve = people.get_or_create("eve", role="reviewer")
    people.set_datasets(eve.id, [2])
    with pytest.raises(AuditError, match="annotators add NAME --role reviewer --dataset d"):
        start_audit(made, "d", AuditOptions())
    people.set_datasets(eve.id, [1])
    begun = start_audit(made, "d", AuditOptions())
    assert start_audit(made, "d", AuditOptions()).id == begun.id


def calibrated(*options: str) -> Any:
    command = ["calibrate", "--dataset", "d", "--precision", "0.95", *options]
    return CliRunner().invoke(app, command, catch_exceptions=False)


@pytest.mark.usefixtures("prefect_server")
def test_thresholds_follow_from_an_audit_for_a_stated_precision(
    made: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_thresholds, "MIN_JUDGED", 5)
    masks = automatic(made)
    exact = sum(mask.predicted_iou == pytest.approx(0.9) for mask in masks) / len(masks)
    audited(made, limit=1000, target=exact)
    before = made.segmenter("lite").thresholds
    with pytest.raises(AuditError, match="min_predicted_iou and min_stability under"):
        calibrated()  # the settings' own thresholds would win over the card's
    fixed = {"min_predicted_iou": None, "min_stability": None}
    generator = made.settings.generator.model_copy(update=fixed)
    free = Workspace(made.settings.model_copy(update={"generator": generator}))

    shown = json.loads(calibrated("--dry-run", "--json").stdout)
    assert made.catalog.models.get("lite").card["thresholds"] == asdict(before)
    audit_thresholds.use_thresholds(free, audit_thresholds.thresholds_from_audit(free, "d", 0.95))
    limits = made.catalog.models.get("lite").card["thresholds"]
    assert shown["after"]["thresholds"] == limits
    assert 0.5 <= limits["min_predicted_iou"] < 0.9
    assert limits["confident_iou"] >= limits["min_predicted_iou"]
    assert limits["min_stability"] == before.min_stability
    assert shown["after"]["kept"] == pytest.approx(exact)
    assert shown["after"]["precision"]["estimate"] == 1
    assert shown["before"]["kept"] == 1
    assert shown["before"]["precision"]["estimate"] == pytest.approx(exact)
    assert Workspace(made.settings).segmenter("lite").thresholds.min_predicted_iou >= 0.5


@pytest.mark.usefixtures("prefect_server")
def test_thresholds_that_cannot_follow_from_an_audit_are_refused(
    made: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = made.catalog.models.get("lite").card
    with pytest.raises(AuditError, match="no finished audit"):
        calibrated()
    audited(made, limit=1000, target=0.5, confidence=0.999)
    masks = automatic(made)
    monkeypatch.setattr(audit_thresholds, "MIN_JUDGED", len(masks) + 1)
    with pytest.raises(AuditError, match=f"judged {len(masks)} masks"):
        calibrated()
    monkeypatch.setattr(audit_thresholds, "MIN_JUDGED", len(masks))  # no stricter pair has as many
    with pytest.raises(AuditError, match=r"no thresholds give a precision of 0\.95"):
        calibrated()
    with pytest.raises(AuditError, match="at_iou must be above 0"):
        calibrated("--at-iou", "75")
    assert made.catalog.models.get("lite").card == kept
