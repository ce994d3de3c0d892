"""`dataengine advance` and `dataengine rescore`: what triggers start, by hand."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows.cli.console import (
    GOES_ON,
    JsonOption,
    console,
    example,
    in_workspace,
    number,
    print_json,
)

DatasetOption = Annotated[str | None, typer.Option(help="Name of a dataset; all by default.")]

advance_help = example("dataengine advance", "dataengine advance --dataset cells --json")
rescore_help = example("dataengine rescore --dataset cells")


def advance(dataset: DatasetOption = None, as_json: JsonOption = False) -> None:
    """Take the loop's next step, as far as it goes without waiting for people.

    Enters reviews that are judged, goes on with a round whose tasks are all handed in, retrains
    and compares where that is due. Where nothing is, it does nothing; so it may run at any time.
    """
    with in_workspace(as_json, orchestrated=True, after_stop=GOES_ON) as workspace:
        from flows.deploy.prefect_flows import advance_loop

        rows = advance_loop(str(workspace.settings.root), dataset)
    if as_json:
        print_json({"datasets": rows})
        return
    for row in rows:
        console.print(_told(row), markup=False)


def _told(row: dict[str, Any]) -> str:
    told = {
        "waiting": f"{row['tasks']} images wait for people",
        "busy": "another process is at it and goes on by itself",
    }
    loop = told.get(row["loop"], row["loop"])
    retrained = row["retrain"]["retrained"]
    return (
        f"{row['dataset']}: loop: {loop}; reviews finished: {row['reviews']}; "
        f"retrained: {number(retrained)}"
    )


def rescore(dataset: DatasetOption = None, as_json: JsonOption = False) -> None:
    """Compare a sample of old automatic masks with the current model, once for each version that
    becomes current; masks on which the two differ go to the review queue."""
    with in_workspace(as_json, orchestrated=True) as workspace:
        from flows.deploy.prefect_flows import rescore_masks

        rows = rescore_masks(str(workspace.settings.root), dataset)
    if as_json:
        print_json({"compared": rows})
        return
    for row in rows:
        console.print(
            f"{row['disagreements']} of {row['masks']} old masks differ; {row['queued']} images "
            "go to review"
        )
    if not rows:
        console.print("nothing to compare: no old automatic masks, or they were compared before")
