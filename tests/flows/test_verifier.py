"""A verifier learns from people's verdicts, and judges the masks that it is sure of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from engine.annotation.embeddings import embedding_key, make_embedding
from engine.annotation.errors import RefusedError
from engine.core.records import Mask, Provenance, Source, Stage
from engine.core.rle import decode, encode
from engine.verifier.learning import TooFewVerdictsError
from flows.cli.main import app
from flows.cli.verifier import print_route, print_training
from flows.data.ingest import ingest_folder
from flows.page.actions import WorkspaceActions
from flows.release.freeze import needed_files
from flows.release.release import release
from flows.release.rules import Options, Rules
from flows.release.selection import current_verifier_version
from flows.review.review import finish_review, queue_review, start_review
from flows.review.route_options import RouteError, RouteOptions
from flows.review.verifier_routing import route_dataset
from flows.review.verifier_training import NoVerifierError, run_training
from flows.workspace.settings import FILE_NAME
from flows.workspace.workspace import Workspace, open_workspace
from storage.catalog import (
    AnnotatorKind,
    ModelKind,
    ModelState,
    TaskKind,
    TaskResult,
    TaskVerdict,
    VerdictKind,
    new_id,
)
from storage.masks import write_parquet
from tests.flows.conftest import make_workspace, write_scenes

JUDGED_IMAGES = 8


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose dataset `d` has, for each object, an exact mask and one that is much too
    small, with equal scores; the embeddings are stored."""
    root = tmp_path_factory.mktemp("verifier")
    workspace = make_workspace(root / "ws")
    folder = write_scenes(root / "scenes", 12)
    ingest_folder(workspace, "d", folder, folder / "instances.json", held_out=0.0)
    ingest_folder(workspace, "bare", write_scenes(root / "more", 1), held_out=0.0)
    origin = Provenance(
        dataset="d",
        stage=Stage.FULLY_AUTOMATIC,
        run_id="made",
        model="lite",
        source=Source.AUTOMATIC,
    )
    masks, rng = [], np.random.default_rng(0)
    for image_id, truths in workspace.truths_of(list(workspace.catalog.images.ids(1))).items():
        image = workspace.catalog.images.get(image_id)
        key = embedding_key("lite", image_id)
        make_embedding(workspace.objects, workspace.segmenter(), key, workspace.pixels(image))
        for number, rle in enumerate(truths):
            for name, shown in ((f"good{number}", decode(rle)), (f"bad{number}", small(rle))):
                if shown.any():
                    score = float(rng.uniform(0.5, 0.9))
                    masks.append(origin.mask(image_id, name, encode(shown), predicted_iou=score))
    workspace.masks.commit(masks, run_id="made", shard=0)
    return root / "ws"


def small(rle: Any) -> np.ndarray:
    """A mask's inner half."""
    shown = decode(rle)
    inside = cv2.distanceTransform(shown.astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(shown & (inside > np.quantile(inside[shown], 0.5)))


@pytest.fixture
def made(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy of the template as the current folder."""
    shutil.copytree(template, tmp_path / "ws")
    workspace = open_workspace(str(tmp_path / "ws"))
    assert (workspace.settings.root / FILE_NAME).exists()
    monkeypatch.chdir(workspace.settings.root)
    return workspace


def automatic(workspace: Workspace) -> list[Mask]:
    return list(workspace.masks.masks(run_id="made"))


def is_good(mask_id: str) -> bool:
    return mask_id.rsplit("/", 1)[1].startswith("good")


def judge(workspace: Workspace, masks: list[Mask], verdict_of: Any = None) -> None:
    """Ada judges these masks: she accepts exact ones and rejects the others."""
    context = start_review(workspace, "d", new_id())
    sample: dict[int, list[Mask]] = {}
    for mask in masks:
        sample.setdefault(mask.image_id, []).append(mask)
    queue_review(workspace, context, sample)
    ada = workspace.catalog.annotators.get_or_create("ada", role="reviewer")
    answer(workspace, context.run_id, ada.id, verdict_of)
    finish_review(workspace, context)
    workspace.catalog.runs.finish(context.run_id)


def answer(workspace: Workspace, run_id: str, annotator_id: int, verdict_of: Any = None) -> None:
    def exact(name: str) -> VerdictKind:
        return VerdictKind.ACCEPT if is_good(name) else VerdictKind.REJECT

    while task := workspace.queue.lease(annotator_id, kinds=[TaskKind.REVIEW], run_id=run_id):
        verdicts = tuple(
            TaskVerdict(mask_id=name, verdict=(verdict_of or exact)(name), seconds=1.0)
            for name in task.payload["mask_ids"]
        )
        key = f"annotations/{run_id}/{task.id}-1.parquet"
        workspace.objects.put(key, write_parquet([]))
        workspace.queue.submit(task.id, str(task.lease_id), key, TaskResult(verdicts=verdicts))


def judge_most(workspace: Workspace) -> set[int]:
    """Ada judges all masks of the first JUDGED_IMAGES images. Returns the other images."""
    ids = sorted({mask.image_id for mask in automatic(workspace)})
    first = set(ids[:JUDGED_IMAGES])
    judge(workspace, [mask for mask in automatic(workspace) if mask.image_id in first])
    return set(ids[JUDGED_IMAGES:])


def command(*arguments: str) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def train(workspace: Workspace) -> Any:
    dataset = workspace.catalog.datasets.get("d")
    return run_training(workspace, dataset, new_id()).to_json()


def route(workspace: Workspace, *, dry_run: bool = False, precision: float = 0.8) -> Any:
    options = RouteOptions(precision=precision)
    dataset = workspace.catalog.datasets.get("d")
    return route_dataset(workspace, dataset, options, dry_run=dry_run)


def _a_release_asks_it(workspace: Workspace) -> None:
    """Rules about the verifier's probability, and about accepts, leave the bad masks out."""
    released = {}
    for name, rules in (
        ("all", Rules(repeated_iou=1.0)),
        ("sure", Rules(repeated_iou=1.0, min_accept_probability=0.5)),
        ("accepted", Rules(repeated_iou=1.0, verdicts="accepted")),
    ):
        options = Options(rules=rules).as_json()
        release.fn(str(workspace.settings.root), "d", name, options)
        files = needed_files(workspace, workspace.catalog.releases.get(name))
        found = files.masks(["mask_id"], first=0, last=2**62)
        released[name] = set(found.column("mask_id").to_pylist())
        assert files.manifest.rules["verifier"] == (
            current_verifier_version(workspace) if name == "sure" else None
        )
    accepted = workspace.catalog.verdicts.accepted_mask_ids(1)
    assert released["accepted"] == released["all"] & accepted
    assert released["sure"] < released["all"]
    assert sum(map(is_good, released["sure"])) >= 0.8 * len(released["sure"])


@pytest.mark.usefixtures("prefect_server")
def test_a_trained_verifier_judges_what_it_is_sure_of_and_people_get_the_rest(
    made: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    others = judge_most(made)
    result = command("verifier", "train", "--dataset", "d")
    scores = result["scores"]
    assert result["promoted"], result["reason"]
    assert scores["cross_validated"]["auc"] > 0.9
    alone = scores["predicted IoU x stability alone"]
    assert scores["cross_validated"]["log_loss"] < alone["log_loss"] - 0.2

    planned = route(made, dry_run=True)
    assert not made.catalog.verdicts.asked_mask_ids(1) & ids_of(made, others)
    done = command("verifier", "route", "--dataset", "d", "--precision", "0.8")
    assert {**planned, "dry_run": False, "review_run": None} == {**done, "review_run": None}
    accepted = made.catalog.verdicts.accepted_mask_ids(1) & ids_of(made, others)
    rejected = made.catalog.verdicts.rejected_mask_ids(1) & ids_of(made, others)
    assert (len(accepted), len(rejected)) == (done["passed"], done["dropped"])
    assert accepted
    assert rejected
    assert sum(map(is_good, accepted)) >= 0.8 * len(accepted)
    assert sum(map(is_good, rejected)) <= 0.2 * len(rejected)
    _a_release_asks_it(made)
    asked = made.catalog.verdicts.waiting_mask_ids(1)
    assert len(asked) == done["asked"]
    assert accepted | rejected | asked == ids_of(made, others)
    print_training(result)
    print_route(planned, dry_run=True)
    told = capsys.readouterr().out
    assert f"{result['version']} is current: better" in told
    assert f"{done['saved']:.0%} of the masks would need no person" in told
    assert route(made)["saved"] is None  # nothing is left to route


def ids_of(workspace: Workspace, images: set[int]) -> set[str]:
    return {mask.mask_id for mask in automatic(workspace) if mask.image_id in images}


def test_the_verifiers_verdicts_are_a_models_and_train_nothing(made: Workspace) -> None:
    judge_most(made)
    first = train(made)
    assert route(made)["passed"]
    judges = [row for row in made.catalog.annotators.all() if row.kind == AnnotatorKind.MODEL]
    assert [row.name for row in judges] == [first["version"]]
    again = train(made)
    assert again["verdicts"] == first["verdicts"]
    assert not again["promoted"]
    assert "not better" in again["reason"]
    current = made.catalog.models.current(ModelKind.VERIFIER)
    assert current is not None
    assert current.version == first["version"]
    assert made.catalog.models.get(again["version"]).state == ModelState.CANDIDATE


def test_a_persons_verdict_wins_over_the_verifiers_before_and_after(made: Workspace) -> None:
    judge_most(made)
    train(made)
    before = made.catalog.verdicts.counts(1)
    route(made)
    mine = {row.mask_id for row in made.catalog.verdicts.of_people(1)}
    passed = sorted(made.catalog.verdicts.accepted_mask_ids(1) - mine)
    (mask,) = (row for row in automatic(made) if row.mask_id == passed[0])
    judge(made, [mask], lambda name: VerdictKind.REJECT)
    assert mask.mask_id in made.catalog.verdicts.rejected_mask_ids(1)
    command("models", "promote", train(made)["version"])  # judges the older version's masks again
    route(made)
    assert mask.mask_id in made.catalog.verdicts.rejected_mask_ids(1)
    assert made.catalog.verdicts.counts(1)[VerdictKind.ACCEPT] >= before[VerdictKind.ACCEPT]


def test_a_stopped_routing_continues_and_judges_no_mask_twice(
    made: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge_most(made)
    train(made)
    planned, calls, put = route(made, dry_run=True), [], made.queue.submit

    def stopped(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        if len(calls) == 3:
            raise OSError("disk full")
        return put(*given)

    monkeypatch.setattr(made.queue, "submit", stopped)
    for error in (KeyboardInterrupt, OSError):
        with pytest.raises(error):
            route(made)
        made.queue.expire(made.catalog.now().replace(year=2100))
    done = route(made)
    for name in ("passed", "dropped", "asked"):
        assert done[name] == planned[name]


def test_models_lists_verifiers_by_kind_and_rolls_them_back(made: Workspace) -> None:
    judge_most(made)
    first = train(made)["version"]
    assert [row["version"] for row in command("models")["models"]] == ["lite"]
    second = train(made)["version"]
    assert command("models", "promote", second)["replaced"] == first
    rows = command("models", "--kind", "verifier")["models"]
    states = {row["version"]: row["state"] for row in rows}
    assert states == {first: "retired", second: "current"}
    assert command("models", "rollback", "--kind", "verifier")["current"] == first
    assert made.current_model().version == "lite"


def test_wrong_use_says_what_to_do(made: Workspace) -> None:
    bare = made.catalog.datasets.get("bare")
    with pytest.raises(NoVerifierError, match="dataengine verifier train --dataset d"):
        route(made)
    with pytest.raises(TooFewVerdictsError, match="dataengine review --dataset d"):
        train(made)
    with pytest.raises(RouteError, match=r"95 percent is 0\.95"):
        RouteOptions(precision=95)
    ids = sorted({mask.image_id for mask in automatic(made)})
    judge(made, [mask for mask in automatic(made) if is_good(mask.mask_id)])
    with pytest.raises(TooFewVerdictsError, match="0 rejected or fixed"):
        train(made)
    bad = [mask for mask in automatic(made) if not is_good(mask.mask_id)]
    judge(made, [mask for mask in bad if mask.image_id in ids[:JUDGED_IMAGES]])
    train(made)
    with pytest.raises(TooFewVerdictsError, match="dataengine review --dataset bare"):
        route_dataset(made, bare, RouteOptions(precision=0.9))


def test_a_verifier_that_nothing_reaches_leaves_the_catalog_as_it_was(made: Workspace) -> None:
    judge_most(made)
    train(made)
    asked = made.catalog.verdicts.asked_mask_ids(1)
    with pytest.raises(RouteError, match="verdicts in all would be enough"):
        route(made, precision=0.9999)
    assert made.catalog.verdicts.asked_mask_ids(1) == asked
    assert made.catalog.models.current(ModelKind.VERIFIER) is not None


def test_the_dashboards_buttons_say_what_the_verifier_will_do(made: Workspace) -> None:
    actions = WorkspaceActions(made)
    assert "none is current yet" in actions.plan("verifier-route", {"dataset": "d"}).text
    judge_most(made)
    plan = actions.plan("verifier-train", {"dataset": "d"})
    assert f"{len(made.catalog.verdicts.of_people(1))} masks of d" in plan.text
    assert plan.command == "dataengine verifier train --dataset d"
    train(made)
    plan = actions.plan("verifier-route", {"dataset": "d", "precision": 0.9})
    assert "so that 90% of its verdicts are right" in plan.text
    assert plan.command == "dataengine verifier route --dataset d --precision 0.9"
    for wrong in (2, "much"):
        with pytest.raises(RefusedError, match="precision"):
            actions.plan("verifier-route", {"dataset": "d", "precision": wrong})
