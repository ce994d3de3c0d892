"""The rule for names of datasets, releases, models, schedules and annotators.

A name is part of object keys, URLs and file names, and people type it. Names older than the rule
stay valid: only new names are checked.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from storage.catalog.errors import BadNameError

MAX_BYTES = 200
"""Of a name in UTF-8."""
MAX_DATASET_BYTES = 150
"""Of a dataset's name, from which its releases, models and schedules get theirs."""
RESERVED = {"release": ("latest", "create", "list", "show", "verify", "diff", "takedown")}
"""Names with a special meaning in commands, by kind."""


def check_name(kind: str, name: str) -> str:
    """The name, if it is allowed for a new row of the kind.

    Args:
        kind: `dataset`, `release`, `model`, `schedule` or `annotator`; for the message.

    Raises:
        BadNameError: it is empty, too long or reserved, begins with a dot or a dash, has a space at
            either end, a slash, a backslash, a control or invisible character, or separate accents
            (not NFC), so another name could look the same.
    """
    check_new_name(kind, name, lambda: False)
    return name


def check_new_name(kind: str, name: str, is_known: Callable[[], bool]) -> None:
    """As `check_name`, but accepts any name that is known already."""
    if (wrong := _wrong(kind, name)) is None or (_is_text(name) and is_known()):
        return
    shown = name if len(name) <= 60 else f"{name[:60]}..."
    raise BadNameError(f"{shown!r} cannot be the name of a {kind}: {wrong}")


def _is_text(name: str) -> bool:
    """Whether a database can look it up."""
    return "\0" not in name and name.encode(errors="replace").decode() == name


def _wrong(kind: str, name: str) -> str | None:
    """What is wrong with the name, and what to do; None if it is allowed."""
    longest = MAX_DATASET_BYTES if kind == "dataset" else MAX_BYTES
    length = len(name.encode(errors="replace"))
    if not name.strip():
        return "it is empty; give one"
    if length > longest:
        return f"it has {length} bytes as UTF-8, and {longest} is the most; give a shorter one"
    if name.startswith((".", "-")):
        return f"it begins with {name[0]!r}; begin with a letter or a digit"
    if name != name.strip():
        return f"it has a space at an end; give {name.strip()!r}"
    for character in name:
        if character in "/\\" or not (character == " " or character.isprintable()):
            return f"it has the character {character!r}; use letters, digits, spaces, '.', '_', '-'"
    composed = unicodedata.normalize("NFC", name)
    if name != composed:
        return f"its accents are separate characters (Unicode NFD); give {composed!r}"
    if name in RESERVED.get(kind, ()):
        return "commands mean something else by it; give another"
    return None
