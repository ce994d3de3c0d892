"""Prints the costs of faults at the end of the test run; trains the tests' CLIP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

FAULTS = Path(__file__).parents[1] / ".artifacts" / "faults.jsonl"
"""A line a fault, by any of the processes that tests run in."""

TESTS = Path(__file__).parent
LONGEST = (
    "production/test_up.py",
    "faults/test_outages.py",
    "flows/test_secrets.py",
    "production/test_ray.py",
    "faults/test_machines.py",
    "parity/test_generator.py",
    "faults/test_kill.py",
    "production/test_prefect_on_postgres.py",
    "annotation/test_fuzz.py",
    "annotation/test_dashboard.py",
    "browser/test_annotate.py",
)
"""Files that take a minute or more."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files with slow tests first, the longest of them before all others, so that no process
    runs one alone at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    place = {TESTS / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (place.get(item.path, len(place)), item.path not in slow))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Runs the file's tests with one thread of torch."""
    from engine.semantics.contrastive import on_one_thread

    with on_one_thread():
        yield


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> str:
    """The name of the small CLIP of `tests.small_clip`, trained once for all processes."""
    from tests.small_clip import train_small_clip

    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "small-clip"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            train_small_clip(folder)
    return f"clip:{folder}"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Delete the costs of the last run."""
    if not hasattr(session.config, "workerinput"):  # not in worker processes
        FAULTS.unlink(missing_ok=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line per fault."""
    if not FAULTS.exists():
        return
    terminalreporter.section("stage 3 through faults, and without")
    for row in map(json.loads, FAULTS.read_text().splitlines()):
        took = f"{row['seconds']:6.1f} s, undisturbed {row['undisturbed']:.1f} s"
        terminalreporter.write_line(f"{row['fault']:50} {took}")
