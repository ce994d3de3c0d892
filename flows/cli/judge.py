"""`dataengine review judge`: a language model that answers for people after a few examples."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

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
        "dataengine review judge --labels --dataset photos --precision 0.95",
        "dataengine review judge --missing --dataset photos --precision 0.95",
    )
)
def judge(
    dataset: DatasetOption = "default",
    labels: Annotated[
        bool, typer.Option("--labels", help="Judge the labels that models gave, not masks.")
    ] = False,
    missing: Annotated[
        bool, typer.Option("--missing", help="Judge whether an image lacks masks.")
    ] = False,
    precision: Annotated[
        float, typer.Option(help="Share of the judge's sure answers that is to be right.")
    ] = 0.95,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Ask what people have answered; judge nothing."),
    ] = False,
    least: Annotated[
        int, typer.Option(min=20, help="Answers of people that the precision is shown on.")
    ] = 100,
    verdicts: Annotated[
        int, typer.Option(min=20, max=100_000, help="The most questions of --calibrate.")
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

    With --labels it confirms labels that models gave, and reviewers get the rest. With --missing it
    marks the images that are complete, and annotators get the rest.

    The model is that of DATAENGINE_LLM_URL and DATAENGINE_LLM_MODEL. It is off until --calibrate
    has shown its precision on people's answers. Stopped in any way, it resumes when the same
    command is repeated (docs/words.md).
    """
    from flows.review.route_options import RouteOptions

    about = _about(labels, missing, stage)
    RouteOptions(precision=precision, stage=stage)  # raises before Prefect starts
    options = {"encoder": encoder, "shots": shots}
    with in_workspace(as_json, orchestrated=True, after_stop=RESUMES) as workspace:
        from flows.review.judge_calibration import calibrate_judge

        workspace.catalog.datasets.get(dataset)
        root = str(workspace.settings.root)
        if calibrate:
            result = calibrate_judge(root, dataset, precision, least, verdicts, options, about)
        else:
            result = _judge(about, root, dataset, precision, stage, dry_run, options)
    if as_json:
        print_json(result if calibrate else {**result, "dry_run": dry_run})
    elif calibrate:
        print_calibration(result)
    else:
        (print_route if about == "masks" else print_answers)(result, dry_run=dry_run)


def _about(labels: bool, missing: bool, stage: Stage) -> str:
    if labels and missing:
        raise typer.BadParameter("ask about one thing at a time", param_hint="--missing")
    if (labels or missing) and stage != Stage.FULLY_AUTOMATIC:
        raise typer.BadParameter("only masks are chosen by their stage", param_hint="--stage")
    return "labels" if labels else "missing" if missing else "masks"


def _judge(
    about: str,
    root: str,
    dataset: str,
    precision: float,
    stage: Stage,
    dry_run: bool,
    options: dict[str, Any],
) -> dict[str, Any]:
    if about == "labels":
        from flows.review.label_judge import judge_labels

        return judge_labels(root, dataset, precision, dry_run, options)
    if about == "missing":
        from flows.review.missing_judge import judge_missing

        return judge_missing(root, dataset, precision, dry_run, options)
    from flows.review.mask_judge import judge_masks

    return judge_masks(root, dataset, precision, str(stage), dry_run, options)


def print_calibration(result: dict[str, Any]) -> None:
    """Print whether the judge is on, and its scores."""
    state = "on" if result["on"] else "off"
    console.print(f"{result['judge']} is {state}: {result['reason']}", markup=False, soft_wrap=True)
    told = (
        f"its yes or no is that of people on {number(result.get('accuracy'), '.1%')} of "
        f"{result['verdicts']:,} questions; calibrated, its probabilities are off by "
        f"{number(result.get('calibration_error'), '.3f')}; AUC {number(result.get('auc'), '.3f')}"
    )
    console.print(told, markup=False, soft_wrap=True)


_WAYS = {
    "labels": ("labels", "confirmed", "doubted, for reviewers", "for reviewers"),
    "missing": ("images", "an object is missing", "complete", "for annotators"),
}


def print_answers(result: dict[str, Any], *, dry_run: bool) -> None:
    """Print where labels or images went, or would go."""
    what, *ways = _WAYS[result["about"]]
    table = Table(title=f"{result['dataset']} by {result['verifier']}", header_style="bold")
    table.add_column("")
    table.add_column(what, justify="right")
    for way, count in zip(ways, ("passed", "dropped", "asked"), strict=True):
        table.add_row(way, f"{result[count]:,}")
    console.print(table)
    if result["saved"] is None:
        console.print(f"there are no {what} to ask about", markup=False)
        return
    told = "would need" if dry_run else "need"
    done = result["passed" if result["about"] == "labels" else "dropped"]
    share = done / (result["passed"] + result["dropped"] + result["asked"])
    console.print(f"{share:.0%} of the {what} {told} no person", markup=False)
