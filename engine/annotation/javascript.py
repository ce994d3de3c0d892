"""Reads the page's JavaScript as tokens, and finds the texts that it passes to `strings.js`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

PLAIN = re.compile(
    r"""(?P<space>\s+)
    |(?P<comment>//[^\n]*|/\*.*?\*/)
    |(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<name>\#?[^\W\d][\w$]*|\$[\w$]*)
    |(?P<number>\.?\d[\w.]*)
    |(?P<punct>=>|\.\.\.|[=!]==?|\?\?=?|\?\.|&&=?|\|\|=?|[-+]{2}|[<>]=|\S)""",
    re.VERBOSE | re.DOTALL,
)
PATTERN = re.compile(r"/(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/[a-z]*")
CHUNK = re.compile(r"((?:[^`\\$]|\\.|\$(?!\{))*)(`|\$\{)", re.DOTALL)
ESCAPE = re.compile(r"\\(u\{[0-9a-fA-F]+\}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|\r?\n|.)", re.DOTALL)
SHORT = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0"}
BEFORE_PATTERNS = {"return", "typeof", "case", "in", "of", "delete", "void", "throw", "else"}
OPENING = {"(", "[", "{", "${"}
CLOSING = {")", "]", "}"}

LISTED = "/* listed */"
"""Before the first argument of a call: the text is a literal argument of another call."""


class JavaScriptError(ValueError):
    """A file that cannot be read, or a text that cannot be listed. The message has the line."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token.

    Attributes:
        kind: "name", "text", "chunk", "number", "pattern", "punct" or "comment". A text is a
            string, or a template without values; of a template with values each piece is a chunk.
        text: of texts and chunks their value.
        line: of its first character, from 1.
    """

    kind: str
    text: str
    line: int

    def __str__(self) -> str:
        return self.text if self.kind not in ("text", "chunk") else ""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a function that was imported from `strings.js`.

    Attributes:
        name: the function's: "t", "plural" or "pieces".
        arguments: the tokens of each.
        line: of the name, from 1.
    """

    name: str
    arguments: list[list[Token]]
    line: int

    def literal(self, place: int) -> str | None:
        """The text of an argument; None if the texts are listed elsewhere.

        Raises:
            JavaScriptError: the argument is not a literal.
        """
        given = self.arguments[place] if place < len(self.arguments) else []
        if [token.text for token in given[:1]] == [LISTED]:
            return None
        given = [token for token in given if token.kind != "comment"]
        if len(given) != 1 or given[0].kind != "text":
            raise JavaScriptError(
                f"{self.line}: {self.name}() takes a literal text, so that it can be listed; "
                f"values go into {{placeholders}}, and {LISTED} before a text that another call "
                "has as a literal"
            )
        return given[0].text


def tokens(source: str) -> list[Token]:
    """All tokens of a module, comments included.

    Raises:
        JavaScriptError: a template does not end.
    """
    found: list[Token] = []
    braces: list[str] = []
    at, line = 0, 1
    while at < len(source):
        kind, text = _next(source, at, found)
        at += len(text)
        if text == "`" or (text == "}" and braces and braces[-1] == "${"):
            if text == "}":
                braces.pop()
                found.append(Token("punct", text, line))
            value, end, at = _chunk(source, at, line)
            is_whole = text == "`" and end == "`"
            found.append(Token("text" if is_whole else "chunk", _value(value), line))
            text = value
            if end == "${":
                found.append(Token("punct", end, line + value.count("\n")))
                braces.append(end)
        elif kind != "space":
            if text in ("{", "}"):
                braces.append(text) if text == "{" else braces and braces.pop()
            found.append(Token(kind, _value(text[1:-1]) if kind == "text" else text, line))
        line += text.count("\n")
    return found


def _next(source: str, at: int, before: list[Token]) -> tuple[str, str]:
    """Kind and text of the token at a place."""
    match = PLAIN.match(source, at)
    assert match is not None, "the last kind takes any character"
    assert match.lastgroup is not None
    if match["punct"] == "/":
        last = next((token for token in reversed(before) if token.kind != "comment"), None)
        is_punct = last is not None and last.kind == "punct" and last.text not in CLOSING
        if last is None or is_punct or last.text in BEFORE_PATTERNS:
            pattern = PATTERN.match(source, at)
            if pattern is not None:
                return "pattern", pattern[0]
    return match.lastgroup, match[0]


def _chunk(source: str, at: int, line: int) -> tuple[str, str, int]:
    """A piece of a template, what ends it, and the place behind."""
    match = CHUNK.match(source, at)
    if match is None:
        raise JavaScriptError(f"{line}: this template does not end")
    return match[1], match[2], match.end()


def _value(text: str) -> str:
    """A string's value, with its escapes resolved."""

    def resolved(match: re.Match[str]) -> str:
        code = match[1]
        if len(code) > 1 and code[0] in "ux":
            return chr(int(code[1:].strip("{}"), 16))
        return "" if code.endswith("\n") else SHORT.get(code, code)

    return ESCAPE.sub(resolved, text)


def arguments(found: list[Token], at: int) -> tuple[list[list[Token]], int]:
    """The arguments of the call whose opening parenthesis is at a place, each as its tokens; and
    the place of the closing one. Brackets and braces are read alike."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for place in range(at, len(found)):
        token = found[place]
        mark = str(token)
        if mark in CLOSING:
            depth -= 1
            if depth == 0:
                return [part for part in parts if part], place
        if depth == 1 and mark == ",":
            parts.append([])
        elif depth > 0:
            parts[-1].append(token)
        if mark in OPENING:
            depth += 1
    raise JavaScriptError(f"{found[at].line}: this bracket is not closed")


def imported(found: list[Token]) -> set[str]:
    """The names that a module imports from `strings.js`."""
    names: set[str] = set()
    for at, token in enumerate(found):
        if str(token) != "import" or str(found[at + 1]) != "{":
            continue
        parts, end = arguments(found, at + 1)
        if found[end + 2].text.endswith("/strings.js"):
            names |= {part[-1].text for part in parts}
    return names


def calls(found: list[Token]) -> Iterator[Call]:
    """The calls of `t`, `plural` and `pieces`, in the order of the module."""
    names = imported(found) & {"t", "plural", "pieces"}
    for at, token in enumerate(found[:-1]):
        if token.kind != "name" or token.text not in names or str(found[at + 1]) != "(":
            continue
        if at and str(found[at - 1]) in (".", "?."):
            continue
        yield Call(token.text, arguments(found, at + 1)[0], token.line)
