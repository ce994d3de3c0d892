"""`dataengine ...`: every command calls one flow or one query.

Flows and torch are imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows import (
    amg,
    deployments,
    erasing,
    evaluate,
    models,
    operations,
    page,
    plans,
    production,
    schedules,
    starting,
    stepping,
)
from flows.logs import masked
from flows.private import for_people, private_files
from flows.settings import WorkspaceError, create_workspace, find_workspace
from flows.terminal import (
    GOES_ON,
    CrowdsOption,
    FrameOption,
    JsonOption,
    console,
    errors,
    example,
    in_workspace,
    number,
    print_json,
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="The open data engine: images in, masks and a better model out.",
    epilog="Start with `dataengine demo`, or `dataengine init` and `dataengine ingest`.",
)
DatasetOption = Annotated[str, typer.Option(help="Name of the dataset.")]
MODEL_CHOICE = """\
its model is the shipped lite; for photographs take a public one:
  on a CPU  dataengine models pull mobile_sam --promote   (41 MB)
  on a GPU  dataengine models pull vit_h --promote        (2.6 GB)"""


def _print_rounds(rows: list[dict[str, Any]]) -> None:
    sets = dict.fromkeys(row["scored_on"] for row in rows if row["scored_on"])
    caption = f"mIoU on {', then on '.join(sets)}" if sets else None
    table = Table(title="rounds", header_style="bold", caption=caption)
    for name in ("stage", "round", "images", "masks", "masks/image", "clicks/mask", "s/mask"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for name in ("model", "mIoU 1 click", "mIoU 3 clicks"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in rows:
        table.add_row(
            row["stage"],
            str(row["round"]),
            number(row["images"]),
            number(row["masks"]),
            number(row["masks_per_image"], ".1f"),
            number(row["clicks_per_mask"], ".2f"),
            number(row["seconds_per_mask"], ".1f"),
            row["model"] or "–",
            number(row["miou_1_click"], ".3f"),
            number(row["miou_3_clicks"], ".3f"),
        )
    console.print(table)


@app.command(epilog=example("dataengine init ws", "cd ws"))
def init(
    folder: Annotated[Path, typer.Argument(help="Folder to make the workspace in.")] = Path(),
) -> None:
    """Make a workspace: a folder with a `dataengine.toml`."""
    root = create_workspace(folder)
    from flows.wiring import open_workspace

    workspace = open_workspace(str(root))
    workspace.prepare()
    if not (uri := workspace.settings.store_uri).startswith(str(root)):
        console.print(f"its images and masks go to {uri} (uri under [store])", markup=False)
    where = shlex.quote(str(folder))
    told = f"workspace {root} is ready; next: cd {where} && dataengine ingest FOLDER"
    console.print(told, markup=False)
    console.print(MODEL_CHOICE)


@app.command(
    epilog=example(
        "dataengine ingest photos/ --dataset photos",
        "dataengine ingest nuclei/images --coco nuclei/instances.json --dataset nuclei",
    )
)
def ingest(
    folder: Annotated[Path, typer.Argument(help="Folder of images, searched recursively.")],
    dataset: DatasetOption = "default",
    coco: Annotated[
        Path | None, typer.Option(help="COCO instance annotations: the images' ground truth.")
    ] = None,
    held_out: Annotated[
        float | None, typer.Option(min=0, max=0.99, help="Share never trained on.")
    ] = None,
    crowds: CrowdsOption = "auto",
    frame: FrameOption = "auto",
    replace_annotations: Annotated[
        bool,
        typer.Option(
            "--replace-annotations", help="Of images that have others; those stay in the history."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring images into a dataset. Broken files are quarantined and stop nothing.

    What is read, by what rule, and what is passed over: docs/inputs.md.
    """
    if not folder.is_dir():
        raise typer.BadParameter(f"{folder} is not a folder", param_hint="FOLDER")
    if coco is not None and not coco.is_file():
        raise typer.BadParameter(f"{coco} is not a file", param_hint="--coco")
    if replace_annotations and coco is None:
        raise typer.BadParameter(
            "give the annotations with --coco", param_hint="--replace-annotations"
        )
    with in_workspace(as_json, orchestrated=True, after_stop=GOES_ON) as workspace:
        from flows.ingest import ingest as flow
        from flows.ingest import path_as_parameter
        from flows.inputs import print_left_out

        report = flow(
            str(workspace.settings.root),
            dataset,
            path_as_parameter(folder),
            path_as_parameter(coco) if coco else None,
            held_out,
            crowds=crowds,
            frame=frame,
            replace_annotations=replace_annotations,
        )
    if as_json:
        print_json(report)
        return
    replaced = f", {report['replaced']} images with new ones" if report["replaced"] else ""
    console.print(
        f"{report['added']} images added, {report['known']} known already, "
        f"{report['quarantined']} quarantined, {report['masks']} ground-truth masks{replaced}"
    )
    print_left_out(report["passed_over"], report["problems"])


@app.command(epilog=example("dataengine run --dataset nuclei --rounds 2,1 --images-per-round 60"))
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
        int | None, typer.Option(min=1, help="Images each round takes (default 60).")
    ] = None,
    new: Annotated[bool, typer.Option(help="Start anew where this plan is finished.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the loop: annotate, retrain, pre-fill, retrain, generate.

    Started again after it was stopped, in whatever way, it goes on where it was: a loop that is
    under way keeps its plan, which need not be given again.
    """
    with _usage("--annotator"):
        plans.check_annotator(annotator or "simulated")
    with _usage("--rounds"):
        plans.parse_rounds(rounds or "2,1")
    given = plans.PlanWords(rounds=rounds, images_per_round=images_per_round, annotator=annotator)
    with in_workspace(as_json, orchestrated=True, after_stop=GOES_ON) as workspace:
        from flows.data_engine import data_engine

        plan = plans.loop_plan(workspace, dataset, given)
        rows = data_engine(str(workspace.settings.root), dataset, plan, new)
    if as_json:
        print_json({"rounds": rows})
    else:
        _print_rounds(rows)


@contextmanager
def _usage(option: str) -> Iterator[None]:
    """A value that cannot be understood is told as one of the option."""
    try:
        yield
    except plans.BadPlanError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


@app.command(
    epilog=example("dataengine generate --dataset photos", "dataengine generate --resume RUN")
)
def generate(
    dataset: DatasetOption = "default",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many images.")] = None,
    only_new: Annotated[
        bool, typer.Option("--only-new", help="Only images that no such run has been over.")
    ] = False,
    resume: Annotated[str | None, typer.Option(help="Id of a run to go on with.")] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Begin anew where the same command was stopped.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make masks of everything in a dataset's images with the current model (stage 3).

    Given again after it was stopped, in whatever way, it goes on where it was.
    """
    goes_on = "the same command without --new goes on where it was" if new else GOES_ON
    with in_workspace(as_json, orchestrated=True, after_stop=goes_on) as workspace:
        from flows.fully_automatic import generate as flow
        from flows.fully_automatic import images_since, unfinished_generate
        from storage.catalog import new_id

        if resume is not None:
            run_id = resume
            run_row = workspace.catalog.runs.get(resume)
            dataset = workspace.catalog.datasets.get_by_id(run_row.dataset_id).name
        else:
            begun = unfinished_generate(workspace, dataset, limit=limit, only_new=only_new)
            if begun is None or new:
                run_id = new_id()
                errors.print(f"run {run_id}")
            else:
                run_id = begun.id
                done = workspace.catalog.shards.totals(run_id)
                errors.print(
                    f"going on with run {run_id}: {done.committed_images} of {done.images} images "
                    "are done; --new begins anew"
                )
                if since := images_since(workspace, begun):
                    then = f"dataengine generate --only-new --dataset {shlex.quote(dataset)}"
                    told = f"{since} images came in after it began; make theirs afterwards: {then}"
                    errors.print(told, markup=False, highlight=False, soft_wrap=True)
        root = str(workspace.settings.root)
        figures = flow(root, run_id, dataset, limit=limit, only_new=only_new)
    if as_json:
        print_json({"run": run_id, **figures})
    else:
        console.print(
            f"{figures['masks']} masks on {figures['images']} images "
            f"({figures['masks_per_image']:.1f} an image)"
        )


app.command(
    "amg",
    epilog=example(
        "dataengine amg photo.jpg --output masks/",
        "dataengine amg photos/ --model sam_vit_b_01ec64.pth --preset sa1b --output masks/",
    ),
)(for_people()(amg.amg))


@app.command(epilog=example("dataengine retrain --dataset nuclei"))
def retrain(
    dataset: DatasetOption = "default",
    version: Annotated[str | None, typer.Option(help="Name of the new model version.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train on the collected masks; promote the result if it is better on held-out images."""
    name = f"{dataset}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}" if version is None else version
    goes_on = GOES_ON if version else f"the same command with --version {name} goes on where it was"
    with in_workspace(as_json, orchestrated=True, after_stop=goes_on) as workspace:
        from flows.retrain import retrain as flow

        result = flow(str(workspace.settings.root), dataset, name)
    if as_json:
        print_json(result)
    else:
        console.print(f"{result['version']}: {result['reason']}; current is {result['model']}")


@app.command(epilog=example("dataengine review --dataset nuclei --images 20"))
def review(
    dataset: DatasetOption = "default",
    images: Annotated[int, typer.Option(min=1, help="Images to sample.")] = 20,
    seed: Annotated[
        int | None, typer.Option(help="Of the sample; another one each time by default.")
    ] = None,
    annotator: Annotated[
        str, typer.Option(help="simulated, from ground truth; or people, at `dataengine annotate`.")
    ] = "simulated",
    as_json: JsonOption = False,
) -> None:
    """Send a sample of automatic masks to the review queue, and wait until it is judged."""
    with _usage("--annotator"):
        plans.check_annotator(annotator)
    waits = "what is queued stays, and `dataengine advance` enters it once it is judged"
    stopped = waits if annotator == "people" else None
    with in_workspace(as_json, orchestrated=True, after_stop=stopped) as workspace:
        from flows.review import review as flow

        figures = flow(str(workspace.settings.root), dataset, images, None, seed, annotator)
    if as_json:
        print_json(figures)
    else:
        console.print(
            f"{figures['judged']} masks judged: {figures['accept']} accepted, "
            f"{figures['fix']} fixed, {figures['reject']} rejected"
            if figures["judged"]
            else "no automatic mask is left that no reviewer was asked about"
        )


app.command(
    "evaluate",
    epilog=example(
        "dataengine evaluate --images val/images --coco val/instances.json --json",
        "dataengine evaluate --set cells=cells/images,cells/instances.json "
        "--set photos=photos/images,photos/instances.json --output scores/",
    ),
)(for_people()(evaluate.evaluate))


app.add_typer(models.app, name="models")
app.command("annotate", epilog=page.annotate_help)(page.annotate)
app.add_typer(page.annotators, name="annotators")
operations.register(app)
app.add_typer(erasing.app, name="erase")
app.command("up", epilog=production.up_help)(production.up)
app.command("deploy", epilog=deployments.deploy_help)(deployments.deploy)
app.command("start", epilog=starting.start_help)(starting.start)
app.add_typer(schedules.schedule, name="schedule")
app.command("advance", epilog=stepping.advance_help)(stepping.advance)
app.command("rescore", epilog=stepping.rescore_help)(stepping.rescore)


@app.command(epilog=example("dataengine status", "dataengine status --json"))
def status(as_json: JsonOption = False) -> None:
    """Datasets, images, masks, rounds, models, tasks, runs, releases, quarantine, costs."""
    with in_workspace(as_json) as workspace:
        from flows.status import status_of

        found = status_of(workspace)
    if as_json:
        print_json(found)
        return
    table = Table("", "", title=str(workspace.settings.root), show_header=False)
    for name in ("images", "masks", "tasks", "runs", "models", "quarantine"):
        parts = [f"{key} {value}" for key, value in found[name].items()]
        table.add_row(name, ", ".join(parts) or "none")
    unused = [row for rows in found["passed_over"].values() for row in rows]
    told = ", ".join(f"{row['count']} {row['what']}" for row in unused)
    table.add_row("not used", Text(told or "none"))
    table.add_row("datasets", ", ".join(found["datasets"]) or "none")
    table.add_row("releases", ", ".join(row["name"] for row in found["releases"]) or "none")
    console.print(table)
    if found["rounds"]:
        _print_rounds(found["rounds"])
    operations.print_costs(found["costs"])


@app.command(epilog=example("dataengine release nuclei-1 --dataset nuclei"))
def release(
    name: Annotated[str, typer.Argument(help="Name of the release.")],
    dataset: DatasetOption = "default",
    as_json: JsonOption = False,
) -> None:
    """Freeze a dataset: pin the mask table's version; write COCO, SA-1B, a report and a card."""
    with in_workspace(as_json, orchestrated=True, after_stop=GOES_ON) as workspace:
        from flows.release import is_released
        from flows.release import release as flow

        was_done = is_released(workspace, name)
        card = flow(str(workspace.settings.root), dataset, name)
    if as_json:
        print_json({**card, "made_before": was_done})
        return
    told = f"release {name}: {card['masks']} masks on {card['images']} images"
    if was_done:
        told += f", as it was made at {card['created_at']}; what came since needs a new name"
    console.print(told, markup=False, soft_wrap=True)
    _tell_statuses(card)


def _tell_statuses(counts: dict[str, Any]) -> None:
    """What is known of the dataset's images; releases made by older versions do not say."""
    statuses = counts.get("statuses")
    if statuses is None:
        return
    console.print(f"{statuses['annotated']} images annotated, {statuses['generated']} generated")
    if statuses["neither"]:
        console.print(
            f"{statuses['neither']} images neither annotated nor generated: exports leave them out "
            "without --all-images"
        )


@app.command(epilog=example("dataengine export latest --format coco --out out/"))
def export(
    name: Annotated[str, typer.Argument(help="A release, or `latest`.")] = "latest",
    style: Annotated[str, typer.Option("--format", help="coco or sa1b.")] = "coco",
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("out"),
    dataset: Annotated[
        str | None, typer.Option(help="Whose latest release; needed with several datasets.")
    ] = None,
    all_images: Annotated[
        bool,
        typer.Option("--all-images", help="Also images neither annotated nor generated, as empty."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a release and its report into a folder. `latest` releases the dataset first if it
    never was."""
    with in_workspace(as_json, orchestrated=True) as workspace:
        from flows.release import export_release, release_to_export

        chosen = release_to_export(workspace, name, dataset)
        with for_people():
            counts = export_release(workspace, chosen, out, style, all_images=all_images)
    if as_json:
        print_json({"release": chosen.name, "folder": str(out), **counts})
    else:
        console.print(f"{counts['masks']} masks of {counts['images']} images are in {out}")
        _tell_statuses(counts)


@app.command(epilog=example("dataengine demo", "make demo"))
def demo(
    folder: Annotated[Path, typer.Argument(help="Workspace; an earlier demo is replaced.")] = Path(
        "demo"
    ),
    as_json: JsonOption = False,
) -> None:
    """Run everything once on generated scenes and real photographs, and write a report."""
    import os

    from flows.demo_setup import prepare_demo

    root = prepare_demo(folder.resolve())
    os.environ["DATAENGINE_WORKSPACE"] = str(root)
    with in_workspace(as_json, orchestrated=True) as workspace:
        from flows.demo import demo as flow

        summary = flow(str(workspace.settings.root))
    if as_json:
        print_json(summary)
        return
    _print_rounds(summary["rounds"])
    final = summary["final"]
    console.print(
        f"after the last retrain: {final['model']}, held-out mIoU {final['miou_1_click']:.3f} at 1 "
        f"click, {final['miou_3_clicks']:.3f} at 3 clicks"
    )
    console.print(f"{summary['seconds']:.0f} s; report: {summary['report']}", soft_wrap=True)


@app.command(epilog=example("dataengine doctor"))
def doctor(as_json: JsonOption = False) -> None:
    """Check the workspace: catalog, store, table, model, Prefect, disk, clock, leases and more."""
    from flows.doctor import check_workspace, print_checks

    checks = check_workspace(find_workspace())
    if as_json:
        print_json({"ok": all(check["ok"] for check in checks), "checks": checks})
    else:
        print_checks(checks)
    if not all(check["ok"] for check in checks):
        raise typer.Exit(1)


def main() -> None:
    """Run a command; what the user can mend is said in one line, without a traceback."""
    try:
        with private_files():
            app(standalone_mode=True)
    except WorkspaceError as error:
        _say(str(error))
    except Exception as error:
        from flows.failures import told_in_a_line

        if (told := told_in_a_line(error)) is None:
            raise
        _say(told)


def _say(text: str) -> None:
    errors.print(f"[red]error:[/red] {escape(masked(text))}", highlight=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
