"""Faults of a worker's machine: full disk, jumping clock."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.catalog import ShardState
from tests.debian import files_of
from tests.faults.conftest import Report
from tests.faults.crew import Crew, Worker
from tests.faults.services import Services, Undisturbed, timed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """Mount a file system of this size in MiB at the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill the file system completely."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"\0" * size):
                    continue
            except OSError:  # no block of that size is free
                continue
    return filler


def test_a_worker_without_room_for_the_model_leaves_the_run_to_others(
    crew: Crew, undisturbed: Undisturbed, report: Report
) -> None:
    with small_disk(crew.workspace.cache, 4):
        worker = crew.hire_from_scratch()
        assert worker.exit_status() == 1
        assert "No space left on device" in worker.log()
    other = crew.hire_from_scratch()
    other.start()
    report("no room for a worker's model, then another one", timed(other.ends_well))
    assert {shard.attempts for shard in crew.workspace.catalog.shards.all("run")} == {1}
    crew.assert_undisturbed(undisturbed.masks)


def test_a_store_that_is_full_fails_the_run_which_goes_on_once_there_is_room(
    services: Services, tmp_path: Path, undisturbed: Undisturbed, report: Report
) -> None:
    with (
        small_disk(tmp_path / "disk", 64) as disk,
        services.crew(tmp_path, store=f'uri = "{disk / "store"}"') as crew,
    ):
        crew.plan("run")
        first, second = crew.hire(), crew.hire()
        second.reaches("ready")
        first.start()

        def work() -> None:
            crew.until_committed(1)
            filler = fill(disk)
            assert first.exit_status() == 1
            assert "No space left on device" in first.log()
            assert crew.workspace.catalog.shards.remaining("run")
            filler.unlink()
            second.start()
            second.ends_well()

        report("the store's disk full, then another worker", timed(work))
        crew.assert_undisturbed(undisturbed.masks)


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the library that shifts a process's clock."""
    compiler = files_of("gcc", Path("/usr/bin"), "gcc")[0]
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    return library


def test_a_clock_that_is_minutes_off_and_jumps_neither_frees_nor_holds_a_lease(
    crew: Crew, undisturbed: Undisturbed, report: Report, shim: Path, tmp_path: Path
) -> None:
    offset = tmp_path / "offset"
    offset.write_text("-600\n")
    wrong, right = _one_with_another_clock(crew, shim, offset)

    def work() -> None:
        crew.until_committed(1)
        right.start()
        crew.until_committed(2)
        offset.write_text("+600\n")
        crew.until_committed(4)
        wrong.kill()
        right.ends_well()  # it waited for the dead worker's lease: seconds, not minutes

    seconds = timed(work)
    assert seconds < 60
    shards = crew.workspace.catalog.shards.all("run")
    assert sum(shard.attempts for shard in shards) <= len(shards) + 1
    crew.assert_undisturbed(undisturbed.masks)
    report("clock -10 min, +10 min, then killed", seconds)


def test_a_worker_whose_clock_s3_refuses_gives_its_shard_back(
    crew: Crew, undisturbed: Undisturbed, report: Report, shim: Path, tmp_path: Path
) -> None:
    offset = tmp_path / "offset"
    offset.write_text("+0\n")
    wrong, right = _one_with_another_clock(crew, shim, offset)

    def work() -> None:
        crew.until_committed(1)
        offset.write_text("+3600\n")
        assert wrong.exit_status() == 1
        assert "S3 refuses this machine's clock" in wrong.log() or "TooSkewed" in wrong.log()
        states = {shard.state for shard in crew.workspace.catalog.shards.all("run")}
        assert states == {ShardState.COMMITTED, ShardState.OPEN}
        right.start()
        right.ends_well()

    report("clock +1 h, refused by S3, then another worker", timed(work))
    crew.assert_undisturbed(undisturbed.masks)


def _one_with_another_clock(crew: Crew, shim: Path, offset: Path) -> tuple[Worker, Worker]:
    """A started worker whose clock is shifted by the seconds in the file, and a waiting one with a
    correct clock."""
    moved = {"LD_PRELOAD": str(shim), "CLOCK_OFFSET_FILE": str(offset)}
    wrong, right = crew.hire_from_scratch(moved), crew.hire()
    right.reaches("ready")
    wrong.start()
    return wrong, right
