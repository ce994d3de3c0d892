"""A worker's process that stops where it is told, so that a test can freeze or kill it there.

`python -m tests.faults.shard_worker ROOT RUN POINT FOLDER` waits for FOLDER/start, works on the
run's shards, and at POINT of its first one makes FOLDER/there and waits for FOLDER/go. Points:
`masks_made`, `before_commit` (the lease was checked, the masks are not in the table), and
`after_commit` (they are, and the catalog does not know); `never` is none.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows import fully_automatic
from flows.wiring import open_workspace

WAIT_SECONDS = 120.0


def wait_for(path: Path) -> None:
    """Until the file is there.

    Raises:
        TimeoutError: it did not come.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} did not come")
        time.sleep(0.01)


def main() -> None:
    """Work until the run is done."""
    root, run_id, point, name = sys.argv[1:]
    folder, workspace = Path(name), open_workspace(root)

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
    workspace.segmenter()  # so that no time goes by between start and the first lease
    (folder / "ready").touch()
    wait_for(folder / "start")
    while workspace.catalog.shards.remaining(run_id):
        if fully_automatic.next_shard(workspace, run_id) is None:
            time.sleep(0.1)


if __name__ == "__main__":
    main()
