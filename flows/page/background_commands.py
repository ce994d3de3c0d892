"""Commands started from the page: each is a process of its own that outlives the page's server.

A command is a folder under `.cache/jobs`: `job.json`, `log.txt`, `stop` once a user has stopped it,
and `ended.json` once it has ended. `python -m flows.page.background_commands FOLDER` runs one.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from flows.workspace.processes import environment, python
from storage.local_files import replace

log = logging.getLogger("dataengine.jobs")

LOG_BYTES = 8_000
"""Bytes shown of the end of a log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackgroundCommand:
    """A command that was started; `action` is the name of its button."""

    id: str
    action: str
    arguments: list[str]
    started_at: str


def start_command(folder: Path, command: BackgroundCommand, root: Path) -> None:
    """Run `dataengine` with the command's arguments in the workspace `root`, in the background."""
    place = folder / command.id
    place.mkdir(parents=True)
    _write(place / "job.json", asdict(command))
    with (place / "log.txt").open("wb") as output:
        process = subprocess.Popen(
            python("flows.page.background_commands", str(place)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=root,
            env=environment(root),
            start_new_session=True,  # Ctrl-C at the page's server does not stop a training
        )
    (place / "process").write_text(str(process.pid))


def stop_command(folder: Path, command: BackgroundCommand) -> None:
    """Interrupt a running command as Ctrl-C does; the second time, kill it."""
    place = folder / command.id
    if state_of(folder, command)[0] != "running":
        return
    is_again = (place / "stop").exists()
    (place / "stop").touch()
    group = int((place / "process").read_text())  # the command leads its own group
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.killpg(group, signal.SIGKILL if is_again else signal.SIGINT)


def commands_in(folder: Path) -> list[BackgroundCommand]:
    """All commands, the newest first; those whose file cannot be read are left out."""
    return sorted(_readable(folder), key=lambda item: (item.started_at, item.id), reverse=True)


def _readable(folder: Path) -> Iterator[BackgroundCommand]:
    for path in folder.glob("*/job.json"):
        try:
            yield BackgroundCommand(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s does not describe a command, and is left out: %s", path, error)


def _write(path: Path, values: dict[str, Any]) -> None:
    """Write the file atomically: other processes may read it at any time."""
    source = io.BytesIO(json.dumps(values).encode())
    replace(path, lambda file: shutil.copyfileobj(source, file))


def state_of(folder: Path, command: BackgroundCommand) -> tuple[str, datetime | None]:
    """Returns `running`, `done`, `failed` or `stopped`, and the time at which it ended."""
    place = folder / command.id
    failed = "stopped" if (place / "stop").exists() else "failed"
    if (place / "ended.json").exists():
        values = json.loads((place / "ended.json").read_text())
        state = "done" if values["code"] == 0 else failed
        return state, datetime.fromisoformat(values["at"])
    return ("running", None) if _is_alive(place) else (failed, None)


def log_of(folder: Path, command: BackgroundCommand) -> str:
    """The end of the command's log; empty if it has none yet or was removed."""
    path = folder / command.id / "log.txt"
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def command_line(arguments: list[str]) -> str:
    """The command as a user would type it."""
    return shlex.join(["dataengine", *arguments])


def _is_alive(place: Path) -> bool:
    try:
        # Numbers of processes are reused, so compare what it runs; nothing yet: it is starting.
        command = psutil.Process(int((place / "process").read_text())).cmdline()
        return not command or str(place) in command
    except (OSError, ValueError, psutil.Error):  # a zombie has no command line either
        return False


def main() -> None:
    """Run the command of the folder given."""
    place = Path(sys.argv[1])
    arguments = json.loads((place / "job.json").read_text())["arguments"]
    signal.signal(signal.SIGINT, lambda number, frame: None)  # the command itself handles it
    with subprocess.Popen(python("flows.cli.main", *arguments)) as command:
        if (place / "stop").exists():  # stopped before there was a command to interrupt
            command.send_signal(signal.SIGINT)
        code = command.wait()
    _write(place / "ended.json", {"code": code, "at": datetime.now(UTC).isoformat()})


if __name__ == "__main__":
    main()
