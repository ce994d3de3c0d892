"""Runs one service, and ends it and its descendants when the parent process ends.

    python -m flows.services.process_guard LOCK SIGNAL USER command...

The command runs until it ends or standard input closes, which the operating system does when the
parent dies in any way. Then the service gets SIGNAL; processes of it that are left after
GRACE_SECONDS are killed. The guard holds LOCK meanwhile, so that no two services use the same data.
USER is `-` for the current user.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import psutil
from filelock import FileLock, Timeout

GRACE_SECONDS = 8.0
LOCK_SECONDS = 30.0
LOOK_SECONDS = 0.1

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Guard the given command; returns its exit code, or 128 plus the number of the signal."""
    lock, stop, user, *command = sys.argv[1:]
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: end.set())
    try:  # the guard of an earlier run may still be ending
        held = FileLock(lock).acquire(LOCK_SECONDS, cancel_check=end.is_set)
    except Timeout:
        print(f"{lock} is held by another process", file=sys.stderr)
        return 75
    with held:
        threading.Thread(target=_wait_for_parent, args=(end,), daemon=True).start()
        _adopt_orphans()
        code = _run(command, signal.Signals[stop], None if user == "-" else user, end)
    return code if code >= 0 else 128 - code


def _wait_for_parent(end: threading.Event) -> None:
    while os.read(0, 4096):  # sys.stdin would hold a lock that Python needs at exit
        continue
    end.set()


def _run(command: list[str], stop: signal.Signals, user: str | None, end: threading.Event) -> int:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        user=user,
        group=user,  # without this process's groups
        extra_groups=None if user is None else [],
        start_new_session=True,
        preexec_fn=_signal_at_parent_death(stop),
    )
    while process.poll() is None and not end.is_set():
        time.sleep(LOOK_SECONDS)
    if process.poll() is None:
        process.send_signal(stop)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    _end_descendants()
    return process.wait()


def _signal_at_parent_death(stop: signal.Signals) -> Callable[[], None] | None:
    """On Linux: a function for the child, which then gets the signal even if the guard is
    killed."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)  # loaded before the fork
    return lambda: library.prctl(PR_SET_PDEATHSIG, int(stop))


def _adopt_orphans() -> None:
    """On Linux: make children of dead descendants children of this process, which then finds
    them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def _end_descendants() -> None:
    """Terminate all descendants of this process; kill those that do not end."""
    for end, seconds in ((psutil.Process.terminate, 2.0), (psutil.Process.kill, 5.0)):
        processes = psutil.Process().children(recursive=True)
        for process in processes:
            with contextlib.suppress(psutil.Error):
                end(process)
        psutil.wait_procs(processes, seconds)


if __name__ == "__main__":
    sys.exit(main())
