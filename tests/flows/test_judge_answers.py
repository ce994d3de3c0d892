"""A few-shot judge of models' labels, and of whether an image lacks masks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.core.categories import Category, CategoryList
from engine.core.overlay import draw_masks
from engine.core.records import Mask, Provenance, Source, Stage
from engine.semantics.mask_pictures import outlined
from flows.cli.judge import print_answers
from flows.data.ingest import ingest_folder
from flows.encoders.load import mask_encoder
from flows.review import missing_judge
from flows.review.few_shot_judge import SIDE, JudgeError
from flows.review.judge_calibration import calibrate_judge
from flows.review.label_judge import judge_labels
from flows.review.missing_judge import judge_missing
from flows.review.review import finish_if_submitted
from flows.semantics.vectors import vector_files
from flows.training.training_set import MaskSource
from flows.workspace.settings import FILE_NAME
from flows.workspace.workspace import Workspace, open_workspace
from storage.catalog import (
    AnnotatorKind,
    Label,
    LabelSource,
    NewLabel,
    NewTask,
    RunKind,
    TaskKind,
    TaskResult,
    VerdictKind,
    new_id,
)
from storage.masks import write_parquet
from storage.vectors import MaskVectors
from tests.chat_server import ChatServer, asked_in, chatting, pictures_in, said
from tests.flows.conftest import make_workspace
from tests.flows.test_verifier import command
from tests.flows.test_verifier import judge as verdicts_of_ada
from tests.labelled_folders import write_pictures
from tests.labelled_shapes import SHAPES, Thing, draw_picture

pytestmark = pytest.mark.usefixtures("prefect_server")

IMAGES, DONE = 48, 40
"""Images, and how many of them people have worked on."""
PRECISION = 0.8
NAMES = list(SHAPES)


def things_of(workspace: Workspace, image_id: int) -> tuple[Thing, ...]:
    name = workspace.catalog.images.get(image_id).file_name
    return draw_picture(int(Path(name).stem)).things


def lacks_one(image_id: int) -> bool:
    """Whether the last object of an image has no mask."""
    return image_id % 2 == 0


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with masks of objects, and a vector of each."""
    root = tmp_path_factory.mktemp("judged")
    workspace = make_workspace(root / "ws")
    ingest_folder(workspace, "d", write_pictures(root / "pictures", range(IMAGES)), held_out=0.0)
    origin = Provenance(
        dataset="d",
        stage=Stage.FULLY_AUTOMATIC,
        run_id="made",
        model="lite",
        source=Source.AUTOMATIC,
    )
    masks = [
        origin.mask(image_id, str(number), thing.rle, predicted_iou=0.9)
        for image_id in workspace.catalog.images.ids(1)
        for number, thing in enumerate(things_of(workspace, image_id))
        if number < 3 or not lacks_one(image_id)
    ]
    workspace.masks.commit(masks, run_id="made", shard=0)
    give_vectors(workspace, masks)
    return root / "ws"


def give_vectors(workspace: Workspace, masks: list[Mask]) -> None:
    """Store random vectors of masks, which the encoder need not make then."""
    version = mask_encoder(workspace, "lite").version
    run_id, config = new_id(), {"encoder": version, "name": "lite"}
    workspace.catalog.runs.start(run_id, RunKind.VECTORS, dataset_id=1, config=config)
    vectors = np.random.default_rng(0).normal(size=(len(masks), 8)).astype(np.float16)
    images = np.array([mask.image_id for mask in masks])
    names = pa.array([mask.mask_id for mask in masks])
    vector_files(workspace).write(run_id, 0, MaskVectors(names, images, vectors))
    workspace.catalog.runs.finish(run_id)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chatting(str) as running:
        yield running


@pytest.fixture
def made(template: Path, tmp_path: Path, server: ChatServer) -> Workspace:
    """A copy of the template with a language model."""
    shutil.copytree(template, tmp_path / "ws")
    file = tmp_path / "ws" / FILE_NAME
    file.write_text(f'llm_url = "{server.url}"\nllm_model = "sees"\n{file.read_text()}')
    return open_workspace(str(tmp_path / "ws"))


def masks_of(workspace: Workspace) -> list[Mask]:
    return list(workspace.masks.masks(run_id="made"))


def yes_or_no(yes: bool) -> dict[str, Any]:
    return said("yes" if yes else "no", {"yes": -0.1 if yes else -3, "no": -3 if yes else -0.1})


def calibrate(workspace: Workspace, about: str) -> Any:
    root = str(workspace.settings.root)
    return calibrate_judge(root, "d", PRECISION, 30, 100, {"shots": 2}, about)


def done_first(workspace: Workspace) -> set[int]:
    """The images that people have worked on."""
    return set(list(workspace.catalog.images.ids(1))[:DONE])


def label(workspace: Workspace, masks: list[Mask], shapes: list[str], **given: Any) -> None:
    labels = [
        NewLabel(
            mask_id=mask.mask_id,
            image_id=mask.image_id,
            category_id=NAMES.index(shape) + 1,
            **given,
        )
        for mask, shape in zip(masks, shapes, strict=True)
    ]
    workspace.catalog.labels.add_many(1, labels)


@pytest.fixture
def labelled(made: Workspace, server: ChatServer) -> dict[str, str]:
    """Labels by a model, a third of which are wrong; a person has confirmed or changed those of the
    first images. The language model sees the shape. Returns the true shape by mask."""
    listed = CategoryList(categories=tuple(Category(id=n, name=w) for n, w in enumerate(NAMES, 1)))
    made.catalog.categories.set(1, listed, expected_version=0)
    masks, truth, seen = masks_of(made), dict[str, str](), dict[bytes, str]()
    for mask in masks:
        pixels = made.pixels(made.catalog.images.get(mask.image_id))
        shape = things_of(made, mask.image_id)[int(mask.mask_id[-1])].shape
        truth[mask.mask_id] = seen[outlined(pixels, [mask.rle], SIDE)[0].tobytes()] = shape
    proposed = [
        NAMES[(NAMES.index(truth[mask.mask_id]) + (number % 3 == 0)) % len(NAMES)]
        for number, mask in enumerate(masks)
    ]
    label(made, masks, proposed, source=LabelSource.MODEL, model="suggester-1", score=0.7)
    ada = made.catalog.annotators.get_or_create("ada", role="reviewer")
    mine = [mask for mask in masks if mask.image_id in done_first(made)]
    shapes = [truth[mask.mask_id] for mask in mine]
    label(made, mine, shapes, source=LabelSource.ANNOTATOR, annotator_id=ada.id)

    def reply(body: dict[str, Any]) -> dict[str, Any]:
        shape = seen[pictures_in(body)[-1].tobytes()]
        return yes_or_no(f"Is this a {shape}? Answer" in asked_in(body))

    server.reply = reply
    return truth


def is_left(label: Label) -> bool:
    """Whether no person has looked at the label."""
    return label.source == LabelSource.MODEL


def test_a_judge_of_labels_confirms_those_it_is_sure_of_and_people_decide_the_rest(
    made: Workspace,
    server: ChatServer,
    labelled: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(made.settings.root)
    root, chosen = str(made.settings.root), {"shots": 2}
    with pytest.raises(JudgeError, match=r"is off: .* run `dataengine review judge --labels"):
        judge_labels(root, "d", PRECISION, options=chosen)
    result = calibrate(made, "labels")
    assert result["on"], result["reason"]
    assert result["accuracy"] == 1.0
    question = asked_in(server.requests[-1]).split("\n")
    assert len(pictures_in(server.requests[-1])) == 3
    assert len({line.partition("?")[0] for line in question[1:]}) == 1, (
        "one category is asked about"
    )
    assert {line.split("? ")[1].split()[0] for line in question[1:3]} == {"yes", "no"}
    before = made.catalog.labels.current(labelled)
    asked = ("--dataset", "d", "--precision", str(PRECISION), "--shots", "2")
    planned = command("review", "judge", "--labels", "--dry-run", *asked)
    assert made.catalog.labels.current(labelled) == before
    done = judge_labels(root, "d", PRECISION, options=chosen)
    assert {**done, "review_run": None, "dry_run": True} == {**planned, "review_run": None}
    print_answers(done, dry_run=False)
    told = capsys.readouterr().out
    assert f"{done['passed'] / len([*filter(is_left, before.values())]):.0%} of the labels" in told
    after = made.catalog.labels.current(labelled)
    judge = made.catalog.annotators.find(done["verifier"])
    assert judge is not None
    assert judge.kind == AnnotatorKind.MODEL
    confirmed = {name for name, one in after.items() if one.annotator_id == judge.id}
    assert len(confirmed) == done["passed"] > 0
    assert all(after[one].source == LabelSource.MODEL for one in confirmed)
    assert all(NAMES[int(after[one].category_id or 0) - 1] == labelled[one] for one in confirmed)
    assert all(after[name] == one for name, one in before.items() if not is_left(one))
    tasks = made.queue.of_run(done["review_run"])
    sent = {name for task in tasks for name in task.payload["labels_asked"]}
    assert sent == {name for name, one in before.items() if is_left(one)} - confirmed
    assert sum(len(task.payload["doubted"]) for task in tasks) == done["dropped"] > 0
    name = min(confirmed)
    proposal = NewLabel(
        mask_id=name,
        image_id=after[name].image_id,
        category_id=None,
        source=LabelSource.MODEL,
        model="suggester-2",
    )
    assert made.catalog.labels.add_many(1, [proposal]) == 0, "a confirmed label stays"
    requests = len(server.requests)
    again = judge_labels(root, "d", PRECISION, options=chosen)
    assert (again["passed"], again["asked"], len(server.requests)) == (0, 0, requests)


def complete(workspace: Workspace) -> None:
    """Ada sees the masks of the first images, and adds an object where one is missing."""
    run_id = new_id()
    config = {"stage": str(Stage.SEMI_AUTOMATIC)}
    workspace.catalog.runs.start(run_id, RunKind.REVIEW, dataset_id=1, model="lite", config=config)
    ids: dict[int, list[str]] = {}
    for mask in masks_of(workspace):
        ids.setdefault(mask.image_id, []).append(mask.mask_id)
    workspace.queue.add(
        [
            NewTask(
                dataset_id=1,
                image_id=image_id,
                kind=TaskKind.COMPLETE,
                run_id=run_id,
                payload={"mask_ids": ids[image_id]},
            )
            for image_id in sorted(done_first(workspace))
        ]
    )
    ada = workspace.catalog.annotators.get_or_create("ada", role="reviewer")
    origin = Provenance(
        dataset="d",
        stage=Stage.SEMI_AUTOMATIC,
        run_id=run_id,
        model="lite",
        source=Source.ANNOTATOR,
        annotator="ada",
    )
    while task := workspace.queue.lease(ada.id, kinds=[TaskKind.COMPLETE], run_id=run_id):
        first, *_, last = things_of(workspace, task.image_id)
        drawn = origin.mask(task.image_id, "last", last.rle)
        corrected = origin.mask(task.image_id, "again", first.rle)  # adds no object
        made = [drawn if lacks_one(task.image_id) else corrected]
        key = f"annotations/{run_id}/{task.id}-1.parquet"
        workspace.objects.put(key, write_parquet(made))
        workspace.queue.submit(task.id, str(task.lease_id), key, TaskResult(made=1, prefilled=3))
    finish_if_submitted(workspace, run_id)
    give_vectors(workspace, list(workspace.masks.masks(run_id=run_id)))


def test_a_judge_of_missing_objects_marks_complete_images_and_sends_the_others_to_annotators(
    made: Workspace, server: ChatServer
) -> None:
    seen: dict[bytes, bool] = {}
    by_image: dict[int, list[Mask]] = {}
    for mask in masks_of(made):
        by_image.setdefault(mask.image_id, []).append(mask)
    for image_id, masks in by_image.items():
        pixels = made.pixels(made.catalog.images.get(image_id))
        picture = draw_masks(
            pixels,
            [mask.rle for mask in masks],
            max_side=missing_judge.SIDE,
            alpha=missing_judge.FILLING,
        )
        seen[picture.tobytes()] = lacks_one(image_id)
    server.reply = lambda body: yes_or_no(seen[pictures_in(body)[-1].tobytes()])
    root, chosen = str(made.settings.root), {"shots": 2}
    with pytest.raises(JudgeError, match="people have completed 0 images"):
        calibrate(made, "missing")
    complete(made)
    result = calibrate(made, "missing")
    assert result["on"], result["reason"]
    assert result["accuracy"] == 1.0, "a corrected mask is no missing object"
    assert "Is any object missing? yes (1 is)" in asked_in(server.requests[-1])
    left = set(by_image) - done_first(made)
    planned = judge_missing(root, "d", PRECISION, True, chosen)
    assert made.catalog.images.complete_ids(1) == set()
    done = judge_missing(root, "d", PRECISION, options=chosen)
    assert {**done, "review_run": None} == {**planned, "review_run": None}
    whole = made.catalog.images.complete_ids(1)
    tasks = {task.image_id: task for task in made.queue.of_run(done["review_run"])}
    assert whole == {one for one in left if not lacks_one(one)}
    assert set(tasks) == left - whole
    assert {task.kind for task in tasks.values()} == {TaskKind.COMPLETE}
    assert done["passed"] == sum(task.priority for task in tasks.values()) > 0
    requests = len(server.requests)
    again = judge_missing(root, "d", PRECISION, options=chosen)
    assert (again["dropped"], len(server.requests)) == (0, requests), "nothing is asked twice"
    _trains_on_complete_images(made, min(whole), by_image[min(whole)])


def _trains_on_complete_images(workspace: Workspace, image_id: int, masks: list[Mask]) -> None:
    """An image that the judge holds for complete counts as such once its masks are trained on."""

    def counted() -> int:
        source = MaskSource(workspace, workspace.catalog.datasets.get("d"), None, None)
        return int(source.counts()["complete_images"])

    before = counted()
    verdicts_of_ada(workspace, masks[:1], lambda name: VerdictKind.ACCEPT)
    assert counted() == before
    verdicts_of_ada(workspace, masks[1:], lambda name: VerdictKind.ACCEPT)
    assert counted() == before + 1
