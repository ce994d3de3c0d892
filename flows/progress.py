"""What long work tells the terminal. Flows report steps; who shows them is set by the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

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


_reporter: Reporter = Silent()


def current() -> Reporter:
    """The reporter of this process."""
    return _reporter


def use(reporter: Reporter) -> None:
    """Set the reporter of this process."""
    global _reporter
    _reporter = reporter
