"""`dataengine amg`: masks of a few images, without a workspace.

The flags of segment_anything's `amg.py` mean the same here. The output is in SA-1B's format, one
JSON file and one picture per image.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.commands import QUALITY, JsonOption, example
from flows.stages.folder_masks import run_amg
from flows.workspace import progress
from flows.workspace.console import console, errors
from flows.workspace.permissions import for_people

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.automatic import MaskGenerator
    from flows.stages.folder_masks import AmgResult

PANEL = "As in segment_anything's amg.py"


def _load_generator(
    model: str, device: str, preset_name: str, changes: dict[str, Any]
) -> MaskGenerator:
    from engine.automatic import MaskGenerator, preset
    from engine.core.malloc import keep_freed_memory
    from engine.sam import load_segmenter
    from flows.workspace.workspace import torch_device

    try:
        given = {name: value for name, value in changes.items() if value is not None}
        config = preset(preset_name, **given)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    keep_freed_memory()
    return MaskGenerator(load_segmenter(model, torch_device(device)), config)


def _files(inputs: list[Path]) -> tuple[list[Path], list[Path]]:
    """The images given and those in the folders given, each once; and those given that are pictures
    of an earlier run, which `*.png` also matches."""
    from storage.formats.folders import list_images
    from storage.outputs import written_by_us

    found: list[Path] = []
    named: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found += list_images(path)
        elif path.exists():
            found.append(path)
            named.append(path)
        else:
            raise typer.BadParameter(f"{path} does not exist", param_hint="IMAGE")
    ours = written_by_us(named)
    return [path for path in dict.fromkeys(found) if path not in ours], sorted(ours)


_Flag = typer.Option(rich_help_panel=PANEL)


app = typer.Typer(rich_markup_mode="markdown")


@app.command(
    rich_help_panel=QUALITY,
    epilog=example(
        "dataengine amg photo.jpg --output masks/",
        "dataengine amg photos/ --model sam_vit_b_01ec64.pth --preset sa1b --output masks/",
    ),
)
@for_people()
def amg(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Image files, or folders of them.")
    ],
    model: Annotated[
        str,
        typer.Option("--model", "--checkpoint", help="lite, or a .safetensors, .pth or .pt file."),
    ] = "lite",
    preset: Annotated[
        str, typer.Option(help="default, reference, sa1b or fast (docs/generation.md).")
    ] = "default",
    output: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("masks"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    pictures: Annotated[bool, typer.Option(help="Also write overlay pictures.")] = True,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Of one image; more are refused (default 200000000).")
    ] = None,
    points_per_side: Annotated[int | None, _Flag] = None,
    points_per_batch: Annotated[int | None, _Flag] = None,
    pred_iou_thresh: Annotated[float | None, _Flag] = None,
    stability_score_thresh: Annotated[float | None, _Flag] = None,
    stability_score_offset: Annotated[float | None, _Flag] = None,
    box_nms_thresh: Annotated[float | None, _Flag] = None,
    crop_n_layers: Annotated[int | None, _Flag] = None,
    crop_nms_thresh: Annotated[float | None, _Flag] = None,
    crop_overlap_ratio: Annotated[float | None, _Flag] = None,
    crop_n_points_downscale_factor: Annotated[int | None, _Flag] = None,
    min_mask_region_area: Annotated[int | None, _Flag] = None,
    as_json: JsonOption = False,
) -> None:
    """Make masks of everything in a few images, without a workspace: `STEM.json` as in SA-1B and
    `STEM.png`, a picture of them."""
    changes = {
        "points_per_side": points_per_side,
        "points_per_batch": points_per_batch,
        "min_predicted_iou": pred_iou_thresh,
        "min_stability": stability_score_thresh,
        "stability_offset": stability_score_offset,
        "max_box_iou": box_nms_thresh,
        "crop_layers": crop_n_layers,
        "max_crop_box_iou": crop_nms_thresh,
        "crop_overlap": crop_overlap_ratio,
        "crop_points_divisor": crop_n_points_downscale_factor,
        "min_region": min_mask_region_area,
    }
    paths, skipped = _files(images)
    if skipped:
        message = f"{len(skipped)} files skipped, as this command wrote them: {skipped[0]} ..."
        errors.print(message, markup=False, highlight=False)
    generator = _load_generator(model, device, preset, changes)
    found = run_amg(generator, paths, output, pictures=pictures, max_pixels=max_pixels)
    _run_and_print(generator, found, len(paths), output, as_json=as_json)


def _run_and_print(
    generator: MaskGenerator,
    found: Iterator[AmgResult],
    images: int,
    output: Path,
    *,
    as_json: bool,
) -> None:
    """Run with a progress bar and print a summary. Exits with 1 if an image was refused."""
    reporter = progress.Silent() if as_json else progress.on(errors)
    results = []
    with reporter.track("masks", images, "image") as advance:
        for result in found:
            results.append(result)
            advance(1, f"{result.masks} masks")
    failed = [result for result in results if result.error]
    noted = [result for result in results if result.note]
    for result in failed + noted:
        text = f"{result.path}: {result.error or result.note}"
        errors.print(text, style="yellow", markup=False, highlight=False)
    done = [result for result in results if not result.error]
    summary = {
        "model": generator.segmenter.version,
        "output": str(output),
        "images": len(done),
        "masks": sum(result.masks for result in done),
        "seconds": sum(result.seconds for result in done),
        "failed": [{"path": result.path, "reason": result.error} for result in failed],
        "notes": [{"path": result.path, "note": result.note} for result in noted],
        "config": generator.config.as_dict(),
    }
    if as_json:
        print(json.dumps(summary))
    else:
        console.print(
            f"{summary['masks']} masks on {summary['images']} images in "
            f"{summary['seconds']:.1f} s; they are in {output}"
        )
    if failed:
        raise typer.Exit(1)
