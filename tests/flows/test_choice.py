"""How the images of a round are chosen, and that the choice is told and kept."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from engine.core import rle as rle_codec
from engine.core.records import Mask, Source, Stage
from flows.data.ingest import ingest_folder
from flows.loop.data_engine import LoopPlan
from flows.loop.plan import PlanOptions, loop_plan, options_of
from flows.operations.status import round_rows
from flows.stages.disagreement import automatic_scores
from flows.stages.rounds import open_round
from flows.workspace.settings import FILE_NAME, load_settings
from flows.workspace.workspace import Workspace
from storage.catalog import LoopConflictError, PlannedRound
from storage.formats.images import write_png

COLOURS = [(220, 30, 30), (30, 200, 30), (30, 30, 220)]
"""Of three groups of four images each, in order of ingest."""


@pytest.fixture
def workspace(workspace: Workspace, tmp_path: Path) -> Workspace:
    """Twelve images without near-duplicates; their ids follow their contents, not their names."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        image = np.kron(rng.integers(0, 30, (6, 8, 1)), np.ones((16, 16, 3)))
        (folder / f"{number:02d}.png").write_bytes(
            write_png((image + COLOURS[number // 4]).astype(np.uint8))
        )
    assert ingest_folder(workspace, "d", folder, held_out=0.0).near_duplicates == 0
    return workspace


def numbers(workspace: Workspace, ids: list[int]) -> list[int]:
    """The numbers in the names of the images."""
    return sorted(int(i.file_name[:2]) for i in workspace.catalog.images.get_many(ids))


def ids_of(workspace: Workspace) -> list[int]:
    """The ids by the number in the name."""
    images = workspace.catalog.images.page(1)
    return [image.id for image in sorted(images, key=lambda image: image.file_name)]


def chosen(workspace: Workspace, choice: str, images: int = 3) -> tuple[list[int], str]:
    """The numbers of the images of a new round, and the reason that is told."""
    plan = LoopPlan(
        assisted_manual=1,
        semi_automatic=0,
        images_per_round=images,
        annotator="people",
        choice=choice,
    )
    loop = workspace.catalog.loops.start_or_resume(1, plan.rounds(), new=True)
    row = open_round(workspace, workspace.catalog.rounds.for_loop(loop.id)[0])
    found = numbers(workspace, workspace.catalog.rounds.image_ids(row.id))
    return found, str(round_rows(workspace, loop.id)[0]["chosen"])


def score(workspace: Workspace, scores: dict[int, tuple[float, float]]) -> None:
    """Automatic masks with these predicted IoU and stability, by the images' numbers."""
    rle = rle_codec.encode(np.ones((96, 128), bool))
    ids = ids_of(workspace)
    masks = [
        Mask(
            mask_id=f"made/{ids[number]}/0",
            image_id=ids[number],
            dataset="d",
            stage=Stage.FULLY_AUTOMATIC,
            round=1,
            run_id="made",
            shard=0,
            model="lite",
            source=Source.AUTOMATIC,
            rle=rle,
            area=rle_codec.area(rle),
            box_xyxy=rle_codec.box_xyxy(rle),
            predicted_iou=iou,
            stability_score=stability,
            created_at=datetime.now(UTC),
        )
        for number, (iou, stability) in scores.items()
    ]
    workspace.masks.commit(masks, run_id="made", shard=0)


def test_random_is_the_order_of_ingest(workspace: Workspace) -> None:
    score(workspace, {11: (0.1, 0.1)})
    found, why = chosen(workspace, "random", 5)
    first = [image.id for image in workspace.catalog.images.page(1)][:5]
    assert found == numbers(workspace, first)
    assert why == "5 images: in order of ingest"


def test_disagreement_takes_the_lowest_scores_first(workspace: Workspace) -> None:
    score(workspace, {2: (0.9, 0.9), 7: (0.95, 0.3), 9: (0.4, 0.9), 4: (0.99, 0.98)})
    scores = automatic_scores(workspace, "d")
    assert [round(scores[ids_of(workspace)[n]], 2) for n in (2, 7, 9)] == [0.9, 0.3, 0.4]
    found, why = chosen(workspace, "disagreement")
    assert found == [2, 7, 9]
    assert "lowest scores (3 of 3 have some)" in why


def test_disagreement_without_scores_is_the_order_of_ingest(workspace: Workspace) -> None:
    found, why = chosen(workspace, "disagreement")
    first = [image.id for image in workspace.catalog.images.page(1)][:3]
    assert found == numbers(workspace, first)
    assert "(0 of 3 have some)" in why


def test_diversity_takes_one_image_of_each_kind(workspace: Workspace) -> None:
    found, why = chosen(workspace, "diversity")
    assert [number // 4 for number in found] == [0, 1, 2]
    assert "look least like the annotated images" in why


def test_diversity_starts_from_the_images_of_earlier_rounds(workspace: Workspace) -> None:
    plan = [
        PlannedRound(
            stage=Stage.ASSISTED_MANUAL, images=number, annotator="people", choice="diversity"
        )
        for number in (4, 2)
    ]
    loop = workspace.catalog.loops.start_or_resume(1, plan)
    first, second = workspace.catalog.rounds.for_loop(loop.id)
    workspace.catalog.rounds.assign_images(first.id, ids_of(workspace)[:4])
    row = open_round(workspace, second)
    found = numbers(workspace, workspace.catalog.rounds.image_ids(row.id))
    assert [number // 4 for number in found] == [1, 2]


def test_mix_takes_half_by_each(workspace: Workspace) -> None:
    score(workspace, {0: (0.2, 0.9), 1: (0.3, 0.9), 8: (0.9, 0.9)})
    found, why = chosen(workspace, "mix", 4)
    assert found[:2] == [0, 1]
    assert [number // 4 for number in found[2:]] == [1, 2]  # unlike those two, and each other
    assert "half those whose automatic masks" in why


def test_a_choice_takes_all_images_if_the_round_has_room(workspace: Workspace) -> None:
    for choice in ("disagreement", "diversity", "mix"):
        assert chosen(workspace, choice, 20)[0] == list(range(12))
        loop = workspace.catalog.loops.latest(1)
        assert loop is not None
        workspace.catalog.loops.finish(loop.id)


def test_the_setting_is_the_default_of_a_new_loop_and_a_loop_keeps_its_choice(
    workspace: Workspace,
) -> None:
    path = workspace.settings.root / FILE_NAME
    path.write_text(path.read_text() + '[rounds]\nchoice = "mix"\n')
    changed = Workspace(load_settings(workspace.settings.root))
    plan = loop_plan(changed, "d", PlanOptions(annotator="people"))
    assert options_of(plan).choice == "mix"
    assert plan[-1].choice == "random"  # the model makes masks of all images
    given = loop_plan(changed, "d", PlanOptions(choice="diversity"))
    changed.catalog.loops.start_or_resume(1, given)
    assert loop_plan(changed, "d", PlanOptions()) == given
    with pytest.raises(LoopConflictError, match="look least like the annotated ones"):
        loop_plan(changed, "d", PlanOptions(choice="random"))
