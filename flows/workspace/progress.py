"""What long work tells the terminal. Flows report steps; who shows them is set by the caller."""

from __future__ import annotations

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

Advance = Callable[..., None]
"""advance(n=1, note=""): n more done; note is shown beside the bar."""


class Reporter(Protocol):
    """Shows how far work has come."""

    @contextmanager
    def track(self, what: str, total: int | None, unit: str) -> Iterator[Advance]:
        """A piece of work of `total` units; yields the function to call when some are done. Inside
        another piece of the same unit it is a part of that one, and has no bar of its own."""
        ...

    def say(self, text: str) -> None:
        """A line that stays."""
        ...


class Silent:
    """Says nothing: for tests, scripts and --json."""

    @contextmanager
    def track(self, what: str, total: int | None, unit: str) -> Iterator[Advance]:
        def advance(n: int = 1, note: str = "") -> None:
            return

        yield advance

    def say(self, text: str) -> None:
        return


class Lines(Silent):
    """Lines for a log: what begins, and how far long work has come."""

    def __init__(self, write: Callable[[str], None], every_seconds: float) -> None:
        self._write, self._every_seconds = write, every_seconds
        self._shown: tuple[str, Advance] | None = None
        """Unit of the work that is told of, and what moves it."""

    @contextmanager
    def track(self, what: str, total: int | None, unit: str) -> Iterator[Advance]:
        if self._shown is not None and self._shown[0] == unit:
            yield self._shown[1]
            return
        if self._shown is not None or not total:
            yield lambda n=1, note="": None
            return
        amount, units = (filesize.decimal, "") if unit == "byte" else (str, f" {unit}s")
        began = told = time.monotonic()
        done = 0

        def advance(n: int = 1, note: str = "") -> None:
            nonlocal told, done
            done += n
            if (now := time.monotonic()) - told > self._every_seconds:
                told, rate = now, done / (now - began)
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


class _Rate(ProgressColumn):
    """Units a second, or seconds a unit where slower."""

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
        """Unit of the bar that is shown, and what moves it."""

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
"""How often a log that is no terminal says how far work has come."""


def on(console: Console) -> Reporter:
    """What suits a console: bars on a terminal, else lines."""
    return Terminal(console) if console.is_terminal else Lines(console.print, LINE_SECONDS)


_reporter: Reporter = Silent()


def current() -> Reporter:
    """The reporter of this process."""
    return _reporter


def use(reporter: Reporter) -> None:
    """Set the reporter of this process."""
    global _reporter
    _reporter = reporter
