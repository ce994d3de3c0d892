"""Runs one service and ends it, and all it has started, when whoever asked for it is gone.

    python -m flows.services.process_guard LOCK SIGNAL USER command...

The command runs until it ends, or until standard input closes, which the operating system does for
a parent that dies in whatever way. Then the service gets SIGNAL, and what is left of it and its
descendants after GRACE_SECONDS is killed.
LOCK is held meanwhile, so that two never work on the same data. USER is `-` for the same user.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

GRACE_SECONDS = 8.0
LOCK_SECONDS = 30.0
LOOK_SECONDS = 0.1

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Guard the command that is named; its exit code, 128 and the number for a signal."""
    lock, stop, user, *command = sys.argv[1:]
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: end.set())
    with Path(lock).open("w") as file:
        if not _take(file.fileno(), end):
            print(f"{lock} is held: another one is running", file=sys.stderr)
            return 75
        threading.Thread(target=_wait_for_parent, args=(end,), daemon=True).start()
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        code = _run(command, signal.Signals[stop], None if user == "-" else user, end)
    return code if code >= 0 else 128 - code


def _take(handle: int, end: threading.Event) -> bool:
    """An earlier one may still be on its way out."""
    deadline = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < deadline and not end.is_set():
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(LOOK_SECONDS)
    return False


def _wait_for_parent(end: threading.Event) -> None:
    while os.read(0, 4096):  # unlike sys.stdin, it holds no lock that Python wants when it ends
        continue
    end.set()


def _run(command: list[str], stop: signal.Signals, user: str | None, end: threading.Event) -> int:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        user=user,
        group=user,  # and none of this one's groups
        extra_groups=None if user is None else [],
        start_new_session=True,
        preexec_fn=_dying_with_parent(stop),
    )
    while process.poll() is None and not end.is_set():
        time.sleep(LOOK_SECONDS)
    if process.poll() is None:
        process.send_signal(stop)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    _end_descendants()
    return process.wait()


def _dying_with_parent(stop: signal.Signals) -> Callable[[], None] | None:
    """On Linux a service ends even where its guard is killed."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)  # loaded before the fork
    return lambda: library.prctl(PR_SET_PDEATHSIG, int(stop))


def _prctl(option: int, value: int) -> None:
    """What a dead child leaves behind becomes our child, so that we find it (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def _end_descendants() -> None:
    """Ask all processes below this one to end, then make them."""
    for number, seconds in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + seconds
        for process in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, number)
        while time.monotonic() < deadline:
            _reap()
            if not descendants(os.getpid()):
                return
            time.sleep(LOOK_SECONDS)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue


def descendants(root: int) -> list[int]:
    """Ids of all processes below `root`, those that have ended but were not waited for left out."""
    children: dict[int, list[int]] = {}
    for pid, parent, state in _processes():
        if not state.startswith("Z"):
            children.setdefault(parent, []).append(pid)
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _processes() -> Iterator[tuple[int, int, str]]:
    """Id, parent's id and state of every process."""
    if sys.platform == "linux":  # slim images have no ps
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                after_name = (folder / "stat").read_text().rpartition(")")[2].split()
                yield int(folder.name), int(after_name[1]), after_name[0]
        return
    with subprocess.Popen(
        ["ps", "-A", "-o", "pid=,ppid=,stat="], stdout=subprocess.PIPE, text=True
    ) as listing:
        assert listing.stdout is not None
        for line in listing.stdout:
            pid, parent, state = line.split(None, 2)
            if int(pid) != listing.pid:
                yield int(pid), int(parent), state


if __name__ == "__main__":
    sys.exit(main())
