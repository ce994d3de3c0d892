"""Rounds of people: opened by the loop, answered at the page, committed once the queue is empty."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from engine.annotation.client import Client
from engine.core.records import Source
from flows.loop.data_engine import LoopPlan
from flows.stages import task_runner
from flows.stages.assisted_manual import run_assisted_manual
from flows.stages.rounds import open_round
from flows.training.scores import held_out_scores
from flows.training.training_set import MaskSource
from flows.workspace.workspace import Workspace
from storage.catalog import NewImage, Round, Split, TaskKind
from tests.annotation.site import Site, make_site, served
from tests.annotation.test_tasks import new_mask


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Four training images and two held-out images, without ground truth."""
    found = make_site(tmp_path / "ws", images=4)
    catalog = found.workspace.catalog
    rows = []
    for number, image_id in enumerate(found.image_ids[:2]):
        image = catalog.images.get(image_id)
        data = found.workspace.objects.get(image.key)
        key = f"images/held-{number}.png"
        found.workspace.objects.put(key, data)
        rows.append(
            NewImage(
                sha256=f"{number:064x}",
                key=key,
                file_name=f"held-{number}.png",
                height=image.height,
                width=image.width,
                split=Split.HELD_OUT,
            )
        )
    catalog.images.add_many(found.dataset_id, rows)
    return found


def opened(site: Site, images: int = 4) -> Round:
    plan = LoopPlan(
        assisted_manual=1,
        semi_automatic=0,
        fully_automatic=0,
        images_per_round=images,
        annotator="people",
    )
    loop = site.workspace.catalog.loops.start_or_resume(site.dataset_id, plan.rounds())
    (row,) = site.workspace.catalog.rounds.for_loop(loop.id)
    return open_round(site.workspace, row)


def work_until_empty(url: str, site: Site) -> int:
    done = 0
    with site.client(url, "ada") as client:
        while (task := client.next_task([TaskKind.ANNOTATE]).task) is not None:
            client.submit(task, [new_mask("a"), new_mask("b")], seconds=8)
            done += 1
    return done


def test_people_get_some_held_out_images_without_truth(site: Site) -> None:
    row = opened(site)
    ids = site.workspace.catalog.rounds.image_ids(row.id)
    splits = [site.workspace.catalog.images.get(image_id).split for image_id in ids]
    assert splits.count(Split.TRAIN) == 3
    assert splits.count(Split.HELD_OUT) == 1


def test_a_round_waits_for_people_and_may_be_stopped_meanwhile(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = opened(site)

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("flows.stages.task_runner.time.sleep", stop)
        with pytest.raises(KeyboardInterrupt):
            run_assisted_manual(site.workspace, row)
    assert site.workspace.queue.pending(str(row.run_id)) == 4
    for image_id in site.workspace.catalog.rounds.image_ids(row.id):
        assert site.workspace.objects.exists(f"embeddings/lite/{image_id}.safetensors")
    monkeypatch.setattr(task_runner, "LOOK_SECONDS", 0.05)
    with served(site.workspace) as url:
        worker = threading.Thread(target=work_until_empty, args=(url, site))
        worker.start()
        figures = run_assisted_manual(site.workspace, row)
        worker.join()
    assert figures is not None
    assert (figures.images, figures.masks, figures.seconds_per_mask) == (4, 8, 4.0)
    again = run_assisted_manual(site.workspace, row)
    assert again == figures
    assert sum(site.workspace.masks.counts(("run_id",)).values()) == 8


def test_held_out_images_people_annotated_are_scored_on_and_not_trained_on(site: Site) -> None:
    row = opened(site)
    assert held_out_scores(site.workspace, "lite", "d")["masks"] == 0
    with served(site.workspace) as url:
        collect(site, row, url)
    scores = held_out_scores(site.workspace, "lite", "d")
    assert (scores["images"], scores["masks"]) == (1, 2)
    source = _source(site.workspace)
    assert source.counts()["images"] == 3
    assert source.counts()["masks"] == {Source.ANNOTATOR: 6}


def collect(site: Site, row: Round, url: str) -> None:
    thread = threading.Thread(target=run_assisted_manual, args=(site.workspace, row))
    thread.start()
    done = 0
    while done < 4:
        done += work_until_empty(url, site)
    thread.join(30)
    assert not thread.is_alive()


def _source(workspace: Workspace) -> MaskSource:
    dataset = workspace.catalog.datasets.get("d")
    version = workspace.masks.version()
    return MaskSource(workspace, dataset, version, None)


def test_a_client_sees_the_round_its_task_belongs_to(site: Site) -> None:
    row = opened(site, images=1)
    with served(site.workspace) as url, Client(url, token=site.link("ada")) as client:
        thread = threading.Thread(target=run_assisted_manual, args=(site.workspace, row))
        thread.start()
        task = None
        while task is None:
            task = client.next_task([TaskKind.ANNOTATE], dataset="d").task
        assert (task.stage, task.round) == ("assisted_manual", 1)
        client.submit(task, [], seconds=1)
        thread.join(30)
