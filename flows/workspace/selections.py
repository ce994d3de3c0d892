"""The images and objects that runs of programs selected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.core.errors import DataEngineError
from storage import layout
from storage.catalog import Run, RunKind, RunState
from storage.shard_rows import ShardRows

if TYPE_CHECKING:
    from flows.workspace.workspace import Workspace

RUNS = 10_000
"""Latest runs of a dataset that are searched."""


class SelectionError(DataEngineError):
    """No finished run of a program has that id or tag; the message says which there are."""


def program_run(workspace: Workspace, dataset_id: int, name: str) -> Run:
    """Return a finished run of a program: by its id, else the newest with that tag, else the newest
    of the program of that name.

    Raises:
        SelectionError: there is none.
    """
    found = workspace.catalog.runs.all(dataset_id=dataset_id, kind=RunKind.PROGRAM, limit=RUNS)
    done = [run for run in found if run.state == RunState.FINISHED]
    for of in (_id, _tag, _program):
        for run in done:
            if of(run) == name:
                return run
    tags = sorted({one for run in done if (one := _tag(run))})
    raise SelectionError(
        f"no finished run of a program has the id or tag {name!r} (tags: "
        f"{', '.join(tags[:20]) or 'none'}); `dataengine program runs` lists them"
    )


def _id(run: Run) -> str:
    return run.id


def _tag(run: Run) -> str | None:
    found: str | None = run.config["asked"]["tag"]
    return found


def _program(run: Run) -> str | None:
    found: str | None = run.config["asked"]["name"]
    return found


@dataclass(frozen=True, slots=True)
class Selection:
    """What a run selected: images, the second ones of pairs included; and the objects by image id,
    where the program ends in objects."""

    image_ids: set[int]
    mask_ids: dict[int, list[str]]


def selection(workspace: Workspace, dataset_id: int, name: str) -> Selection:
    """Return what a run of a program selected.

    Raises:
        SelectionError: as `program_run`.
    """
    run = program_run(workspace, dataset_id, name)
    rows = ShardRows(workspace.objects, layout.PROGRAM).read(
        run.id, ["image_id", "right_id", "selected", "mask_ids"]
    )
    found = Selection(set(), {})
    for row in rows:
        if row["selected"]:
            found.image_ids.update({row["image_id"], row["right_id"]} - {None})
            if row["mask_ids"]:
                found.mask_ids.setdefault(row["image_id"], []).extend(row["mask_ids"])
    return found


def selected_images(workspace: Workspace, dataset_id: int, name: str) -> set[int]:
    """Return the images that a run of a program selected.

    Raises:
        SelectionError: as `program_run`.
    """
    return selection(workspace, dataset_id, name).image_ids
