"""`dataengine review judge`: a language model that judges masks after a few examples."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from engine.core.records import Stage
from flows.cli.commands import (
    RESUMES,
    DatasetOption,
    JsonOption,
    example,
    in_workspace,
    number,
    print_json,
)
from flows.cli.verifier import print_route
from flows.workspace.console import console

app = typer.Typer(rich_markup_mode="markdown")


@app.command(
    epilog=example(
        "dataengine review judge --dataset photos --calibrate --precision 0.95",
        "dataengine review judge --dataset photos --precision 0.95 --dry-run",
        "dataengine review judge --dataset photos --precision 0.95",
    )
)
def judge(
    dataset: DatasetOption = "default",
    precision: Annotated[
        float, typer.Option(help="Share of the judge's verdicts that is to be right.")
    ] = 0.95,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Ask about masks that people have judged; judge nothing."),
    ] = False,
    least: Annotated[
        int, typer.Option(min=20, help="Verdicts of people that the precision is shown on.")
    ] = 100,
    verdicts: Annotated[
        int, typer.Option(min=20, max=100_000, help="The most masks that --calibrate asks about.")
    ] = 300,
    shots: Annotated[int, typer.Option(min=0, max=64, help="Examples in a question.")] = 8,
    encoder: Annotated[
        str, typer.Option(help="Of the vectors that examples are chosen by: lite, clip:NAME.")
    ] = "lite",
    stage: Annotated[
        Stage, typer.Option(help="Stage whose automatic masks are judged.")
    ] = Stage.FULLY_AUTOMATIC,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Let a language model that sees pictures judge automatic masks after examples of people's
    verdicts, where it is sure; the rest goes to the review queue.

    The model is that of DATAENGINE_LLM_URL and DATAENGINE_LLM_MODEL. It is off until --calibrate
    has shown its precision on people's verdicts. Stopped in any way, it resumes when the same
    command is repeated (docs/words.md).
    """
    from flows.review.model_routing import RouteOptions

    RouteOptions(precision=precision, stage=stage)  # raises before Prefect starts
    options = {"encoder": encoder, "shots": shots}
    with in_workspace(as_json, orchestrated=True, after_stop=RESUMES) as workspace:
        from flows.review.few_shot_judge import calibrate_judge, judge_masks

        workspace.catalog.datasets.get(dataset)
        root = str(workspace.settings.root)
        if calibrate:
            result = calibrate_judge(root, dataset, precision, least, verdicts, options)
        else:
            result = judge_masks(root, dataset, precision, str(stage), dry_run, options)
    if as_json:
        print_json(result if calibrate else {**result, "dry_run": dry_run})
    elif calibrate:
        print_calibration(result)
    else:
        print_route(result, dry_run=dry_run)


def print_calibration(result: dict[str, Any]) -> None:
    """Print whether the judge is on, and its scores."""
    state = "on" if result["on"] else "off"
    console.print(f"{result['judge']} is {state}: {result['reason']}", markup=False, soft_wrap=True)
    told = (
        f"its yes or no is that of people on {number(result.get('accuracy'), '.1%')} of "
        f"{result['verdicts']:,} masks; calibrated, its probabilities are off by "
        f"{number(result.get('calibration_error'), '.3f')}; AUC {number(result.get('auc'), '.3f')}"
    )
    console.print(told, markup=False, soft_wrap=True)
