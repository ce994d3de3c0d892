"""What slows this process down: other processes on its processors, or too little memory.

Linux tells both (`/proc/self`); elsewhere nothing is noted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc/self")

EVERY_SECONDS = 10.0
"""The shortest time over which is measured."""

WAITING_SHARE = 0.3
"""Share of the time that threads wait for a processor, from which it is worth a note."""

FAULTS_PER_SECOND = 50.0
"""Pages read back from disk in a second, from which memory is short."""


@dataclass(frozen=True, slots=True)
class _Counters:
    """Since the process began: seconds that its threads ran, seconds that they waited for a
    processor, and pages that were read from disk."""

    running: float
    waiting: float
    faults: int


class Slowdown:
    """Notes what has slowed the process down lately."""

    def __init__(self, proc: Path = PROC, every_seconds: float = EVERY_SECONDS) -> None:
        self._proc, self._every_seconds = proc, every_seconds
        self._before, self._at = _read(proc), time.monotonic()
        self._note = ""

    def note(self) -> str:
        """Return a phrase on the last EVERY_SECONDS or more; empty if nothing slows it down."""
        now = time.monotonic()
        if self._before is not None and now - self._at >= self._every_seconds:
            after = _read(self._proc)
            if after is not None:
                self._note = _phrase(self._before, after, now - self._at)
                self._before, self._at = after, now
        return self._note


def _phrase(before: _Counters, after: _Counters, seconds: float) -> str:
    waited = max(0.0, after.waiting - before.waiting)
    wanted = waited + max(0.0, after.running - before.running)
    if (after.faults - before.faults) / max(seconds, 1e-9) >= FAULTS_PER_SECOND:
        return "slow: memory is full"
    if wanted and waited / wanted >= WAITING_SHARE:
        return f"slow: waits {waited / wanted:.0%} of the time for busy processors"
    return ""


def _read(proc: Path) -> _Counters | None:
    """Read the counters; None where the system has none."""
    running = waiting = 0
    try:
        for thread in (proc / "task").iterdir():
            try:
                ran, waited, _ = (thread / "schedstat").read_text().split()
            except (FileNotFoundError, ProcessLookupError):  # the thread has just ended
                continue
            running, waiting = running + int(ran), waiting + int(waited)
        fields = (proc / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return _Counters(running / 1e9, waiting / 1e9, int(fields[9]))
