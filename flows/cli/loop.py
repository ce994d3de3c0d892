"""Commands of the loop: run it, or run one of its steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from engine.core.records import Source, Stage
from flows.cli import judge
from flows.cli.commands import (
    LOOP,
    MODELS,
    RESUMES,
    ChoiceOption,
    DatasetOption,
    JsonOption,
    example,
    in_workspace,
    number,
    print_json,
)
from flows.cli.tables import print_rounds
from flows.loop import plan
from flows.workspace.console import console

app = typer.Typer(rich_markup_mode="markdown")
reviewer = typer.Typer(
    rich_markup_mode="markdown",
    epilog=example(
        "dataengine review --dataset nuclei --images 20",
        "dataengine review --dataset photos --annotator people --score 0.7-0.9 --size small",
        "dataengine review --dataset photos --annotator people --rules",
        "dataengine review judge --dataset photos --calibrate",
    ),
)
reviewer.add_typer(judge.app)


@app.command(
    rich_help_panel=LOOP,
    epilog=example("dataengine run --dataset nuclei --rounds 2,1 --images-per-round 60"),
)
def run(
    dataset: DatasetOption = "default",
    annotator: Annotated[
        str | None,
        typer.Option(help="simulated, from ground truth (default); or people, at the page."),
    ] = None,
    rounds: Annotated[
        str | None,
        typer.Option(help="Rounds of stage 1, 2 and (default 1) 3, e.g. 2,1 (default) or 2,1,1."),
    ] = None,
    images_per_round: Annotated[
        int | None, typer.Option(min=1, help="Images per round (default 60).")
    ] = None,
    choice: Annotated[
        str | None,
        typer.Option(
            help="Which images are annotated: random (in order of ingest; the default, or the "
            "setting), disagreement (least certain automatic masks), diversity (least like the "
            "annotated ones), mix (half of each), program:RUN (those that a program selected)."
        ),
    ] = None,
    new: Annotated[bool, typer.Option(help="Start a new loop if this plan is finished.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the loop: annotate, retrain, pre-fill, retrain, generate.

    Stopped in any way, it resumes when it is started again: an unfinished loop keeps its plan,
    which need not be given again.
    """
    with _errors_of_option("--annotator"):
        plan.check_annotator(annotator or "simulated")
    with _errors_of_option("--rounds"):
        plan.parse_rounds(rounds or "2,1")
    if choice is not None:
        with _errors_of_option("--choice"):
            plan.check_choice(choice)
    given = plan.PlanOptions(
        rounds=rounds, images_per_round=images_per_round, annotator=annotator, choice=choice
    )
    with in_workspace(as_json, orchestrated=True, after_stop=RESUMES) as workspace:
        from flows.loop.data_engine import data_engine

        planned = plan.loop_plan(workspace, dataset, given)
        rows = data_engine(str(workspace.settings.root), dataset, planned, new)
    if as_json:
        print_json({"rounds": rows})
    else:
        print_rounds(rows)


@contextmanager
def _errors_of_option(option: str) -> Iterator[None]:
    """Report a value that cannot be parsed as an error of the option."""
    try:
        yield
    except plan.BadPlanError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


@app.command(rich_help_panel=LOOP, epilog=example("dataengine retrain --dataset nuclei"))
def retrain(
    dataset: DatasetOption = "default",
    version: Annotated[str | None, typer.Option(help="Name of the new model version.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train on the collected masks; promote the result if it is better on held-out images."""
    name = f"{dataset}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}" if version is None else version
    after_stop = RESUMES if version else f"the same command with --version {name} resumes it"
    with in_workspace(as_json, orchestrated=True, after_stop=after_stop) as workspace:
        from flows.training.retrain import retrain as flow

        result = flow(str(workspace.settings.root), dataset, name)
    if as_json:
        print_json(result.to_json())
    else:
        console.print(f"{result.version}: {result.reason}; current is {result.model}")


@reviewer.callback(invoke_without_command=True)
def review(
    context: typer.Context,
    dataset: DatasetOption = "default",
    images: Annotated[
        int | None,
        typer.Option(min=1, help="Images to sample (default 20; with --rules all)."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sample; random by default.")] = None,
    annotator: Annotated[
        str, typer.Option(help="simulated, from ground truth; or people, at `dataengine annotate`.")
    ] = "simulated",
    source: Annotated[
        Source | None, typer.Option(help="How the masks were made (default: automatic).")
    ] = None,
    stage: Annotated[Stage | None, typer.Option(help="Stage that made them.")] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="Name of the annotator who made or kept them.")
    ] = None,
    score: Annotated[
        str | None, typer.Option(help="Band of their predicted IoU, e.g. 0.7-0.9.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="small (below 32² pixels), medium (below 96²) or large.")
    ] = None,
    rules: Annotated[
        bool,
        typer.Option("--rules", help="People's masks, by their scores in gold tasks."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Send a sample of masks, by default automatic ones, to the review queue, and wait until it is
    reviewed.

    --rules takes people's masks: all of annotators whose gold score lies below the threshold, and
    the shares in [quality] of others (docs/quality.md). Repeated, it adds only what is new.
    """
    if context.invoked_subcommand is not None:
        return
    with _errors_of_option("--annotator"):
        plan.check_annotator(annotator)
    only = {"source": source, "stage": stage, "by": by, "score": score, "size": size}
    given = {name: str(value) for name, value in only.items() if value is not None}
    from flows.review.wanted import Wanted, check_wanted

    wanted = Wanted.parse(**given, rules=rules)  # before anything is started
    waits = "the tasks stay queued; `dataengine advance` enters the verdicts once all are given"
    stopped = waits if annotator == "people" else None
    with in_workspace(as_json, orchestrated=True, after_stop=stopped) as workspace:
        from flows.review.review import review as flow

        check_wanted(workspace, dataset, wanted)
        root = str(workspace.settings.root)
        figures = flow(root, dataset, images, None, seed, annotator, given, rules)
    which = "mask that fits" if given or rules else "automatic mask"
    if as_json:
        print_json(figures)
    else:
        console.print(
            f"{figures['judged']} masks reviewed: {figures['accept']} accepted, "
            f"{figures['fix']} fixed, {figures['reject']} rejected"
            if figures["judged"]
            else f"every {which} has been sent to a reviewer already"
        )


@app.command(
    rich_help_panel=LOOP,
    epilog=example("dataengine advance", "dataengine advance --dataset cells --json"),
)
def advance(dataset: ChoiceOption = None, as_json: JsonOption = False) -> None:
    """Take the loop's next step, as far as it goes without waiting for people.

    Enters finished reviews, continues rounds whose tasks are all submitted, retrains and compares
    models when that is due. If nothing is due it changes nothing, so it may run at any time.
    """
    with in_workspace(as_json, orchestrated=True, after_stop=RESUMES) as workspace:
        from flows.deploy.prefect_flows import advance_loop

        rows = advance_loop(str(workspace.settings.root), dataset)
    if as_json:
        print_json({"datasets": rows})
        return
    for row in rows:
        console.print(_describe_step(row), markup=False)


def _describe_step(row: dict[str, Any]) -> str:
    states = {
        "waiting": f"{row['tasks']} images wait for people",
        "busy": "another process runs this step",
    }
    loop = states.get(row["loop"], row["loop"])
    retrained = row["retrain"]["retrained"]
    return (
        f"{row['dataset']}: loop: {loop}; reviews finished: {row['reviews']}; "
        f"retrained: {number(retrained)}"
    )


@app.command(rich_help_panel=MODELS, epilog=example("dataengine rescore --dataset cells"))
def rescore(dataset: ChoiceOption = None, as_json: JsonOption = False) -> None:
    """Compare a sample of old automatic masks with the current model, once per version that becomes
    current. Masks on which the two differ go to the review queue."""
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
