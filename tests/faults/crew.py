"""Workers of stage 3 as real processes, and the state that must hold after their end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

from deltalake import DeltaTable

from flows.stages.fully_automatic import planned_images, start_generate
from flows.stages.shards import plan_shards
from flows.workspace.workspace import Workspace
from storage.catalog import ShardState
from storage.compaction import known_files
from storage.sweep import sweep
from tests.faults.shard_worker import WAIT_SECONDS, wait_for, work_forked

Masks = Counter[tuple[str, bytes]]
"""How often the table has a mask: its image's SHA-256 and its outline."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A process of `shard_worker`, and the folder of its signal files."""

    process: multiprocessing.process.BaseProcess | subprocess.Popen[bytes]
    folder: Path

    def start(self) -> None:
        self.reaches("ready")
        (self.folder / "start").touch()

    def go(self) -> None:
        (self.folder / "go").touch()

    def reaches(self, name: str) -> None:
        wait_for(self.folder / name)

    def freeze(self) -> None:
        """Stop every thread: on a busy machine some run on for a while after the signal."""
        self._signal(signal.SIGSTOP)
        deadline = time.monotonic() + WAIT_SECONDS
        while not self._is_stopped():
            assert time.monotonic() < deadline, "the worker does not stop"
            time.sleep(0.005)

    def _is_stopped(self) -> bool:
        try:
            threads = Path(f"/proc/{self.process.pid}/task").glob("*/stat")
            states = {file.read_text().rpartition(")")[2].split()[0] for file in threads}
        except (FileNotFoundError, ProcessLookupError):  # a thread has just ended
            return False
        return states == {"T"}

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process as `kill -9` does, and wait for its end."""
        self.process.kill()
        self.exit_status()

    def is_alive(self) -> bool:
        if isinstance(self.process, subprocess.Popen):
            return self.process.poll() is None
        return self.process.is_alive()

    def exit_status(self, seconds: float = 120) -> int | None:
        """Wait for its end; None if it does not end in time."""
        if isinstance(self.process, subprocess.Popen):
            return self.process.wait(seconds)
        self.process.join(seconds)
        return self.process.exitcode

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def ends_well(self) -> None:
        assert self.exit_status() == 0, self.log()

    def _signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)


@cache
def _forking() -> ForkServerContext:
    """Workers are forked from a process that has loaded torch and the model once."""
    os.environ["OMP_NUM_THREADS"] = "1"  # a process with several threads cannot be forked
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.loaded"])
    return context


class Crew:
    """A workspace with images, and workers for its runs."""

    def __init__(self, workspace: Workspace, folder: Path) -> None:
        self.workspace, self._folder = workspace, folder
        self._workers: list[Worker] = []

    def plan(self, run_id: str) -> None:
        """A run of stage 3 over all images of the dataset `d`."""
        run = start_generate(self.workspace, run_id, "d", limit=None, only_new=False)
        plan_shards(self.workspace, run_id, planned_images(self.workspace, run))

    def hire(self, point: str = "never", run_id: str = "run") -> Worker:
        """A started worker that waits at that point."""
        folder = self._new_folder()
        arguments = (str(self.workspace.settings.root), run_id, point, folder)
        process = _forking().Process(target=work_forked, args=arguments)
        process.start()
        return self._hired(process, folder)

    def hire_from_scratch(
        self, environment: Mapping[str, str] | None = None, run_id: str = "run"
    ) -> Worker:
        """A worker that loads the model itself."""
        folder = self._new_folder()
        command = [sys.executable, "-m", "tests.faults.shard_worker"]
        command += [str(self.workspace.settings.root), run_id, "never", str(folder)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **(environment or {})}
            )
        return self._hired(process, folder)

    def _new_folder(self) -> Path:
        folder = self._folder / f"worker-{len(self._workers)}"
        folder.mkdir()
        return folder

    def _hired(
        self, process: multiprocessing.process.BaseProcess | subprocess.Popen[bytes], folder: Path
    ) -> Worker:
        self._workers.append(Worker(process, folder))
        return self._workers[-1]

    def dismiss(self) -> None:
        """Kill the remaining workers."""
        for worker in self._workers:
            worker.kill()

    def until_committed(self, shards: int, run_id: str = "run") -> None:
        """Wait until this number of the run's shards is in the table."""
        deadline = time.monotonic() + 120
        while self.workspace.catalog.shards.totals(run_id).committed < shards:
            assert time.monotonic() < deadline, [worker.log() for worker in self._workers]
            time.sleep(0.02)

    def masks(self, run_id: str = "run") -> Masks:
        """The run's masks in the table."""
        images = self.workspace.catalog.images
        rows = list(self.workspace.masks.masks(run_id=run_id))
        found = {
            image.id: image.sha256
            for image in images.get_many(list({row.image_id for row in rows}))
        }
        ids = Counter(row.mask_id for row in rows)
        assert not ids or ids.most_common(1)[0][1] == 1
        return Counter((found[row.image_id], row.rle.counts) for row in rows)

    def assert_undisturbed(self, expected: Masks, run_id: str = "run") -> None:
        """Assert that the run has exactly these masks in the table and in the catalog, that each
        shard was committed once, and that after a sweep the store has no file of masks that the
        table does not name."""
        workspace = self.workspace
        shards = workspace.catalog.shards.all(run_id)
        assert {shard.state for shard in shards} == {ShardState.COMMITTED}
        table = DeltaTable(workspace.masks.uri, storage_options=workspace.objects.delta_options())
        commits = [entry for entry in table.history() if entry.get("run_id") == run_id]
        assert sorted(int(entry["shard"]) for entry in commits) == [row.shard for row in shards]
        assert {entry["version"] for entry in commits} == {row.table_version for row in shards}
        masks = self.masks(run_id)
        assert masks == expected
        assert masks.total() == sum(shard.masks or 0 for shard in shards)
        sweep(workspace.catalog, workspace.objects, older_than=timedelta(0), delete=True)
        named = {f"masks/{path}" for path in known_files(workspace.objects)}
        there = {info.key for info in workspace.objects.list("masks/")}
        assert {key for key in there if "/_delta_log/" not in key} == named
        assert self.masks(run_id) == masks
