"""Describes a release: figures of its masks, people and models, and what is thin in it."""

from __future__ import annotations

from typing import Any

from flows.operations.status import round_rows
from flows.workspace import costs
from flows.workspace.audits import latest_audit
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset
from storage.release_files import MaskFiles
from storage.release_stats import mask_stats

PAPER = "SAM's paper (arXiv 2304.02643, sections 4 and 5)"
SA_1B: dict[str, Any] = {
    "images": 11_000_000,
    "masks": 1_100_000_000,
    "masks_per_image": 100,
    "automatic_share": 0.991,
    "seconds_per_mask": {"assisted_manual": [34, 14], "semi_automatic": [34]},
    "masks_per_image_by_stage": {"assisted_manual": [20, 44], "semi_automatic": [44, 72]},
    "iou": {"0.9": 0.94, "0.75": 0.97},
    "size": "published as a curve without numbers: more small and medium masks than other sets",
    "concavity": "published as curves without numbers: much like other sets at each size",
    "centres": "published as a map without numbers: more masks near corners than in other sets",
}
"""What is published of SA-1B. `seconds_per_mask`, `masks_per_image_by_stage`: first and last."""

LEAST_COST = 1e-4
"""A smaller cost of a mask, in the currency of the prices, is not told."""
FEW_IMAGES, FEW_MASKS, FEW_OF_CATEGORY = 100, 1_000, 10
FEW_PER_IMAGE = 20
"""SA-1B's first round had this many masks per image."""
MANY_NEAR = 0.05
SMALL_SIDE, FEW_SMALL = 0.05, 0.1
"""Masks below this relative size are small; below this share of them, they are few."""


def description(workspace: Workspace, dataset: Dataset, files: MaskFiles) -> dict[str, Any]:
    """Return a release's figures as JSON values: those of `mask_stats`, and `rounds`,
    `agreement`, `audit`, `models`, `cost`, `sa_1b`, `findings` and `thin`, sentences.

    Raises:
        ReleaseFileError: a file is damaged.
    """
    loop = workspace.catalog.loops.latest(dataset.id)
    audit = latest_audit(workspace, dataset.id)
    found = mask_stats(files)
    found |= {
        "rounds": round_rows(workspace, loop.id) if loop else [],
        "agreement": [
            {
                "stage": row.stage,
                "round": row.round,
                "images": row.images,
                "iou": row.iou,
                "f1": row.f1,
            }
            for row in workspace.catalog.consensus.by_round(dataset.id)
        ],
        "audit": None if audit is None else audit.metrics,
        "models": _models(workspace, {row["model"] for row in found["provenance"]}),
        "cost": _cost(workspace, dataset),
        "sa_1b": {**SA_1B, "source": PAPER},
    }
    return {**found, "findings": findings(found), "thin": thin(found)}


def _models(workspace: Workspace, versions: set[str | None]) -> list[dict[str, Any]]:
    """Scores of the model versions that made masks, oldest first."""
    known = [one for one in workspace.catalog.models.all() if one.version in versions]
    rows = []
    for model in sorted(known, key=lambda one: one.created_at):
        scores = model.card.get("scores", {}).get("held_out", {})
        rows.append(
            {
                "version": model.version,
                "parent": model.parent,
                **{name: scores.get(name) for name in ("miou_1_click", "miou_3_clicks", "set")},
            }
        )
    return rows


def _cost(workspace: Workspace, dataset: Dataset) -> dict[str, Any]:
    """The cost of the dataset's runs so far."""
    runs = [run.spent for run in costs.ledger(workspace).runs if run.dataset_id == dataset.id]
    total = costs.total(runs)
    return {
        "cost": total.cost,
        "accepted_masks": total.accepted_masks,
        "is_estimate": total.accepted_is_estimate,
        "per_accepted_mask": total.cost_per_accepted_mask,
        "people_seconds": total.people_seconds,
        "cpu_seconds": total.cpu_seconds,
    }


def findings(found: dict[str, Any]) -> list[str]:
    """Return sentences on the figures, beside SA-1B's published ones."""
    masks, per_image = found["masks"], found["per_image"]
    if not masks:
        return ["The release has no masks."]
    automatic = sum(row["masks"] for row in found["provenance"] if row["source"] == "automatic")
    told = [
        f"{per_image['mean']:.1f} masks per image on average, {per_image['median']:g} in the "
        f"median image; SA-1B has about {SA_1B['masks_per_image']}.",
        f"{automatic / masks:.1%} of the masks are automatic; of SA-1B's three stages together "
        f"{SA_1B['automatic_share']:.1%}, and only those were published.",
        f"The mean relative size is {found['size']['mean']:.3f}. SA-1B's is {SA_1B['size']}.",
    ]
    if audit := found["audit"]:
        for level, paper in SA_1B["iou"].items():
            if share := audit["shares"].get(level):
                told.append(
                    f"In the audit {share['estimate']:.1%} [{100 * share['low']:.1f}, "
                    f"{100 * share['high']:.1f}] of automatic masks reach IoU {level} with the "
                    f"corrected mask; in SA-1B {paper:.0%}."
                )
    told += [
        f"On {row['images']} images of round {row['round']}, stage {row['stage']}, that several "
        f"people annotated, their masks agree with F1 {row['f1']:.2f} and mean IoU "
        f"{row['iou']:.2f}."
        for row in found["agreement"]
        if row["f1"] is not None and row["iou"] is not None
    ]
    for row in found["rounds"]:
        if row["seconds_per_mask"] and row["stage"] in SA_1B["seconds_per_mask"]:
            paper = " to ".join(map(str, SA_1B["seconds_per_mask"][row["stage"]]))
            told.append(
                f"Round {row['round']} of stage {row['stage']} took {row['seconds_per_mask']:.1f} "
                f"seconds per mask; SA-1B's {paper}."
            )
    cost = found["cost"]["per_accepted_mask"]
    if cost is not None and cost >= LEAST_COST:
        told.append(f"An accepted mask of the dataset has cost {cost:.2g} so far.")
    return told


def thin(found: dict[str, Any]) -> list[str]:
    """Return sentences on what the release has too little of."""
    images, masks = found["images"], found["masks"]
    told = []
    if images < FEW_IMAGES or masks < FEW_MASKS:
        told.append(f"Small: {masks:,} masks on {images:,} images.")
    if images and found["per_image"]["mean"] < FEW_PER_IMAGE:
        told.append(
            f"Sparse: {found['per_image']['mean']:.1f} masks per image; objects may be missing."
        )
    told += _thin_images(found)
    told += _thin_quality(found)
    small = sum(
        count
        for edge, count in zip(found["size"]["edges"], found["size"]["counts"], strict=False)
        if edge < SMALL_SIDE
    )
    if masks and small / masks < FEW_SMALL:
        told.append(
            f"Few small masks: {small / masks:.1%} have a relative size below {SMALL_SIDE}."
        )
    return told + _thin_labels(found)


def _thin_images(found: dict[str, Any]) -> list[str]:
    told, by = [], found["images_by"]
    if not by["split"].get("held_out"):
        told.append("No image is held out: a model's gain cannot be measured on it.")
    if neither := by["status"].get("neither", 0):
        told.append(f"{neither:,} images were neither annotated nor generated.")
    total = sum(by["split"].values())
    if total and found["near_duplicates"] / total > MANY_NEAR:
        told.append(f"{found['near_duplicates']:,} of {total:,} images nearly repeat another one.")
    return told


def _thin_quality(found: dict[str, Any]) -> list[str]:
    told = []
    sources = {row["source"] for row in found["provenance"]}
    if "automatic" in sources and not found["audit"]:
        told.append("No audit: how good the automatic masks are is not measured.")
    people = {row["annotator"] for row in found["provenance"] if row["annotator"]}
    if sources & {"annotator", "prefill"}:
        if not found["agreement"]:
            told.append("No image was annotated twice: how far people agree is not measured.")
        if len(people) == 1:
            told.append("All masks of people are of one annotator.")
    elif sources == {"automatic"}:
        told.append("No mask was drawn or confirmed by a person.")
    return told


def _thin_labels(found: dict[str, Any]) -> list[str]:
    if found["unlabelled"] is None:
        return ["No categories: the masks have no names."]
    told = []
    if found["unlabelled"]:
        told.append(f"{found['unlabelled']:,} masks have no category.")
    rare = [name for name, count in found["categories"].items() if count < FEW_OF_CATEGORY]
    if rare:
        named = ", ".join(rare[:10]) + (" and others" if len(rare) > 10 else "")
        told.append(f"{len(rare)} categories have fewer than {FEW_OF_CATEGORY} masks: {named}.")
    return told
