"""Prints the costs of faults at the end of the test run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
