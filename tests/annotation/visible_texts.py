"""Finds texts in the page's JavaScript that people would see and no translator could change."""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.annotation.javascript import CLOSING, OPENING, Token, arguments, calls, tokens

OPTIONS = {"title", "placeholder", "alt", "label", "text", "back"}
ATTRIBUTES = OPTIONS | {"aria-label", "aria-valuetext", "aria-description"}
"""Names in objects whose values are shown."""
PROPERTIES = {"textContent", "title", "placeholder", "alt", "ariaLabel", "innerText"}
VARIABLES = {"title", "text", "label", "note", "what", "hint", "message", "back"}
SHOWN = {
    **{"el": slice(2, None), "svg": slice(2, None), "toast": slice(0, 1), "ask": slice(0, 3)},
    **dict.fromkeys(["openDialog", "announce", "say"], slice(None)),
    **dict.fromkeys(["append", "prepend", "replaceChildren", "before", "after"], slice(None)),
}
"""Calls, and which of their arguments are shown."""
THROUGH = {"map", "flatMap", "join", "filter", "concat"}
"""Calls within what is shown, whose own arguments are shown as well."""
COMPARED = {"===", "!==", "==", "!=", "in"}
SENTENCE = re.compile(r"(?=.*[a-z]{2})([A-Z“][\w'’-]*[,:]? [\w“(]|.* .*[a-z][.!?…]$|[A-Z][a-z]+$)")
WORD = re.compile(r"[^\W\d_]")
CODE = re.compile(r"[a-z]+(_[a-z]+)+$")
KEYS = {"Enter", "Escape", "Esc", "Tab", "Space", "Shift", "Control", "Ctrl", "Alt", "Meta", "Del"}
OTHERS = {"Delete", "Backspace", "Home", "End", "Accept"}
"""Names of keys and of an HTTP header, which look like texts."""
LITERAL = re.compile(r"dataengine |https?://")
"""Beginnings of commands and addresses."""


def untranslated(source: str) -> list[tuple[int, str]]:
    """Line and text of what is shown and is no argument of `t`, `plural` or `pieces`, in order."""
    found = [token for token in tokens(source) if token.kind != "comment"]
    hidden = _hidden(found)
    shown: dict[int, Token] = {}
    for start, end in _shown(found):
        shown |= {at: found[at] for at in _texts(found, start, end)}
    for at, token in enumerate(found):
        if token.kind in ("text", "chunk") and SENTENCE.match(token.text):
            shown[at] = token
    rest = [shown[at] for at in sorted(shown) if at not in hidden]
    return [(token.line, token.text) for token in rest if _is_text(token.text)]


def _is_text(value: str) -> bool:
    if not WORD.search(value) or CODE.match(value) or LITERAL.match(value):
        return False
    keys = KEYS | OTHERS
    return not all(word in keys or re.fullmatch(r"[A-Z\W\d]", word) for word in value.split())


def _hidden(found: list[Token]) -> set[int]:
    """Places within calls of translators, of the console and of errors."""
    translated = {(call.line, call.name) for call in calls(found)}
    places: set[int] = set()
    for at, token in enumerate(found[:-1]):
        if str(found[at + 1]) != "(" or token.kind != "name":
            continue
        before = [str(other) for other in found[max(0, at - 2) : at]]
        is_console = before == ["console", "."]
        is_error = before[-1:] == ["new"] and token.text.endswith("Error")
        if is_console or is_error or (token.line, token.text) in translated:
            places |= set(range(at, arguments(found, at + 1)[1]))
    return places


def _shown(found: list[Token]) -> Iterator[tuple[int, int]]:
    """Where expressions begin and end whose value is shown."""
    for at, token in enumerate(found[:-1]):
        before, after = str(found[at - 1]) if at else "", str(found[at + 1])
        name = token.text
        if token.kind in ("name", "text") and name in ATTRIBUTES and after == ":":
            if before in ("{", ","):
                yield at + 2, _end(found, at + 2)
        elif token.kind == "name" and after == "=":
            if name in (PROPERTIES if before == "." else VARIABLES):
                yield at + 2, _end(found, at + 2)
        elif token.kind == "name" and after == "(" and (name in SHOWN or name == "setAttribute"):
            parts, _ = arguments(found, at + 1)
            wanted = SHOWN.get(name, slice(0, 0))
            if name == "setAttribute" and parts and parts[0][0].text in ATTRIBUTES:
                wanted = slice(1, None)
            yield from _places(found, at + 2, parts, wanted)


def _places(
    found: list[Token], start: int, parts: list[list[Token]], wanted: slice
) -> Iterator[tuple[int, int]]:
    """Where some of a call's arguments begin and end."""
    spans = []
    for part in parts:
        spans.append((start, start + len(part)))
        start += len(part) + 1
    yield from spans[wanted]


def _end(found: list[Token], at: int) -> int:
    """Where the expression ends that begins at a place."""
    depth = 0
    while at < len(found):
        mark = str(found[at])
        depth += (mark in OPENING) - (mark in CLOSING)
        if depth < 0 or (depth == 0 and mark in (",", ";")):
            return at
        at += 1
    return at


def _texts(found: list[Token], at: int, end: int) -> Iterator[int]:
    """The places of texts that can be an expression's value, or a part of it."""
    while at < end:
        token, mark = found[at], str(found[at])
        before = found[at - 1]
        is_after_value = before.kind == "name" or str(before) in (")", "]")
        is_call = mark in ("(", "[") and is_after_value and before.text not in THROUGH | {"return"}
        is_object = mark == "{" and str(before) != "=>"
        if is_call or is_object:
            at = _close(found, at)
        elif token.kind in ("text", "chunk"):
            around = {str(before), str(found[at + 1])}
            if not around & COMPARED:
                yield at
        at += 1


def _close(found: list[Token], at: int) -> int:
    return arguments(found, at)[1]
