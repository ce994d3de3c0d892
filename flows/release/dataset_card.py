"""A release's dataset card: `README.md` with a YAML head, in Hugging Face's format.

Format: https://github.com/huggingface/hub-docs/blob/main/datasetcard.md
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from flows.release.rules import Options
from storage.catalog import Release
from storage.release_files import IMAGES_FILE

CARD_NAME = "README.md"
SIZES = (
    *((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M")),
    *((10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B")),
)
"""Upper ends of Hugging Face's size categories."""


def render_card(
    begun: Release,
    dataset: str,
    options: Options,
    counts: dict[str, Any],
    *,
    models: dict[str, Any],
    privacy: dict[str, Any] | None,
    findings: Sequence[str] = (),
    figures: Sequence[tuple[str, str]] = (),
    supersedes: str | None = None,
    tombstones: Sequence[dict[str, Any]] = (),
) -> str:
    """Return the card's text.

    Args:
        begun: the release.
        dataset: its dataset's name.
        options: how it was made.
        counts: of images and masks, as `export_release` returns them.
        models: what the manifest says of model versions.
        privacy: the result of blurring, if any.
        findings: sentences on the release's figures, what is thin in it among them.
        figures: title and file name of each picture beside the card.
        supersedes: the release that a takedown replaced by this one.
        tombstones: what takedowns removed.
    """
    head = yaml.safe_dump(_head(begun, options, counts), sort_keys=False, allow_unicode=True)
    sections = [
        f"# {_text(begun.name)}",
        f"{counts['masks']:,} masks on {counts['images']:,} images of the dataset "
        f"{_text(dataset)}, made by the open data engine.",
        "## Contents",
        _contents(counts),
        "## Which masks",
        f"{_sentence(options.rules.sentence())} Superseded and empty masks are left out. The "
        f"masks come from version {begun.table_version} of the mask table.",
        *_made_by(models),
        *_privacy(privacy),
        *_taken_down(supersedes, tombstones),
        *_figures(findings, figures),
        "## Files",
        _files_text(bool(begun.categories_version)),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(sections) + "\n"


def _head(begun: Release, options: Options, counts: dict[str, Any]) -> dict[str, Any]:
    sources = counts["sources"]
    creators = ["machine-generated"] if "automatic" in sources else []
    creators += ["crowdsourced"] if sources.keys() & {"annotator", "prefill"} else []
    creators += ["found"] if "imported" in sources else []
    return {
        "pretty_name": begun.name,
        "license": options.license,
        "task_categories": ["image-segmentation", "mask-generation"],
        "tags": ["segmentation-masks", "open-data-engine"],
        "size_categories": [size_category(counts["masks"])],
        "annotations_creators": creators or ["no-annotation"],
        "configs": [
            {"config_name": "masks", "data_files": "masks-*.parquet", "default": True},
            {"config_name": "images", "data_files": IMAGES_FILE},
        ],
    }


def size_category(rows: int) -> str:
    """Hugging Face's name of a number of rows."""
    return next((name for end, name in SIZES if rows < end), "n>1T" if rows >= 10**12 else "n>1B")


def _contents(counts: dict[str, Any]) -> str:
    lines = ["| | masks |", "|---|---|"]
    for group in ("stages", "sources"):
        title = group.removesuffix("s")
        lines += [f"| {title} `{name}` | {number:,} |" for name, number in counts[group].items()]
    for name, number in counts.get("categories", {}).items():
        if number:
            lines.append(f"| category {_text(name)} | {number:,} |")
    statuses = counts["statuses"]
    told = (
        f"{statuses['annotated']:,} images were annotated, {statuses['generated']:,} generated; "
        f"{statuses['neither']:,} were neither, have no masks for that reason, and are in "
        f"`{IMAGES_FILE}` only."
    )
    return "\n".join(lines) + f"\n\n{told}"


def _made_by(models: dict[str, Any]) -> list[str]:
    if not models:
        return []
    lines = []
    for version, known in models.items():
        if known is None:
            lines.append(f"- {_text(version)}: not in this workspace")
            continue
        parent = f", from {_text(known['parent'])}" if known["parent"] else ""
        lines.append(f"- {_text(version)}: {_text(known['architecture'])}{parent}")
    return ["## Models", "\n".join(lines)]


def _privacy(privacy: dict[str, Any] | None) -> list[str]:
    if privacy is None:
        return ["## Privacy", "No image was searched for faces or plates, and none was blurred."]
    lines = [
        f"{privacy['blurred']:,} of {privacy['checked']:,} images were blurred before the release."
    ]
    for kind, one in privacy["kinds"].items():
        lines.append(
            f"{_text(kind)}: {one['regions']:,} regions, by {one['detector']}, which "
            f"{one['recall']}"
        )
    if privacy["unreadable"]:
        lines.append(
            f"{len(privacy['unreadable'])} images could not be read and were not searched."
        )
    return ["## Privacy", " ".join(lines)]


def _taken_down(supersedes: str | None, tombstones: Sequence[dict[str, Any]]) -> list[str]:
    if not tombstones:
        return []
    lines = [f"This release supersedes {_text(supersedes or '')}, of which images were taken down."]
    lines += [f"- image {one['image_id']}: {one['masks']} masks, {one['at']}" for one in tombstones]
    return ["## Taken down", "\n".join(lines)]


def _figures(findings: Sequence[str], figures: Sequence[tuple[str, str]]) -> list[str]:
    if not findings and not figures:
        return []
    parts = ["\n".join(f"- {_text(one)}" for one in findings)] if findings else []
    parts += [f"![{_text(title)}]({name})" for title, name in figures]
    return ["## Figures", *parts]


def _files_text(has_categories: bool) -> str:
    categories = "`categories.json` names the values of `category_id`. " if has_categories else ""
    return (
        "`masks-*.parquet` has a row for each mask, sorted by image: `counts` is COCO's compressed "
        "RLE of `height` x `width`, boxes are x, y, width and height in pixels. `images.parquet` "
        f"has a row for each image. {categories}`instances.json` (COCO) and `sa1b.tar` hold the "
        "same masks, `report.html` shows them. `manifest.json` has the SHA-256 of every file; "
        "`dataengine release verify` checks them."
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _text(value: str) -> str:
    """Text from outside as plain Markdown in one line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(str(value).split()))
