"""Several people annotate an image; their masks are merged, and a reviewer settles disputes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.annotation.client import Client
from engine.annotation.schemas import NewVerdict
from engine.core import rle as rle_codec
from engine.core.records import Source
from flows.loop.data_engine import LoopPlan
from flows.operations.dashboard import WorkspaceReports
from flows.operations.doctor import check_workspace
from flows.operations.erase import erase
from flows.operations.status import status_of
from flows.stages.assisted_manual import run_assisted_manual
from flows.stages.copies import copy_run
from flows.stages.rounds import open_round
from flows.workspace import progress
from flows.workspace.settings import FILE_NAME, load_settings
from storage import erasures
from storage.catalog import Round, RunState, TaskKind, VerdictKind
from storage.catalog.thread_tables import ConsensusRow
from storage.task_copies import TaskCopies
from tests.annotation.site import Site, make_site
from tests.annotation.test_comments import arrived, finished
from tests.annotation.test_tasks import new_mask, square

REVIEW = [TaskKind.REVIEW]
QUALITY = "[quality]\nconsensus_share = 0.5\nconsensus_people = 3\nconsensus_agreement = 0.7\n"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Two images, of which one is for three people."""
    made = make_site(tmp_path / "ws", images=2)
    file = made.workspace.settings.root / FILE_NAME
    file.write_text(file.read_text() + QUALITY)
    made.workspace.settings = load_settings(file.parent)
    return made


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What flows say."""
    texts: list[str] = []

    class Told(progress.Silent):
        def say(self, text: str) -> None:
            texts.append(text)

    before = progress.current()
    progress.use(Told())
    yield texts
    progress.use(before)


def opened(site: Site) -> Round:
    plan = LoopPlan(
        assisted_manual=1,
        semi_automatic=0,
        fully_automatic=0,
        images_per_round=2,
        annotator="people",
    )
    loop = site.workspace.catalog.loops.start_or_resume(site.dataset_id, plan.rounds())
    (row,) = site.workspace.catalog.rounds.for_loop(loop.id)
    return open_round(site.workspace, row)


def shared_image(site: Site, row: Round) -> int:
    (group,) = TaskCopies(site.workspace.catalog).groups(str(row.run_id))
    return group[0].image_id


def shifted(dx: int, side: int = 30) -> np.ndarray:
    return np.roll(square(side), dx, axis=1)


def answer_all(client: Client, *masks: np.ndarray) -> int:
    done = 0
    while (task := client.next_task([TaskKind.ANNOTATE]).task) is not None:
        drawn = [new_mask(f"m{n}", mask) for n, mask in enumerate(masks)]
        client.submit(task, drawn, seconds=4)
        done += 1
    return done


def test_masks_of_people_who_agree_are_merged(
    site: Site, ada: Client, bob: Client, rita: Client
) -> None:
    row = opened(site)
    assert run_assisted_manual(site.workspace, row, wait=False) is None
    image = shared_image(site, row)
    assert answer_all(ada, shifted(0), square(4)) == 2
    assert answer_all(bob, shifted(2)) == 1, "nobody gets two copies"
    assert run_assisted_manual(site.workspace, row, wait=False) is None, "rita can answer"
    assert answer_all(rita, shifted(1)) == 1
    figures = run_assisted_manual(site.workspace, row, wait=False)
    assert figures is not None
    assert run_assisted_manual(site.workspace, row, wait=False) == figures

    (merged,) = site.workspace.masks.masks(image_ids=[image])
    assert (merged.run_id, merged.source) == (row.run_id, Source.ANNOTATOR)
    assert merged.annotator == "rita", "hers is the one in the middle"
    assert (merged.clicks, merged.seconds) == (3, 6.0)
    assert (rle_codec.decode(merged.rle) == shifted(1)).all()
    with site.workspace.catalog.reading() as session:
        (kept,) = session.query(ConsensusRow).all()
    names = {site.workspace.catalog.annotators.get(one).name for one in kept.people}
    assert names == {"ada", "bob", "rita"}
    assert len(kept.merged[merged.mask_id]) == 3
    (told,) = status_of(site.workspace)["consensus"]
    assert told == WorkspaceReports(site.workspace).overview()["consensus"][0]
    assert (told["dataset"], told["round"], told["images"], told["reviewed"]) == ("d", 1, 1, 0)
    assert told["f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    for number in (2, 3):
        run = site.workspace.catalog.runs.get(copy_run(str(row.run_id), number))
        assert run.state == RunState.FINISHED


def test_where_people_disagree_a_reviewer_picks_from_their_masks(
    site: Site, ada: Client, bob: Client, rita: Client
) -> None:
    row = opened(site)
    run_assisted_manual(site.workspace, row, wait=False)
    image = shared_image(site, row)
    answer_all(ada, shifted(0), shifted(90))
    answer_all(bob, shifted(12))
    answer_all(rita, shifted(60), shifted(100))
    run_assisted_manual(site.workspace, row, wait=False)
    assert list(site.workspace.masks.masks(image_ids=[image])) == []
    task = arrived(rita, REVIEW)
    assert task.image.id == image
    assert "3 people disagree" in str(task.note)
    sets = {one.name: one.mask_ids for one in task.candidates}
    assert {name: len(ids) for name, ids in sets.items()} == {
        "ada": 2,
        "bob": 1,
        "rita": 2,
        None: 1,
    }
    assert [mask.mask_id for mask in task.masks] == [one for ids in sets.values() for one in ids]
    verdicts = [
        NewVerdict(
            mask_id=mask.mask_id,
            verdict=VerdictKind.ACCEPT if mask.mask_id in sets["ada"] else VerdictKind.REJECT,
            seconds=1.0,
        )
        for mask in task.masks
    ]
    rita.judge(task, verdicts)
    assert finished(site, str(site.workspace.queue.get(task.id).run_id))
    current = list(site.workspace.masks.masks(image_ids=[image]))
    assert {mask.annotator for mask in current} == {"ada"}
    assert len(current) == 2
    catalog = site.workspace.catalog
    assert catalog.verdicts.rejected_mask_ids(site.dataset_id) == set(), "they were no masks yet"
    assert catalog.consensus.by_round(site.dataset_id)[0].reviewed == 1
    dataset = catalog.datasets.get("d")
    erase(site.workspace, erasures.of_images(catalog, dataset, [image]))
    assert catalog.consensus.by_round(site.dataset_id) == []


def test_with_fewer_people_there_is_the_consensus_of_those_who_are_there(
    site: Site, ada: Client, bob: Client, told: list[str]
) -> None:
    doctor = {row["name"]: row for row in check_workspace(site.workspace.settings.root)}
    assert doctor["consensus"]["level"] == "look"
    assert "consensus_people is 3, and 2 people can answer" in doctor["consensus"]["detail"]
    assert "dataengine annotators add" in doctor["consensus"]["do"]
    row = opened(site)
    run_assisted_manual(site.workspace, row, wait=False)
    assert any("2 people can answer: add others" in text for text in told)
    answer_all(ada, shifted(0))
    answer_all(bob, shifted(2))
    assert run_assisted_manual(site.workspace, row, wait=False) is not None
    assert any("answers that are missing are left out (1)" in text for text in told)
    (merged,) = site.workspace.masks.masks(image_ids=[shared_image(site, row)])
    assert merged.area == 30 * 28
