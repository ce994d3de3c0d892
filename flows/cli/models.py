"""`dataengine models ...`: the model versions of a workspace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from flows.cli.commands import RESUMES, JsonOption, example, in_workspace, number, print_json
from flows.workspace.console import console
from storage.catalog.states import ModelKind

if TYPE_CHECKING:
    from flows.review.change_model import ModelChange
    from flows.workspace.workspace import Workspace
    from storage.catalog import Model

app = typer.Typer(rich_markup_mode="markdown")

VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="A model version.")]
NameOption = Annotated[str | None, typer.Option(help="Name of the new version.")]
KindOption = Annotated[ModelKind, typer.Option(help="What the model does.")]
PromoteOption = Annotated[bool, typer.Option("--promote", help="Make it the current version.")]


@app.callback(
    invoke_without_command=True,
    epilog=example("dataengine models", "dataengine models pull mobile_sam --promote"),
)
def models(
    context: typer.Context, kind: KindOption = ModelKind.SEGMENTER, as_json: JsonOption = False
) -> None:
    """List model versions; show, promote, roll back, import or pull one."""
    if context.invoked_subcommand is None:
        list_models(kind, as_json)


@app.command("list", epilog=example("dataengine models list --json"))
def list_models(kind: KindOption = ModelKind.SEGMENTER, as_json: JsonOption = False) -> None:
    """List the model versions of a kind, the newest first."""
    with in_workspace(as_json) as workspace:
        from flows.training.compared_scores import compared_set

        found = workspace.catalog.models.all(kind)
        compared = compared_set(found)
        rows = [_row(model, compared) for model in found]
    if as_json:
        print_json({"models": rows})
        return
    columns = ("version", "state", "architecture", "parent", "mask table", "made")
    table = Table(*columns, "mIoU, 1 click", caption=f"mIoU on {compared}" if compared else None)
    for row in rows:
        *values, score, _ = row.values()
        table.add_row(*(number(value) for value in values), number(score, ".3f"))
    console.print(table)


def _row(model: Model, compared: str | None) -> dict[str, Any]:
    from flows.training.compared_scores import score_row

    scores = score_row(model, compared)
    return {
        "version": model.version,
        "state": str(model.state),
        "architecture": model.architecture,
        "parent": model.parent,
        "table_version": model.table_version,
        "created_at": model.created_at.isoformat(timespec="seconds"),
        "miou_1_click": scores["miou_1_click"],
        "scored_on": scores["scored_on"],
    }


@app.command(epilog=example("dataengine models show lite"))
def show(version: VersionArgument) -> None:
    """Print a version's card as JSON: its training data, scores and thresholds."""
    with in_workspace(as_json=True) as workspace:
        print(json.dumps(workspace.catalog.models.get(version).card, indent=2))


@app.command(epilog=example("dataengine models promote nuclei-2"))
def promote(version: VersionArgument, as_json: JsonOption = False) -> None:
    """Make a version the current one, and do what follows from it.

    Its thresholds are calibrated first, where held-out images have masks. Old automatic masks are
    compared with it afterwards, by a worker if `rescore` is deployed. Tasks that are queued from
    then on have its embeddings.

    Stopped in any way, it resumes when the same command is given again.
    """
    with in_workspace(as_json, after_stop=RESUMES) as workspace:
        change = _promote(workspace, version)
    _tell(change, as_json)


def _promote(workspace: Workspace, version: str) -> ModelChange:
    from flows.deploy.start import is_deployed
    from flows.review import change_model

    return change_model.promote(workspace, version, has_worker=is_deployed(workspace, "rescore"))


def _tell(change: ModelChange, as_json: bool) -> None:
    if as_json:
        print_json(change.to_json())
        return
    replaced = "as before" if change.replaced is None else f"it replaced {change.replaced}"
    lines = [f"{change.current} is current; {replaced}"]
    if change.thresholds is not None:
        lines.append(change.thresholds)
    if change.compared is None:
        lines.append(f"a worker compares old masks with {change.current} (`dataengine status`)")
    for model, count in change.open_tasks.items():
        told = f"{count} open tasks keep {model}, with which they were queued"
        lines.append(f"{told}; later ones have embeddings of {change.current}")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


@app.command(
    epilog=example("dataengine models rollback", "dataengine models rollback --kind verifier")
)
def rollback(kind: KindOption = ModelKind.SEGMENTER, as_json: JsonOption = False) -> None:
    """Make the version current that was current before. Repeat to go further back.

    Old automatic masks are compared with it, as after `promote`.
    """
    after_stop = "`dataengine models` shows the current version; `dataengine rescore` goes on"
    with in_workspace(as_json, after_stop=after_stop) as workspace:
        from flows.deploy.start import is_deployed
        from flows.review import change_model

        change = change_model.roll_back(
            workspace, kind, has_worker=is_deployed(workspace, "rescore")
        )
    _tell(change, as_json)


@app.command(
    "import",
    epilog=example(
        "dataengine models import sam_vit_b_01ec64.pth",
        "dataengine models import mobile_sam.pt --promote",
        "dataengine models import weights.safetensors --name cells-1 --promote",
    ),
)
def import_file(
    file: Annotated[Path, typer.Argument(help="A .pth, .pt or .safetensors file of weights.")],
    name: NameOption = None,
    promote: PromoteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Create a version from a file: segment_anything's own .pth, MobileSAM's .pt, or safetensors
    with or without a card. Code in the file is never run."""
    after_stop = "if `dataengine models` lists it, `dataengine models promote` goes on"
    with in_workspace(as_json, after_stop=after_stop) as workspace:
        from flows.data.import_model import import_model

        _finish(workspace, import_model(workspace, file, name), promote, as_json)


@app.command(
    epilog=example(
        "dataengine models pull mobile_sam --promote",
        "dataengine models pull vit_h --url http://mirror/sam_vit_h_4b8939.pth --promote",
    )
)
def pull(
    model: Annotated[str, typer.Argument(help="mobile_sam, vit_b, vit_l or vit_h.")],
    url: Annotated[str | None, typer.Option(help="Another source of the file.")] = None,
    sha256: Annotated[
        str | None, typer.Option(help="SHA-256 of the file, if it is not the published one.")
    ] = None,
    name: NameOption = None,
    promote: PromoteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Download, verify and import a public checkpoint: MobileSAM (41 MB) or SAM (375 MB, 1.2 GB,
    2.6 GB).

    For photographs use mobile_sam on a CPU, vit_h on a GPU.

    Stopped in any way, it resumes when the same command is given again.
    """
    with in_workspace(as_json, after_stop=RESUMES) as workspace:
        from flows.data.import_model import pull as fetch_and_import

        version = fetch_and_import(workspace, model, name=name, url=url, sha256=sha256)
        _finish(workspace, version, promote, as_json)


def _finish(workspace: Workspace, model: Model, promote: bool, as_json: bool) -> None:
    from flows.training.compared_scores import compared_set

    promotion = _promote(workspace, model.version) if promote else None
    model = workspace.catalog.models.get(model.version)  # as it is now
    if as_json:
        source = model.card["source"]
        row = _row(model, compared_set(workspace.catalog.models.all()))
        told = None if promotion is None else promotion.to_json()
        print_json({**row, "source": source, "promotion": told})
        return
    evidence = model.card["source"]["architecture_told_by"]
    console.print(f"{model.version} is imported: {model.architecture}, by {evidence}", markup=False)
    if promotion is None:
        console.print(f"to use it: dataengine models promote {model.version}", markup=False)
    else:
        _tell(promotion, as_json)
