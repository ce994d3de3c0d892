"""Commands started from the page: each a process of its own that outlives the page's server.

A job is a folder under `.cache/jobs`: `job.json`, `log.txt`, `stop` once somebody has stopped it,
and `ended.json` once it has ended.
`python -m flows.page.background_commands FOLDER` runs one.
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

from flows.workspace.processes import environment, python
from storage.local_files import replace

log = logging.getLogger("dataengine.jobs")

LOG_BYTES = 8_000
"""Of a log's end that is shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A command that was started. `process`: the id of the process that runs it."""

    id: str
    action: str
    arguments: list[str]
    started_at: str


def start_job(folder: Path, job: Job, root: Path) -> None:
    """Run `dataengine` with the job's arguments in the workspace `root`, in the background."""
    place = folder / job.id
    place.mkdir(parents=True)
    _write(place / "job.json", asdict(job))
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


def stop_job(folder: Path, job: Job) -> None:
    """Interrupt a running job as Ctrl-C does; a second time, end it at once."""
    place = folder / job.id
    if state_of(folder, job)[0] != "running":
        return
    is_again = (place / "stop").exists()
    (place / "stop").touch()
    group = int((place / "process").read_text())  # the job leads a group of its own
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.killpg(group, signal.SIGKILL if is_again else signal.SIGINT)


def jobs_in(folder: Path) -> list[Job]:
    """All jobs, the newest first; one whose file cannot be read is left out."""
    return sorted(_readable(folder), key=lambda job: (job.started_at, job.id), reverse=True)


def _readable(folder: Path) -> Iterator[Job]:
    for path in folder.glob("*/job.json"):
        try:
            yield Job(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s is no job's file, and left out: %s", path, error)


def _write(path: Path, values: dict[str, Any]) -> None:
    """Whole or not at all: others read it at any time."""
    source = io.BytesIO(json.dumps(values).encode())
    replace(path, lambda file: shutil.copyfileobj(source, file))


def state_of(folder: Path, job: Job) -> tuple[str, datetime | None]:
    """`running`, `done`, `failed` or `stopped`, and when it ended."""
    place = folder / job.id
    failed = "stopped" if (place / "stop").exists() else "failed"
    if (place / "ended.json").exists():
        values = json.loads((place / "ended.json").read_text())
        state = "done" if values["code"] == 0 else failed
        return state, datetime.fromisoformat(values["at"])
    return ("running", None) if _is_alive(place) else (failed, None)


def log_of(folder: Path, job: Job) -> str:
    """The end of the job's log."""
    path = folder / job.id / "log.txt"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        return file.read().decode(errors="replace")


def command_of(arguments: list[str]) -> str:
    """The command as one would type it."""
    return shlex.join(["dataengine", *arguments])


def _is_alive(place: Path) -> bool:
    try:
        number = int((place / "process").read_text())
        if not Path("/proc/self").exists():
            os.kill(number, 0)
            return True
        # Linux: numbers are used again, so look what it runs.
        if command := Path(f"/proc/{number}/cmdline").read_bytes():
            return str(place).encode() in command
        # None: it is ended and not yet taken note of, or about to begin.
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, ValueError):
        return False


def main() -> None:
    """Run the job of the folder that is named."""
    place = Path(sys.argv[1])
    arguments = json.loads((place / "job.json").read_text())["arguments"]
    signal.signal(signal.SIGINT, lambda number, frame: None)  # the command's own to answer
    code = subprocess.call(python("flows.cli.main", *arguments))
    _write(place / "ended.json", {"code": code, "at": datetime.now(UTC).isoformat()})


if __name__ == "__main__":
    main()
