"""Settings that change between a stop and a restart do not change what a run commits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from engine.core.records import Mask, Stage
from flows.review.review import start_review
from flows.stages.commit_answers import commit_answers
from flows.stages.fully_automatic import next_shard, start_generate
from flows.stages.rounds import open_round
from flows.stages.run_context import RunContext
from flows.stages.shards import plan_shards
from flows.workspace.settings import SHAPING, Settings, load_settings
from flows.workspace.workspace import Workspace
from storage.catalog import PlannedRound, TaskKind, TaskResult
from storage.masks import read_parquet, write_parquet
from tests.annotation.site import Site, make_site

ELSEWHERE = {
    *("root", "database_url", "log", "device", "store", "operations", "costs", "production"),
    *("lease_seconds", "outage_seconds", "people_lease_seconds", "people_draft_seconds"),
    *("runner", "ray", "page"),
    *("llm_url", "llm_model", "llm_key"),  # its descriptions are files
    *("paint_url", "paint_model", "paint_key"),  # of programs, whose runs name the models
    "held_out",  # of an ingest, whose images store their split
    "rounds",  # of a loop, whose plan stores the choice
}
"""Settings that say where, how fast and for how much work is done."""

OTHER: dict[type, Any] = {int: 1, float: 0.5, bool: True}


def _leaves() -> dict[str, str]:
    """Each setting that affects results, as its variable, with another value."""
    found = {}
    now = Settings()
    for section in sorted(SHAPING):
        value = getattr(now, section)
        values = dict(value) if isinstance(value, BaseModel) else {"": value}
        for name, held in values.items():
            words = (
                {"preset": "fast", "precision": "float32", "source": "union"}
                if isinstance(held, str)
                else {}
            )
            other = words.get(name, OTHER.get(type(held), 1))
            key = f"{section}__{name}".strip("_").upper()
            found[f"DATAENGINE_{key}"] = str(other)
    return found


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = make_site(tmp_path / "ws", images=4, size=(64, 96))
    text = "[generator]\npoints_per_side = 2\nmin_predicted_iou = 0.1\nmin_stability = 0.1\n"
    path = site.workspace.settings.root / "dataengine.toml"
    path.write_text(f"shard_images = 2\n{path.read_text()}{text}")
    return _reopened(site)


def _reopened(site: Site) -> Site:
    """Open the workspace as a new process."""
    workspace = Workspace(load_settings(site.workspace.settings.root))
    return Site(workspace, site.dataset_id, site.image_ids, site.scenes)


def _change_all(patch: pytest.MonkeyPatch) -> None:
    for name, value in _leaves().items():
        patch.setenv(name, value)


def test_every_setting_either_shapes_work_or_says_where_and_how_fast_it_is_done() -> None:
    assert set(Settings.model_fields) == SHAPING | ELSEWHERE
    assert not SHAPING & ELSEWHERE


@pytest.mark.parametrize("kind", ["generate", "review", "round"])
def test_a_run_goes_on_with_all_settings_it_was_started_with(
    site: Site, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def start(workspace: Workspace) -> str:
        if kind == "generate":
            return start_generate(workspace, "run", "d", limit=None, only_new=False).id
        if kind == "review":
            return start_review(workspace, "d", "run").run_id
        plan = [PlannedRound(stage=Stage.ASSISTED_MANUAL, images=2, annotator="people")]
        loop = workspace.catalog.loops.start_or_resume(site.dataset_id, plan)
        (row,) = workspace.catalog.rounds.for_loop(loop.id)
        return str(open_round(workspace, row).run_id)

    run_id, before = start(site.workspace), site.workspace.settings
    _change_all(monkeypatch)
    again = _reopened(site).workspace
    assert start(again) == run_id
    after = again.as_started(again.catalog.runs.get(run_id)).settings
    for name in _leaves():
        section, _, leaf = name.removeprefix("DATAENGINE_").lower().partition("__")
        held, now = getattr(before, section), getattr(after, section)
        changed = getattr(again.settings, section)
        if leaf:
            held, now, changed = (getattr(item, leaf) for item in (held, now, changed))
        assert held == now
        assert held != changed, f"{name} was not changed: the test says nothing of it"


def test_stage_3_makes_the_same_masks_whatever_is_changed_meanwhile(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run_id in ("undisturbed", "changed"):
        start_generate(site.workspace, run_id, "d", limit=None, only_new=False)
    plan_shards(site.workspace, "undisturbed", site.image_ids)
    while next_shard(site.workspace, "undisturbed"):
        pass
    _change_all(monkeypatch)
    workspace = _reopened(site).workspace
    plan_shards(workspace, "changed", site.image_ids)
    assert [len(s.image_ids) for s in workspace.catalog.shards.all("changed")] == [2, 2]
    while next_shard(workspace, "changed"):
        pass
    expected, found = (_masks(workspace, run_id) for run_id in ("undisturbed", "changed"))
    assert len(expected) > len(site.image_ids)
    assert found == expected


def _masks(workspace: Workspace, run_id: str) -> set[tuple[int, bytes]]:
    return {(m.image_id, m.rle.counts) for m in workspace.masks.masks(run_id=run_id)}


@pytest.mark.parametrize("later", [1, 3, 20])
def test_answers_are_all_committed_whatever_size_shards_have_later(
    site: Site, monkeypatch: pytest.MonkeyPatch, later: int
) -> None:
    """A run stopped between two shards: with another size, tasks were marked as done whose masks
    were missing."""
    workspace, context = site.workspace, _answered(site)
    commit, shards = workspace.masks.commit, list[int]()

    def stopped(masks: Any, *, run_id: str, shard: int) -> int:
        if shards:
            raise KeyboardInterrupt
        shards.append(shard)
        return commit(masks, run_id=run_id, shard=shard)

    monkeypatch.setattr(workspace.masks, "commit", stopped)
    with pytest.raises(KeyboardInterrupt):
        commit_answers(workspace, context)
    monkeypatch.setenv("DATAENGINE_SHARD_IMAGES", str(later))
    again = _reopened(site).workspace
    for _ in range(2):
        commit_answers(again, context)
        expected = {(image_id,): 2 for image_id in site.image_ids}
        assert again.masks.counts(("image_id",)) == expected


def _answered(site: Site) -> RunContext:
    """A run of stage 2 with all tasks submitted, with two masks each."""
    site.complete()
    person = site.workspace.catalog.annotators.get_or_create("ada")
    while task := site.workspace.queue.lease(person.id, kinds=[TaskKind.COMPLETE]):
        key = str(task.payload["prefill"])
        masks: list[Mask] = read_parquet(site.workspace.objects.get(key))[:2]
        answer = f"annotations/complete/{task.id}.parquet"
        site.workspace.objects.put(answer, write_parquet(masks))
        site.workspace.queue.submit(
            task.id, str(task.lease_id), answer, TaskResult(made=len(masks))
        )
    return RunContext(
        run_id="complete",
        dataset="d",
        dataset_id=site.dataset_id,
        stage=masks[0].stage,
        round=1,
        model="lite",
    )
