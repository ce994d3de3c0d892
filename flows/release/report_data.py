"""Collects a report's data: figures, rounds, notes, and pictures of masks on images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.core.overlay import draw_masks
from engine.core.records import Mask, Source, Stage
from flows.release.figures import panels, write_pngs
from flows.release.report_html import MISSING, Picture, Report, RoundRow, Sheet, render_report
from flows.workspace.workspace import Workspace
from storage.catalog import PEOPLE, AnnotatorKind, Image

PICTURES_PER_GROUP = 4
NAMED_CATEGORIES = 20
SHEET_ROWS = 50
"""Rows of a table at most."""


def write_report(workspace: Workspace, dataset: str, summary: dict[str, Any], path: Path) -> Path:
    """Write a self-contained HTML report on a finished loop; return its path.

    Args:
        workspace: the workspace.
        dataset: name of the dataset.
        summary: `rounds` as `round_rows` returns them; optional `final`, `review`, `audit`,
            `release`, `seconds`, `categories`, the number of masks by name, and `without_images`,
            ids of images that are not shown; `stats`, the `description` of a release, whose figures
            are also written as PNG files beside the report.
        path: the file to write.
    """
    counts = workspace.masks.counts(("stage",), dataset=dataset)
    report = Report(
        title="The open data engine",
        subtitle=f"dataset {dataset}: images in, three stages with retraining, masks out",
        rounds=[_row(row) for row in summary["rounds"]],
        pictures=list(_pictures(workspace, dataset, summary.get("without_images") or set())),
        facts=_facts(workspace, dataset, summary, sum(counts.values())),
        created_at=datetime.now(UTC),
        notes=[*_annotated_by(workspace, dataset), *_notes(summary)],
    )
    if stats := summary.get("stats"):
        report = _described(report, dataset, stats)
        write_pngs(stats, path.parent)
    path.write_text(render_report(report), encoding="utf-8")
    return path


def _described(report: Report, dataset: str, stats: dict[str, Any]) -> Report:
    """Return a release's report: with its name, its own counts and its figures."""
    facts = dict(report.facts) | {
        "images": f"{stats['images']:,}",
        "masks": f"{stats['masks']:,}",
        "model versions": str(len(stats["models"])),
    }
    name = facts.pop("release")
    return replace(
        report,
        title=name,
        subtitle=f"Release of the dataset {dataset}, made by the open data engine",
        facts=list(facts.items()),
        panels=panels(stats),
        sheets=list(_sheets(stats)),
        findings=stats["findings"],
        thin=stats["thin"],
    )


def _sheets(stats: dict[str, Any]) -> Iterable[Sheet]:
    """Yield tables of where masks come from, and of what models and categories there are."""
    total = max(stats["masks"], 1)
    yield Sheet(
        title="Where masks come from",
        columns=("Stage", "Source", "Model", "Annotator", "Masks", "Share"),
        rows=[
            (
                *(str(row[name] or MISSING) for name in ("stage", "source", "model", "annotator")),
                *(f"{row['masks']:,}", f"{row['masks'] / total:.1%}"),
            )
            for row in stats["provenance"][:SHEET_ROWS]
        ],
    )
    if stats["models"]:
        yield Sheet(
            title="Model versions that made masks",
            columns=("Version", "Parent", "mIoU, 1 click", "mIoU, 3 clicks"),
            rows=[
                (
                    *(row["version"], row["parent"] or MISSING),
                    *(_score(row[name]) for name in ("miou_1_click", "miou_3_clicks")),
                )
                for row in stats["models"]
            ],
        )
    if stats["categories"]:
        yield Sheet(
            title="Categories",
            columns=("Category", "Masks", "Share"),
            rows=[
                (name, f"{count:,}", f"{count / total:.1%}")
                for name, count in list(stats["categories"].items())[:SHEET_ROWS]
            ],
        )
    splits = stats["images_by"]["split"]
    yield Sheet(
        title="Images",
        columns=("Kind", "Images"),
        rows=[
            *((f"split {name}", f"{count:,}") for name, count in splits.items()),
            *((name, f"{count:,}") for name, count in stats["images_by"]["status"].items()),
            ("near-duplicates", f"{stats['near_duplicates']:,}"),
        ],
    )


def _score(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def _row(row: dict[str, Any]) -> RoundRow:
    return RoundRow(
        stage=row["stage"],
        round=row["round"],
        images=row["images"] or 0,
        masks=row["masks"] or 0,
        masks_per_image=row["masks_per_image"] or 0.0,
        clicks_per_mask=row["clicks_per_mask"],
        seconds_per_mask=row["seconds_per_mask"],
        model=row["model"] or "",
        miou_1_click=row["miou_1_click"],
        miou_3_clicks=row["miou_3_clicks"],
    )


def _facts(
    workspace: Workspace, dataset: str, summary: dict[str, Any], masks: int
) -> list[tuple[str, str]]:
    row = workspace.catalog.datasets.get(dataset)
    facts = [
        ("images", str(workspace.catalog.images.count(row.id))),
        ("masks", f"{masks:,}"),
        ("model versions", str(len(workspace.catalog.models.all()))),
    ]
    verdicts = summary.get("review") or {}
    if verdicts.get("accepted_share") is not None:
        facts.append(("accepted in review", f"{verdicts['accepted_share']:.0%}"))
    if audit := summary.get("audit"):
        facts.append((f"IoU from {audit['at_iou']:g}, audited", _audited(audit, audit["at_iou"])))
    if summary.get("release"):
        facts.append(("release", summary["release"]))
    if summary.get("seconds"):
        facts.append(("run time", f"{summary['seconds']:.0f} s"))
    return facts


def _annotated_by(workspace: Workspace, dataset: str) -> list[str]:
    """Return notes on who made the annotated masks: people, simulated annotators, or both."""
    known = workspace.catalog.annotators.all()
    simulated = {item.name for item in known if item.kind == AnnotatorKind.SIMULATED}
    masks = {True: 0, False: 0}
    for (name,), count in workspace.masks.counts(("annotator",), dataset=dataset).items():
        if name is not None:
            masks[name in simulated] += count
    notes = []
    if masks[False]:
        notes.append(f"People annotated {masks[False]:,} masks; their seconds are measured.")
    if masks[True]:
        notes.append(
            f"Simulated annotators made {masks[True]:,} masks: they click from ground truth, at "
            "the point of the error farthest from its edge, until IoU 0.9, then take brush and "
            "eraser. Their seconds come from a cost model, not from people."
        )
    return notes


def _notes(summary: dict[str, Any]) -> list[str]:
    notes = [
        "Held-out scores belong to the model a round worked with; those images are never trained "
        "on.",
    ]
    sets = dict.fromkeys(row["scored_on"] for row in summary["rounds"] if row.get("scored_on"))
    if sets:
        notes.append(f"Held-out scores are on {', later on '.join(sets)}.")
    final = summary.get("final")
    if final and final.get("masks"):
        notes.append(
            f"After the last retrain, model {final['model']} reaches held-out mIoU "
            f"{final['miou_1_click']:.3f} at 1 click and {final['miou_3_clicks']:.3f} at 3 clicks."
        )
    if audit := summary.get("audit"):
        notes.append(_audit_note(audit))
    if counts := summary.get("categories"):
        notes.append(_category_note(counts))
    return notes


def _category_note(counts: dict[str, int]) -> str:
    """Return a sentence on the most frequent categories of the masks."""
    ordered = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])
    named = ", ".join(f"{name} {counts[name]:,}" for name in ordered[:NAMED_CATEGORIES])
    more = len(ordered) - NAMED_CATEGORIES
    return f"Masks by category: {named or 'none'}{f', and {more} more' if more > 0 else ''}."


def _audit_note(audit: dict[str, Any]) -> str:
    """Return a sentence on an audit's result, beside the figures of SAM's paper."""
    reached = []
    for level in audit["shares"]:
        known = audit["paper"].get(level)
        paper = "" if known is None else f" (SAM's paper on SA-1B: {known:.0%})"
        reached.append(f"IoU {level} in {_audited(audit, level)}{paper}")
    who = "people" if audit["annotator"] == PEOPLE else "simulated annotators"
    return (
        f"Audit of {audit['judged']:,} of {audit['masks']:,} automatic masks, corrected by {who}: "
        f"mask and corrected mask reach {' and '.join(reached)}. Intervals: "
        f"{audit['confidence']:.0%}."
    )


def _audited(audit: dict[str, Any], level: float | str) -> str:
    """Return an audited share with its interval, in percent."""
    share = audit["shares"][str(level)]
    return f"{share['estimate']:.1%} [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"


def _pictures(workspace: Workspace, dataset: str, without: set[int]) -> Iterable[Picture]:
    """Yield images with their masks: those without ground truth, then those of each stage."""
    truth = workspace.images_with_truth(dataset)
    automatic = _images_of(workspace, dataset, Stage.FULLY_AUTOMATIC)
    photos = [image for image in automatic if image.id not in truth | without]
    for image in photos[:PICTURES_PER_GROUP]:
        yield _picture(workspace, image, Stage.FULLY_AUTOMATIC)
    for stage in Stage:
        if stage == Stage.GROUND_TRUTH:
            continue
        known = [i for i in _images_of(workspace, dataset, stage) if i.id in truth - without]
        for image in known[:PICTURES_PER_GROUP]:
            yield _picture(workspace, image, stage)


def _images_of(workspace: Workspace, dataset: str, stage: Stage) -> list[Image]:
    """Return images with masks of the stage, those of its last round first."""
    counts = workspace.masks.counts(("image_id", "round"), dataset=dataset, stage=stage)
    ordered = sorted(counts, key=lambda key: (-int(str(key[1])), int(str(key[0]))))
    ids = list(dict.fromkeys(int(str(key[0])) for key in ordered))
    return workspace.catalog.images.get_many(ids)


def _picture(workspace: Workspace, image: Image, stage: Stage) -> Picture:
    pixels = workspace.pixels(image)
    masks = list(workspace.masks.masks(image_ids=[image.id], stage=stage, current_only=True))
    return Picture(
        title=f"{str(stage).replace('_', ' ').capitalize()}: {image.file_name}",
        caption=_caption(masks),
        before_HWC=draw_masks(pixels, []),
        image_HWC=draw_masks(pixels, [mask.rle for mask in masks]),
    )


def _caption(masks: list[Mask]) -> str:
    filled = sum(mask.source == Source.PREFILL for mask in masks)
    models = ", ".join(sorted({mask.model for mask in masks if mask.model}))
    text = f"{len(masks)} masks"
    if filled:
        text += f", {filled} of them pre-filled"
    return f"{text}; model {models}" if models else text
