"""`kill -9` of `dataengine run` at random moments neither loses nor duplicates work."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from flows.data.ingest import ingest_folder
from flows.workspace.workspace import Workspace
from storage.catalog import LoopState, RoundState, TaskState
from tests.flows.conftest import make_workspace, write_scenes

KILLS = 3
RUN = ["run", "--dataset", "d", "--rounds", "1,1,1", "--images-per-round", "4"]


def _start(root: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from flows.cli.main import main; main()", *RUN]
    with (root / "run.log").open("ab") as log:
        return subprocess.Popen(command, cwd=root, stdout=log, stderr=log, start_new_session=True)


def _marks(workspace: Workspace) -> tuple[int | None, int, tuple[str, ...]]:
    """Changes with every durable step of the loop."""
    loop = workspace.catalog.loops.latest(1)
    rounds = workspace.catalog.rounds.for_loop(loop.id) if loop else []
    done = workspace.queue.counts()[TaskState.SUBMITTED]
    return workspace.masks.version(), done, tuple(str(row.state) for row in rounds)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_three_times_the_loop_does_each_image_once(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "scenes", 20)
    workspace = make_workspace(tmp_path / "ws")
    ingest_folder(workspace, "d", scenes, scenes / "instances.json")
    root, rng = workspace.settings.root, random.Random(7)
    for _ in range(KILLS):
        before, process = _marks(workspace), _start(root)
        deadline = time.monotonic() + 120
        while _marks(workspace) == before and process.poll() is None:
            assert time.monotonic() < deadline, (root / "run.log").read_text()
            time.sleep(0.1)
        time.sleep(rng.uniform(0, 2.5))  # at a random time after a durable step
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    last = _start(root)
    assert last.wait(timeout=240) == 0, (root / "run.log").read_text()
    _assert_each_image_once(workspace)


def _assert_each_image_once(workspace: Workspace) -> None:
    loop = workspace.catalog.loops.latest(1)
    assert loop is not None
    assert loop.state == LoopState.FINISHED
    rounds = workspace.catalog.rounds.for_loop(loop.id)
    assert [row.state for row in rounds] == [RoundState.DONE] * 3
    masks = list(workspace.masks.masks())
    assert not [name for name, n in Counter(mask.mask_id for mask in masks).items() if n > 1]
    for row in rounds:
        images = set(workspace.catalog.rounds.image_ids(row.id))
        assert len(images) == 4
        of_round = [mask for mask in masks if (mask.stage, mask.round) == (row.stage, row.number)]
        assert {mask.image_id for mask in of_round} <= images
        assert {mask.run_id for mask in of_round} == {row.run_id}
        assert row.metrics["masks"] == len(of_round)
        assert row.metrics["images"] == 4
    tasks = workspace.queue.counts()
    assert tasks[TaskState.SUBMITTED] == 8
    assert tasks[TaskState.OPEN] == tasks[TaskState.LEASED] == 0
