"""Recognise JSON of other tools that is not COCO, by its keys, for error messages."""

from __future__ import annotations

from typing import Any


def tool_of(content: dict[str, Any]) -> str | None:
    """The tool format that a JSON object looks like; None: unknown."""
    first = next(iter(content.values()), None)
    if "shapes" in content and "imagePath" in content:
        return "labelme's own JSON"
    if "_via_img_metadata" in content or (isinstance(first, dict) and "regions" in first):
        return "VIA's own JSON"
    if isinstance(content.get("image"), dict) and "annotations" in content:
        return "SA-1B's JSON"
    return None
