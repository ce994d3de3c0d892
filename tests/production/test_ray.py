"""Stage 3 on a real Ray cluster of two nodes, each with a core and a declared GPU."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from flows.data.ingest import ingest_folder
from flows.prefect_api import temporary_server
from flows.stages.fully_automatic import generate
from flows.stages.ray_shards import ScaleOutError
from flows.workspace.retry import OutageError
from flows.workspace.settings import FILE_NAME
from flows.workspace.workspace import Workspace, open_workspace
from storage.catalog import Shard, ShardState
from tests.flows.conftest import TOML, write_scenes
from tests.production.running import TIMEOUT_SECONDS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

NODE: dict[str, Any] = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80_000_000}


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A temporary Prefect server for these tests."""
    with temporary_server.server(tmp_path_factory.mktemp("prefect")):
        yield


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The cluster's address."""
    # Without its memory monitor, which would end processes on a busy machine, and without the low
    # priority of its workers, which get next to nothing beside other tests.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0"}
    os.environ |= {"RAY_memory_monitor_refresh_ms": "0", "RAY_worker_niceness": "0"}
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        made.add_node(**NODE)
        yield str(made.address)
    finally:
        made.shutdown()  # type: ignore[no-untyped-call]


def _workspace(folder: Path, scenes: Path, address: str | None, more: str = "") -> Workspace:
    """A workspace with the ingested scenes; on Ray if there is an address; `more`: further
    settings."""
    folder.mkdir()
    toml = more + TOML
    if address is not None:
        toml = f'runner = "ray"\n{toml}[ray]\naddress = "{address}"\nretry_seconds = 0.1\n'
        toml += "gpus_per_shard = 1\nmax_in_flight = 3\n"
    (folder / FILE_NAME).write_text(toml)
    workspace = open_workspace(str(folder))
    workspace.prepare()
    ingest_folder(workspace, "d", scenes)
    return workspace


def _shards(workspace: Workspace, run_id: str = "run-1") -> list[Shard]:
    return workspace.catalog.shards.all(run_id)


def _contents(workspace: Workspace) -> set[tuple[Any, ...]]:
    """The masks of each image, without their worker."""
    names = {image.id: image.file_name for image in workspace.catalog.images.each(1)}
    return {(names[mask.image_id], mask.rle.counts) for mask in workspace.masks.masks()}


def _owner(shard: Shard) -> int:
    """The process that leases the shard."""
    return int(str(shard.lease_owner).rpartition(":")[2])


def _freeze_then_kill_the_first(workspace: Workspace, run_id: str, seen: list[int]) -> None:
    """A worker is frozen while it holds a shard, and killed after another worker has leased a
    shard. `seen` stays empty if the run ends before one is frozen."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline and len(seen) < 2:
        shards = _shards(workspace, run_id)
        for shard in shards:
            if shard.state == ShardState.OPEN or _owner(shard) in seen:
                continue
            if seen or _is_frozen_with(workspace, run_id, shard):
                seen.append(_owner(shard))
        if not seen and shards and {shard.state for shard in shards} == {ShardState.COMMITTED}:
            return
        time.sleep(0.01)
    if seen:
        os.kill(seen[0], signal.SIGKILL)


def _is_frozen_with(workspace: Workspace, run_id: str, shard: Shard) -> bool:
    """Whether the shard's worker, now stopped, still holds it; otherwise the worker continues."""
    worker = _owner(shard)
    os.kill(worker, signal.SIGSTOP)
    while Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)
    is_held = (ShardState.LEASED, shard.lease_id) in [
        (now.state, now.lease_id) for now in _shards(workspace, run_id)
    ]
    if not is_held:
        os.kill(worker, signal.SIGCONT)
    return is_held


def test_two_nodes_make_what_one_process_makes_though_a_worker_is_killed(
    cluster: str, tmp_path: Path
) -> None:
    scenes = write_scenes(tmp_path / "scenes", 12)
    there = _workspace(tmp_path / "ray", scenes, cluster)
    seen: list[int] = []
    runs = 0
    while len(seen) < 2:  # again, if every shard was over before its worker was frozen
        runs += 1
        assert runs <= 5
        run_id = f"run-{runs}"
        killer = threading.Thread(target=_freeze_then_kill_the_first, args=(there, run_id, seen))
        killer.start()
        figures = generate(str(there.settings.root), run_id, "d")
        killer.join()

    here = _workspace(tmp_path / "local", scenes, None)
    alone = generate(str(here.settings.root), "run-1", "d")
    assert (figures["images"], figures["masks"]) == (alone["images"], alone["masks"])
    assert _contents(there) == _contents(here)
    assert sum(there.masks.counts().values()) == runs * figures["masks"]  # no duplicates

    shards = _shards(there, run_id)
    assert [shard.state for shard in shards] == [ShardState.COMMITTED] * 6
    assert max(shard.attempts for shard in shards) == 2
    # a process keeps its model for several shards, although it claims a GPU
    assert len({_owner(shard) for shard in shards}) <= 3


def test_a_shard_that_fails_is_tried_again_then_says_why_and_is_free(
    cluster: str, tmp_path: Path
) -> None:
    scenes = write_scenes(tmp_path / "scenes", 2)
    workspace = _workspace(tmp_path / "ws", scenes, cluster, "outage_seconds = 0\n")
    workspace.objects.delete(workspace.current_model().key)
    with pytest.raises(OutageError, match="though the catalog names it"):
        generate(str(workspace.settings.root), "run-1", "d")
    (shard,) = _shards(workspace)
    assert (shard.state, shard.attempts) == (ShardState.OPEN, 3)


def test_ray_that_does_not_answer_is_said_in_one_line(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "scenes", 2)
    workspace = _workspace(tmp_path / "ws", scenes, "127.0.0.1:1")
    with pytest.raises(ScaleOutError, match=r"127\.0\.0\.1:1"):
        generate(str(workspace.settings.root), "run-1", "d")
    assert workspace.catalog.shards.remaining("run-1") == 1
