"""Near-duplicates: ingest finds them, they are on one side of the split, and people annotate one
of them."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs
from sqlalchemy import update

from flows.cli.tables import print_near_duplicates
from flows.data.ingest import ingest_folder
from flows.data.inputs import IngestReport
from flows.loop.data_engine import LoopPlan
from flows.operations.dashboard import WorkspaceReports
from flows.operations.status import round_rows, status_of
from flows.stages.rounds import NoImagesError, context_of, open_round
from flows.workspace import progress
from flows.workspace.settings import FILE_NAME
from flows.workspace.workspace import Workspace, open_workspace
from storage.catalog import Round, Split, TaskKind, TaskResult
from storage.catalog.erasing import forget_images
from storage.catalog.tables import ImageRow

NAMES = ("astronaut", "coffee", "chelsea", "page")


def picture(name: str) -> Image.Image:
    pixels = getattr(photographs, name)()
    return Image.fromarray(pixels).convert("RGB").resize((320, 240))


def copy_of(name: str, quality: int = 60, size: tuple[int, int] = (240, 180)) -> bytes:
    buffer = BytesIO()
    picture(name).resize(size).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four photographs and smaller copies of two of them, in this order."""
    made = tmp_path / "photos"
    made.mkdir()
    for name in NAMES:
        picture(name).save(made / f"{name}.png")
    for name in NAMES[:2]:
        (made / f"{name}-small.jpg").write_bytes(copy_of(name))
    return made


def by_name(workspace: Workspace) -> dict[str, int]:
    return {image.file_name: image.id for image in workspace.catalog.images.page(1)}


def ingested(workspace: Workspace, folder: Path, held_out: float = 0.0) -> IngestReport:
    return ingest_folder(workspace, "d", folder, held_out=held_out)


def opened(workspace: Workspace, images: int, *, new: bool = False) -> list[Round]:
    """The rounds of a loop of people, of which the first is opened."""
    plan = LoopPlan(
        assisted_manual=2,
        semi_automatic=0,
        fully_automatic=1,
        images_per_round=images,
        automatic_images=9,
        annotator="people",
    )
    loop = workspace.catalog.loops.start_or_resume(1, plan.rounds(), new=new)
    open_round(workspace, workspace.catalog.rounds.for_loop(loop.id)[0])
    return workspace.catalog.rounds.for_loop(loop.id)


def annotate(workspace: Workspace, row: Round) -> None:
    """Submit each of the round's images, and finish its run."""
    context = context_of(workspace, row)
    ids = workspace.catalog.rounds.image_ids(row.id)
    workspace.queue.add([context.task(TaskKind.ANNOTATE, image_id) for image_id in ids])
    ada = workspace.catalog.annotators.get_or_create("ada")
    while (task := workspace.queue.lease(ada.id, kinds=[TaskKind.ANNOTATE])) is not None:
        workspace.queue.submit(task.id, str(task.lease_id), "key", TaskResult(seconds=1.0))
    workspace.catalog.runs.finish(context.run_id, {})


def names_in(workspace: Workspace, row: Round) -> set[str]:
    ids = workspace.catalog.rounds.image_ids(row.id)
    return {image.file_name for image in workspace.catalog.images.get_many(ids)}


def test_ingest_finds_near_duplicates_and_names_them(
    workspace: Workspace, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = ingested(workspace, folder)
    assert (report.added, report.near_duplicates) == (6, 2)
    assert {frozenset(pair.values()) for pair in report.near_pairs} == {
        frozenset({f"{name}.png", f"{name}-small.jpg"}) for name in NAMES[:2]
    }
    assert report.problems == []
    print_near_duplicates(report.near_duplicates, report.near_pairs)
    assert "2 near-duplicates are not annotated twice" in capsys.readouterr().out
    assert ingested(workspace, folder).near_duplicates == 0  # they are known
    assert status_of(workspace)["datasets"]["d"]["near_duplicates"] == 2
    (row,) = WorkspaceReports(workspace).overview()["datasets"]
    assert row["near_duplicates"] == 2


def test_one_colour_images_are_no_near_duplicates(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for level in (250, 252, 255):
        Image.new("RGB", (80, 60), (level,) * 3).save(tmp_path / "in" / f"{level}.png")
    assert ingested(workspace, tmp_path / "in").near_duplicates == 0
    assert workspace.catalog.images.near_duplicates(1) == {}


@pytest.mark.parametrize("together", [True, False])
def test_near_duplicates_are_on_one_side_of_the_split(
    workspace: Workspace, folder: Path, tmp_path: Path, together: bool
) -> None:
    """In one ingest or in two, whatever the content of the copies would decide."""
    later = folder if together else tmp_path / "later"
    later.mkdir(exist_ok=True)
    if not together:
        ingested(workspace, folder, held_out=0.5)
    for number in range(12):
        (later / f"z-{number:02d}.jpg").write_bytes(copy_of("chelsea", quality=50 + 3 * number))
    ingested(workspace, later, held_out=0.5)
    images = {image.file_name: image for image in workspace.catalog.images.page(1)}
    copies = [image for name, image in images.items() if name.startswith("z-")]
    assert len(copies) == 12
    assert {image.split for image in copies} == {images["chelsea.png"].split}
    assert {image.near_image_id for image in copies} == {images["chelsea.png"].id}
    assert images["coffee.png"].near_image_id in (None, images["coffee-small.jpg"].id)


def test_a_near_duplicate_is_not_annotated_twice(workspace: Workspace, folder: Path) -> None:
    ingested(workspace, folder)
    first, second, automatic = opened(workspace, images=3)
    kinds = {name.split("-")[0].split(".")[0] for name in names_in(workspace, first)}
    assert len(kinds) == len(names_in(workspace, first)) == 3
    annotate(workspace, first)
    second = open_round(workspace, second)
    assert names_in(workspace, second) == {"page.png"}
    rows = round_rows(workspace, first.loop_id)
    assert [row["near_duplicates_skipped"] for row in rows[:2]] == [2, 2]
    assert "2 near-duplicates are skipped, because a similar image" in rows[1]["chosen"]
    (loop,) = WorkspaceReports(workspace).overview()["loops"]
    assert loop["rounds"][1]["chosen"] == rows[1]["chosen"]
    automatic = open_round(workspace, automatic)
    assert names_in(workspace, automatic) == set(by_name(workspace))  # the model makes all masks


def test_a_setting_has_near_duplicates_annotated_too(tmp_path: Path, folder: Path) -> None:
    root = tmp_path / "all"
    root.mkdir()
    (root / FILE_NAME).write_text("[rounds]\nskip_near_duplicates = false\n")
    workspace = open_workspace(str(root))
    workspace.prepare()
    ingested(workspace, folder)
    first, _, _ = opened(workspace, images=9)
    assert names_in(workspace, first) == set(by_name(workspace))


def test_a_round_whose_images_are_all_near_duplicates_says_so(
    workspace: Workspace, folder: Path
) -> None:
    ingested(workspace, folder)
    first, second, _ = opened(workspace, images=9)
    with pytest.raises(NoImagesError, match="2 near-duplicates are skipped"):
        open_round(workspace, second)
    assert len(names_in(workspace, first)) == 4


def test_another_loop_may_annotate_an_image_again_but_not_its_near_duplicate(
    workspace: Workspace, folder: Path
) -> None:
    ingested(workspace, folder)
    rows = opened(workspace, images=9)
    annotate(workspace, rows[0])
    workspace.catalog.loops.finish(rows[0].loop_id)
    again = opened(workspace, images=9, new=True)
    assert again[0].loop_id != rows[0].loop_id
    assert names_in(workspace, again[0]) == names_in(workspace, rows[0])


def test_an_opened_round_keeps_its_images_and_reason(workspace: Workspace, folder: Path) -> None:
    ingested(workspace, folder)
    plan = LoopPlan(assisted_manual=1, semi_automatic=0, images_per_round=2, annotator="people")
    loop = workspace.catalog.loops.start_or_resume(1, plan.rounds())
    row = workspace.catalog.rounds.for_loop(loop.id)[0]
    workspace.catalog.rounds.assign_images(row.id, [2, 5], {"chosen": "before"})
    assert workspace.catalog.rounds.image_ids(open_round(workspace, row).id) == [2, 5]
    assert round_rows(workspace, loop.id)[0]["chosen"] == "before"


def test_images_of_an_older_catalog_are_compared_when_they_are_ingested_again(
    workspace: Workspace, folder: Path
) -> None:
    ingested(workspace, folder, held_out=0.5)
    empty = dict.fromkeys(("perceptual_hash", "colours", "near_image_id"))
    held_out = by_name(workspace)["astronaut-small.jpg"]
    with workspace.catalog.engine.execution_options(writes=True).begin() as connection:
        connection.execute(update(ImageRow).values(**empty, split=Split.TRAIN))
        connection.execute(
            update(ImageRow).where(ImageRow.id == held_out).values(split=Split.HELD_OUT)
        )
    opened(workspace, images=9)  # images that were never compared are all different
    report = ingested(workspace, folder, held_out=0.5)
    assert (report.added, report.near_duplicates) == (0, 2)
    images = {image.file_name: image for image in workspace.catalog.images.page(1)}
    assert len(workspace.catalog.images.near_duplicates(1)) == 2
    assert images["astronaut-small.jpg"].split == Split.HELD_OUT  # as before
    assert images["astronaut.png"].split == Split.TRAIN


def test_the_next_image_stands_for_a_first_one_that_was_erased(
    workspace: Workspace, folder: Path
) -> None:
    ingested(workspace, folder)
    near = workspace.catalog.images.near_duplicates(1)
    (repeat, first) = next(iter(near.items()))
    name = workspace.catalog.images.get(repeat).file_name.split("-")[0].split(".")[0]
    forget_images(workspace.catalog, [first], [], [])
    (folder / "more.jpg").write_bytes(copy_of(name, quality=80))
    for path in folder.glob(f"{name}*"):
        path.unlink()
    assert ingested(workspace, folder).near_pairs == [
        {"name": "more.jpg", "other": workspace.catalog.images.get(repeat).file_name}
    ]
    more = workspace.catalog.images.get(by_name(workspace)["more.jpg"])
    assert more.near_image_id == first  # the group keeps its number


def test_a_stored_image_that_is_damaged_or_lost_is_near_to_none(
    workspace: Workspace, folder: Path
) -> None:
    ingested(workspace, folder)
    store = workspace.settings.root / "store"
    images = {image.file_name: image for image in workspace.catalog.images.page(1)}
    (store / images["chelsea.png"].key).write_bytes(b"no image")
    (store / images["page.png"].key).unlink()
    (folder / "z-1.jpg").write_bytes(copy_of("chelsea"))
    (folder / "z-2.jpg").write_bytes(copy_of("page"))
    for name in ("chelsea.png", "page.png"):
        (folder / name).unlink()
    report = ingested(workspace, folder)
    assert (report.added, report.quarantined, report.near_duplicates) == (2, 0, 0)


def test_a_slow_change_makes_no_chain_of_near_duplicates(
    workspace: Workspace, tmp_path: Path
) -> None:
    """Each frame is near the one before; only those near the first are its near-duplicates."""
    (tmp_path / "in").mkdir()
    wide = np.array(picture("coffee").resize((600, 400)))
    for number in range(12):
        frame = wide[::2, 8 * number : 8 * number + 400 : 2]
        Image.fromarray(frame).save(tmp_path / "in" / f"{number:02d}.png")
    ingested(workspace, tmp_path / "in")
    near = workspace.catalog.images.near_duplicates(1)
    assert 0 < len(near) < 11
    assert len(set(near.values())) > 1
    assert not set(near) & set(near.values())


def test_the_reason_is_told_when_the_round_is_opened(
    workspace: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingested(workspace, folder)
    told: list[str] = []
    say: Callable[..., None] = lambda self, text: told.append(text)  # noqa: E731
    monkeypatch.setattr(type(progress.current()), "say", say)
    opened(workspace, images=3)
    assert told == [
        "3 images: in order of ingest; 2 near-duplicates are skipped, because a similar image is "
        "annotated or in this round"
    ]
