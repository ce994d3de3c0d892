"""A worker's process that stops where it is told, so that a test can freeze or kill it there.

It waits for FOLDER/start, works on the run's shards until none is left, and at POINT of its first
one makes FOLDER/there and waits for FOLDER/go. Points: `masks_made`, `before_commit` (the lease was
checked, the masks are not in the table), and `after_commit` (they are, and the catalog does not
know); `never` is none.

`python -m tests.faults.shard_worker ROOT RUN POINT FOLDER` loads the model as every worker does.
Those that `tests.faults.crew` forks have it from the process they are forked from.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.stages import fully_automatic
from flows.workspace import workspace
from flows.workspace.retry import retry_during_outage
from flows.workspace.workspace import open_workspace

if TYPE_CHECKING:
    from engine.sam import Segmenter

WAIT_SECONDS = 120.0


@cache
def shipped_segmenter() -> Segmenter:
    """The shipped model, from the package."""
    from engine.sam import Segmenter, load_checkpoint
    from engine.sam.checkpoint import shipped_path

    sam, card = load_checkpoint(shipped_path(), "cpu")
    return Segmenter.from_card(sam, card)


def wait_for(path: Path) -> None:
    """Wait for the file.

    Raises:
        TimeoutError: it did not come.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} did not come")
        time.sleep(0.01)


def work_forked(root: str, run_id: str, point: str, folder: Path) -> None:
    """Run `work` in a process that has loaded the model, with its output in FOLDER/log."""
    with (folder / "log").open("wb") as log:
        for output in (1, 2):
            os.dup2(log.fileno(), output)
    workspace._load_segmenter = lambda workspace, version: shipped_segmenter()  # type: ignore[assignment]
    work(root, run_id, point, folder)


def work(root: str, run_id: str, point: str, folder: Path) -> None:
    """Process shards until the run is finished."""
    workspace = open_workspace(root)

    def held(function: Callable[..., Any], before: str, after: str) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            stop(before)
            result = function(*args, **kwargs)
            stop(after)
            return result

        return wrapped

    def stop(here: str) -> None:
        if here == point and not (folder / "there").exists():
            (folder / "there").touch()
            wait_for(folder / "go")

    make = fully_automatic._shard_masks
    fully_automatic._shard_masks = held(make, "", "masks_made")
    commit = workspace.masks.commit
    workspace.masks.commit = held(commit, "before_commit", "after_commit")  # type: ignore[method-assign]
    outage_seconds = workspace.settings.outage_seconds
    workspace.segmenter()  # to avoid a delay between start and the first lease
    (folder / "ready").touch()
    wait_for(folder / "start")
    while retry_during_outage(outage_seconds, lambda: workspace.catalog.shards.remaining(run_id)):
        if fully_automatic.generate_shard.fn(root, run_id) is None:
            time.sleep(0.1)


if __name__ == "__main__":
    root, run_id, point, folder = sys.argv[1:]
    work(root, run_id, point, Path(folder))
