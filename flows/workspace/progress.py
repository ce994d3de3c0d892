"""Progress of long work: flows report steps, the caller chooses how they are shown."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich import filesize
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

_SHARE = re.compile(r": (\d+) of (\d+) [a-z]+s\b(?=, |\s*$)", re.MULTILINE)
"""A line of `Lines` about work in progress."""

Advance = Callable[..., None]
"""advance(n=1, note=""): n more units are done; the note is shown beside the bar."""


class Reporter(Protocol):
    """Shows progress."""

    @contextmanager
    def track(self, what: str, total: int | None, unit: str) -> Iterator[Advance]:
        """A piece of work of `total` units; yields the function to call when some are done. Within
        another piece of the same unit it counts as part of that one, and has no bar."""
        ...

    def say(self, text: str) -> None:
        """Print a line that stays."""
        ...


class Silent:
    """Shows nothing: for tests, scripts and --json."""

    @contextmanager
    def track(self, what: str, total: int | None, unit: str) -> Iterator[Advance]:
        def advance(n: int = 1, note: str = "") -> None:
            return

        yield advance

    def say(self, text: str) -> None:
        return


class Lines(Silent):
    """Lines for a log: the start of work, and its progress."""

    def __init__(self, write: Callable[[str], None], every_seconds: float) -> None:
        self._write, self._every_seconds = write, every_seconds
        self._shown: tuple[str, Advance] | None = None
        """Unit of the work that is shown, and the function that advances it."""

    @contextmanager
    def track(self, what: str, total: int | None, unit: str) -> Iterator[Advance]:
        if self._shown is not None and self._shown[0] == unit:
            yield self._shown[1]
            return
        if self._shown is not None or not total:
            yield lambda n=1, note="": None
            return
        amount, units = (filesize.decimal, "") if unit == "byte" else (str, f" {unit}s")
        began = logged = time.monotonic()
        done = 0

        def advance(n: int = 1, note: str = "") -> None:
            nonlocal logged, done
            done += n
            if (now := time.monotonic()) - logged > self._every_seconds:
                logged, rate = now, done / (now - began)
                left = f", {(total - done) / rate / 60:.0f} min left" if rate else ""
                more = f", {note}" if note else ""
                self.say(f"{what}: {amount(done)} of {amount(total)}{units}{left}{more}")

        self.say(f"{what}: {amount(total)}{units}")
        self._shown = unit, advance
        try:
            yield advance
        finally:
            self._shown = None

    def say(self, text: str) -> None:
        self._write(text)


def share_in(log: str) -> float | None:
    """The share of its work, [0, 1], that the last line of `Lines` in a log tells; None: no line
    does."""
    found = _SHARE.findall(log)
    if not found:
        return None
    done, total = (int(number) for number in found[-1])
    return min(1.0, done / total) if total else None


class _Rate(ProgressColumn):
    """Units per second, or seconds per unit if slower."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields.get("unit", "")
        if not speed:
            return Text("")
        return Text(f"{speed:.1f} {unit}/s" if speed >= 1 else f"{1 / speed:.1f} s/{unit}")


class Terminal:
    """Progress bars with rate and time left on a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._shown: tuple[str, Advance] | None = None
        """Unit of the bar that is shown, and the function that advances it."""

    @contextmanager
    def track(self, what: str, total: int | None, unit: str) -> Iterator[Advance]:
        if self._shown and self._shown[0] == unit:
            outer = self._shown[1]
            yield lambda n=1, note="": outer(n, f"{note} · {what}" if note else "")
            return
        counts = (MofNCompleteColumn(), _Rate())
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            *((DownloadColumn(), TransferSpeedColumn()) if unit == "byte" else counts),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console, refresh_per_second=4) as bars:
            task = bars.add_task(what, total=total, unit=unit, note="")

            def advance(n: int = 1, note: str = "") -> None:
                bars.update(task, advance=n)
                if note:
                    bars.update(task, note=note)

            self._shown = unit, advance
            try:
                yield advance
            finally:
                self._shown = None

    def say(self, text: str) -> None:
        self.console.print(text)


LINE_SECONDS = 5.0
"""How often progress is printed if the output is not a terminal."""


def on(console: Console) -> Reporter:
    """The reporter for a console: bars on a terminal, else lines."""
    return Terminal(console) if console.is_terminal else Lines(console.print, LINE_SECONDS)


_reporter: Reporter = Silent()


def current() -> Reporter:
    """The reporter of this process."""
    return _reporter


def use(reporter: Reporter) -> None:
    """Set the reporter of this process."""
    global _reporter
    _reporter = reporter
