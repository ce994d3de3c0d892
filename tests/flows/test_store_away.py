"""An unavailable store, or one that lacks a named object, is an outage: nothing is quarantined."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.annotation.client import Client
from engine.annotation.errors import RefusedError
from flows.operations.requeue import requeue_dataset
from flows.stages import fully_automatic
from flows.stages.fully_automatic import next_shard, start_generate
from flows.stages.shards import plan_shards
from flows.workspace.workspace import Workspace
from storage.catalog import ShardState, TaskKind, TaskState
from storage.local_store import LocalStore
from storage.objects import StorageUnavailableError
from tests.annotation.site import Site, make_site, served

OUTAGE_SECONDS = "DATAENGINE_OUTAGE_SECONDS"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    small = {"POINTS_PER_SIDE": "3", "MIN_PREDICTED_IOU": "0.1", "MIN_STABILITY": "0.1"}
    for name, value in small.items():
        monkeypatch.setenv(f"DATAENGINE_GENERATOR__{name}", value)
    monkeypatch.setenv(OUTAGE_SECONDS, "0")
    return make_site(tmp_path / "ws", images=2, size=(64, 96))


def _store(site: Site) -> Path:
    return site.workspace.settings.root / "store"


def _unmount(site: Site) -> None:
    """An unmounted disk leaves an empty folder."""
    _store(site).rename(_store(site).with_name("unmounted"))
    _store(site).mkdir()


def _remove_folder(site: Site) -> None:
    _store(site).rename(_store(site).with_name("unmounted"))


def _lose_image(site: Site) -> None:
    (_store(site) / "images").rename(_store(site).with_name("unmounted"))


def _lose_model(site: Site) -> None:
    (_store(site) / "models").rename(_store(site).with_name("unmounted"))


FAULTS = [_unmount, _remove_folder, _lose_image, _lose_model]


def _assert_untouched(site: Site, table: int | None = None) -> None:
    workspace = site.workspace
    assert workspace.catalog.quarantine.all(site.dataset_id) == []
    assert workspace.queue.counts()[TaskState.SUBMITTED] == 0
    assert workspace.queue.counts()[TaskState.LEASED] == 0
    assert not (_store(site) / "masks").exists()


@pytest.mark.parametrize("fault", FAULTS)
def test_the_page_answers_503_and_keeps_its_tasks(
    site: Site, fault: Callable[[Site], None]
) -> None:
    site.annotate()
    fault(site)
    with served(site.workspace) as url, site.client(url, "ada") as ada:
        for _ in range(3):
            assert _status(ada) == 503
    _assert_untouched(site)
    assert site.workspace.queue.counts()[TaskState.OPEN] == 2


def _status(client: Client) -> int:
    with pytest.raises(RefusedError) as refused:
        client.next_task([TaskKind.ANNOTATE])
    return refused.value.status


@pytest.mark.parametrize("fault", FAULTS)
def test_a_shard_is_given_back_with_nothing_set_aside(
    site: Site, fault: Callable[[Site], None]
) -> None:
    start_generate(site.workspace, "run", "d", limit=None, only_new=False)
    plan_shards(site.workspace, "run", site.image_ids)
    fault(site)
    with pytest.raises(Exception, match="mounted"):
        next_shard(site.workspace, "run")
    _assert_untouched(site)
    assert [s.state for s in site.workspace.catalog.shards.all("run")] == [ShardState.OPEN]


def test_masks_do_not_go_to_the_folder_where_the_disk_was(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is unmounted after the images were read."""
    start_generate(site.workspace, "run", "d", limit=None, only_new=False)
    plan_shards(site.workspace, "run", site.image_ids)

    def unmounted(workspace: Workspace, *given: object) -> list[object]:
        _unmount(site)
        return []

    monkeypatch.setattr(fully_automatic, "_shard_masks", unmounted)
    with pytest.raises(Exception, match="mounted"):
        next_shard(site.workspace, "run")
    _assert_untouched(site)
    assert list(_store(site).iterdir()) == []


def test_a_store_that_is_new_is_made_by_the_first_write(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    assert list(store.list()) == []
    store.put("a/b", b"1")
    (tmp_path / "store").rename(tmp_path / "moved")
    with pytest.raises(StorageUnavailableError, match="mounted"):
        store.put("a/c", b"2")
    (tmp_path / "moved").rename(tmp_path / "store")
    assert store.get("a/b") == b"1"


def test_what_stage_3_quarantined_is_generated_again_when_asked(site: Site) -> None:
    path = _store(site) / site.workspace.catalog.images.get(site.image_ids[1]).key
    good = path.read_bytes()
    path.write_bytes(b"no image")
    start_generate(site.workspace, "run", "d", limit=None, only_new=False)
    plan_shards(site.workspace, "run", site.image_ids)
    next_shard(site.workspace, "run")
    assert len(site.workspace.catalog.quarantine.all(site.dataset_id)) == 1
    path.write_bytes(good)
    found = requeue_dataset(site.workspace, "d")
    assert (found["tasks"], found["images"]) == (0, 1)
    assert requeue_dataset(site.workspace, "d") == {"tasks": 0, "images": 0, "run": None}
    next_shard(site.workspace, found["run"])
    assert site.workspace.catalog.quarantine.all(site.dataset_id) == []
    assert site.workspace.masks.counts(("image_id",), run_id=found["run"]).keys() == {
        (site.image_ids[1],)
    }
