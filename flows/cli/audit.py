"""`dataengine audit`: how many automatic masks are good enough, by people's corrections;
`dataengine calibrate`: score thresholds from that."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from engine.core.records import Stage
from flows.cli.commands import (
    QUALITY,
    RESUMES,
    DatasetOption,
    JsonOption,
    example,
    in_workspace,
    print_json,
)
from flows.workspace.console import console

app = typer.Typer(rich_markup_mode="markdown")

DECISIONS = {
    "met": "met: the whole interval is at or above it",
    "missed": "missed: the whole interval is below it",
    "limit": "not decided: a larger --limit makes the interval narrower",
}


@app.command(
    rich_help_panel=QUALITY,
    epilog=example(
        "dataengine audit --dataset photos --at-iou 0.9 --target 0.94 --confidence 0.95",
        "dataengine audit --dataset nuclei --annotator simulated --limit 100 --json",
    ),
)
def audit(
    dataset: DatasetOption = "default",
    stage: Annotated[
        Stage, typer.Option(help="Stage whose automatic masks are sampled.")
    ] = Stage.FULLY_AUTOMATIC,
    at_iou: Annotated[
        float, typer.Option(help="IoU with its corrected version from which a mask is good enough.")
    ] = 0.9,
    target: Annotated[
        float, typer.Option(help="Share of masks that are to be good enough.")
    ] = 0.94,
    confidence: Annotated[float, typer.Option(help="Confidence of the intervals.")] = 0.95,
    limit: Annotated[int, typer.Option(min=1, help="Masks that are judged at most.")] = 400,
    seed: Annotated[int | None, typer.Option(help="Seed of the sample; random by default.")] = None,
    annotator: Annotated[
        str, typer.Option(help="people, at `dataengine annotate`; or simulated, from ground truth.")
    ] = "people",
    as_json: JsonOption = False,
) -> None:
    """Have a random sample of automatic masks corrected, and state the share that is good enough.

    It asks for more masks until the share's interval lies on one side of the target, or the limit
    is reached (docs/quality.md). Stopped in any way, it resumes when the same command is repeated.
    """
    from flows.review.audit_plan import AuditOptions, start_audit

    options = AuditOptions(
        stage=stage,
        at_iou=at_iou,
        target=target,
        confidence=confidence,
        limit=limit,
        seed=seed,
        annotator=annotator,
    )
    with in_workspace(as_json, orchestrated=True, after_stop=RESUMES) as workspace:
        from flows.review.audit import audit as flow

        run = start_audit(workspace, dataset, options)
        result = flow(str(workspace.settings.root), run.id)
    if as_json:
        print_json(result)
    else:
        print_audit(result)


@app.command(
    rich_help_panel=QUALITY,
    epilog=example(
        "dataengine calibrate --dataset photos --precision 0.9",
        "dataengine calibrate --dataset photos --precision 0.95 --at-iou 0.75 --dry-run --json",
    ),
)
def calibrate(
    precision: Annotated[
        float, typer.Option(help="Share of the masks that are to be good enough.")
    ],
    dataset: DatasetOption = "default",
    at_iou: Annotated[
        float | None,
        typer.Option(help="IoU from which a mask is good enough; by default the audit's."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Set the current model's score thresholds for a precision, from the dataset's latest audit.

    Of all thresholds with that precision on the judged masks it takes those that keep the most
    masks. They can only become stricter; existing masks stay (docs/quality.md).
    """
    with in_workspace(as_json) as workspace:
        from flows.review.audit_thresholds import thresholds_from_audit, use_thresholds

        change = thresholds_from_audit(workspace, dataset, precision, at_iou)
        if not dry_run:
            use_thresholds(workspace, change)
    if as_json:
        print_json({**change.to_json(), "dry_run": dry_run})
        return
    title = f"precision at IoU {change.at_iou:g}, by audit {change.audit[:8]}"
    table = Table(title=title, header_style="bold")
    names = ("thresholds", "predicted IoU above", "stability from", "masks kept", "judged")
    for name in (*names, "precision"):
        table.add_column(name, justify="left" if name == "thresholds" else "right")
    for name, row in (("before", change.before), ("after", change.after)):
        limits = row.thresholds
        scores = (f"{limits.min_predicted_iou:.2f}", f"{limits.min_stability:.2f}")
        share = _cell(asdict(row.precision))
        table.add_row(name, *scores, f"{row.kept:.1%}", str(row.judged), share)
    console.print(table)
    done = "would get" if dry_run else "has"
    told = f"{escape(change.version)} {done} these thresholds for new automatic masks"
    console.print(f"{told}; existing masks stay", soft_wrap=True)


def print_audit(result: dict[str, Any]) -> None:
    """Print an audit's result: shares by stratum with intervals, and the decision."""
    levels = list(result["shares"])
    title = f"{result['judged']} of {result['masks']:,} masks of {escape(result['dataset'])} judged"
    table = Table(title=title, header_style="bold")
    table.add_column("")
    for name in ("masks", "judged", *(f"IoU from {level}" for level in levels)):
        table.add_column(name, justify="right")
    whole = {"name": "all", "masks": result["masks"], "judged": result["judged"]}
    for row in [{**whole, "shares": result["shares"]}, *result["strata"]]:
        shares = [_cell(row["shares"][level]) for level in levels]
        table.add_row(escape(row["name"]), f"{row['masks']:,}", str(row["judged"]), *shares)
    paper = [f"{result['paper'][n]:.3f}" if n in result["paper"] else "–" for n in levels]
    table.add_row("SAM's paper, SA-1B", "", "", *paper)
    console.print(table)
    verdicts = result["verdicts"]
    console.print(
        f"{verdicts['accept']} masks accepted, {verdicts['fix']} fixed, {verdicts['reject']} "
        f"rejected; {result['unanswered']} could not be judged. Intervals: "
        f"{result['confidence']:.0%}, whenever the audit stops."
    )
    console.print(
        f"target {result['target']:g} at IoU {result['at_iou']:g}: {DECISIONS[result['decision']]}"
    )


def _cell(share: dict[str, float]) -> str:
    return f"{share['estimate']:.3f} [{share['low']:.3f}, {share['high']:.3f}]"
