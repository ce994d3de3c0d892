"""What slows a process down."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.workspace.slowdown import Slowdown

SECOND = 10**9


def write(proc: Path, *, threads: dict[int, tuple[float, float]], faults: int = 0) -> None:
    """Write the counters of a process: by thread, seconds that it ran and waited."""
    for number, (ran, waited) in threads.items():
        folder = proc / "task" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "schedstat").write_text(f"{int(ran * SECOND)} {int(waited * SECOND)} 7\n")
    (proc / "stat").write_text(f"1 (a (process)) R 0 0 0 0 0 0 0 0 {faults} 0 0 0\n")


def test_busy_processors_are_noted_with_the_share_of_time_that_all_threads_wait(
    tmp_path: Path,
) -> None:
    write(tmp_path, threads={1: (5, 40), 2: (1, 0)})
    slowdown = Slowdown(tmp_path, every_seconds=0)
    write(tmp_path, threads={1: (8, 46), 2: (2, 0)})

    assert slowdown.note() == "slow: waits 60% of the time for busy processors"

    write(tmp_path, threads={1: (18, 46.5), 2: (12, 0)})
    assert slowdown.note() == ""


def test_full_memory_is_noted_by_the_pages_read_back_from_disk(tmp_path: Path) -> None:
    write(tmp_path, threads={1: (5, 0)}, faults=10)
    slowdown = Slowdown(tmp_path, every_seconds=0)
    write(tmp_path, threads={1: (6, 5)}, faults=1_000_010)

    assert slowdown.note() == "slow: memory is full"


def test_a_note_lasts_until_the_next_measurement(tmp_path: Path) -> None:
    write(tmp_path, threads={1: (5, 0)})
    slowdown = Slowdown(tmp_path, every_seconds=3600)
    write(tmp_path, threads={1: (5, 900)})

    assert slowdown.note() == ""


@pytest.mark.parametrize("proc", [Path("/proc/self"), Path("/no/such/folder")])
def test_this_process_is_measured_and_a_system_without_counters_is_no_error(proc: Path) -> None:
    assert isinstance(Slowdown(proc, every_seconds=0).note(), str)
