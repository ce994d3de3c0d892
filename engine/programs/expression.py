"""Arithmetic and logic of Eval: numbers, texts, answers in braces, `+ - * / // %`, comparisons,
`and`, `or`, `xor`, `not`, `A if CONDITION else B`. There are no names, calls, powers or indices.

An answer is a value, not text that is put into the expression: it cannot change what is computed.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.programs.errors import ProgramError

Answer = bool | int | float | str
"""What Vqa, Count and Eval give."""

MOST_TOKENS, DEEPEST = 200, 20
LARGEST = 10**15
"""Of a number, without its sign."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d{1,15}(?:\.\d{1,15})?)|(?P<answer>\{[A-Z][A-Z0-9_]{0,31}\})"
    r"|(?P<text>'[^'{}]*'|\"[^\"{}]*\")|(?P<quoted>'\{[A-Z][A-Z0-9_]{0,31}\}'|\"\{[A-Z][A-Z0-9_]{0,31}\}\")"
    r"|(?P<word>and|or|xor|not|if|else|True|False|yes|no)\b|(?P<sign><=|>=|==|!=|//|[-+*/%<>()]))"
)
_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}
_CONSTANTS: dict[str, Answer] = {"True": True, "False": False, "yes": True, "no": False}


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression: nested tuples of an operation and its operands."""

    tree: tuple[Any, ...]
    names: tuple[str, ...]
    """The answers that it reads."""
    line: int

    def value(self, answers: Mapping[str, Answer]) -> Answer:
        """Compute it.

        Raises:
            ProgramError: an operand is of the wrong kind, or a number is too large.
        """
        return _Computer(answers, self.line).value(self.tree)


def parse_expression(text: str, line: int) -> Expression:
    """Read an expression.

    Raises:
        ProgramError: it is none; the message says where.
    """
    tokens: list[tuple[str, str]] = []
    at, text = 0, text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None or len(tokens) == MOST_TOKENS:
            what = f"Eval cannot read {text[at:].strip()[:40]!r}" if found is None else "it is long"
            raise ProgramError(f"{what}: it takes {ALLOWED}", line)
        assert found.lastgroup is not None
        tokens.append((found.lastgroup, found[found.lastgroup]))
        at = found.end()
    reader = _Reader(tokens, line)
    tree = reader.condition()
    reader.end()
    names = [value.strip("'\"{}") for kind, value in tokens if kind in ("answer", "quoted")]
    return Expression(tree, tuple(dict.fromkeys(names)), line)


ALLOWED = (
    "numbers, texts, answers in braces like {ANSWER0}, + - * / // % == != < <= > >=, and, or, xor, "
    f"not, if, else and parentheses, at most {MOST_TOKENS} of them"
)


class _Reader:
    """Reads tokens by descent: a conditional of or, xor, and, not, comparisons, sums, products."""

    def __init__(self, tokens: list[tuple[str, str]], line: int) -> None:
        self._tokens, self._at, self._line, self._depth = tokens, 0, line, 0

    def _take(self, *values: str) -> str | None:
        if self._at < len(self._tokens):
            kind, value = self._tokens[self._at]
            if kind in ("word", "sign") and value in values:
                self._at += 1
                return value
        return None

    def _wrong(self) -> ProgramError:
        left = self._tokens[self._at :]
        what = repr(left[0][1]) if left else "the end"
        return ProgramError(f"Eval does not expect {what} there", self._line)

    def end(self) -> None:
        if self._at < len(self._tokens):
            raise self._wrong()

    def condition(self) -> tuple[Any, ...]:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ProgramError(f"Eval is nested more than {DEEPEST} times", self._line)
        found = self._either()
        if self._take("if"):
            test = self._either()
            if not self._take("else"):
                raise self._wrong()
            found = ("if", test, found, self.condition())
        self._depth -= 1
        return found

    def _either(self) -> tuple[Any, ...]:
        return self._chain(lambda: self._chain(self._both, "xor"), "or")

    def _both(self) -> tuple[Any, ...]:
        return self._chain(self._negated, "and")

    def _chain(self, inner: Callable[[], tuple[Any, ...]], *signs: str) -> tuple[Any, ...]:
        found = inner()
        while sign := self._take(*signs):
            found = (sign, found, inner())
        return found

    def _negated(self) -> tuple[Any, ...]:
        times = 0
        while self._take("not"):
            times += 1
        found = self._comparison()
        for _ in range(times):
            found = ("not", found)
        return found

    def _comparison(self) -> tuple[Any, ...]:
        found = self._sum()
        sign = self._take("==", "!=", *_COMPARED)
        if sign is None:
            return found
        found = (sign, found, self._sum())
        if self._take("==", "!=", *_COMPARED):
            raise ProgramError("Eval compares two values; join comparisons with `and`", self._line)
        return found

    def _sum(self) -> tuple[Any, ...]:
        return self._chain(lambda: self._chain(self._signed, "*", "/", "//", "%"), "+", "-")

    def _signed(self) -> tuple[Any, ...]:
        if self._take("-"):
            return ("-", ("value", 0), self._atom())
        return self._atom()

    def _atom(self) -> tuple[Any, ...]:
        if self._take("("):
            found = self.condition()
            if not self._take(")"):
                raise self._wrong()
            return found
        if self._at == len(self._tokens):
            raise self._wrong()
        kind, value = self._tokens[self._at]
        self._at += 1
        if kind == "number":
            return ("value", float(value) if "." in value else int(value))
        if kind == "text":
            return ("value", value[1:-1])
        if kind in ("answer", "quoted"):
            return (kind, value.strip("'\"{}"))
        if value in _CONSTANTS:
            return ("value", _CONSTANTS[value])
        self._at -= 1
        raise self._wrong()


class _Computer:
    """Computes a tree."""

    def __init__(self, answers: Mapping[str, Answer], line: int) -> None:
        self._answers, self._line = answers, line

    def value(self, tree: tuple[Any, ...]) -> Answer:
        sign, *parts = tree
        if sign == "value":
            return self._small(parts[0])
        if sign == "answer":
            return self._small(self._answers[parts[0]])
        if sign == "quoted":
            return as_text(self._answers[parts[0]])
        if sign == "if":
            return self.value(parts[1] if self._truth(parts[0]) else parts[2])
        if sign == "not":
            return not self._truth(parts[0])
        if sign == "and":
            return self._truth(parts[0]) and self._truth(parts[1])
        if sign == "or":
            return self._truth(parts[0]) or self._truth(parts[1])
        if sign == "xor":
            return self._truth(parts[0]) != self._truth(parts[1])
        left, right = map(self.value, parts)
        if sign in ("==", "!="):
            return same(left, right) is bool(sign == "==")
        if isinstance(left, str) or isinstance(right, str):
            raise ProgramError(f"{sign!r} takes numbers, got {left!r} and {right!r}", self._line)
        if sign in _COMPARED:
            return _COMPARED[sign](left, right)
        if sign in ("/", "//", "%") and right == 0:
            raise ProgramError("Eval divides by zero", self._line)
        found: Answer = _ARITHMETIC[sign](left, right)
        return self._small(found)

    def _truth(self, tree: tuple[Any, ...]) -> bool:
        found = self.value(tree)
        if isinstance(found, str):
            raise ProgramError(f"yes or no is expected, got the text {found!r}", self._line)
        return bool(found)

    def _small(self, found: Answer) -> Answer:
        if not isinstance(found, str) and not abs(found) <= LARGEST:
            raise ProgramError(f"a number is beyond {LARGEST:.0e}", self._line)
        return found


def same(left: Answer, right: Answer) -> bool:
    """Whether two answers are equal: texts without regard to case, yes and no as True and False."""
    if isinstance(left, str) or isinstance(right, str):
        return as_text(left).casefold() == as_text(right).casefold()
    return left == right


def as_text(value: Answer) -> str:
    """Return an answer as a text: yes, no, or the number."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


_NUMBER_WORDS = {
    **{"none": 0, "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6},
    **{"seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12},
}


def read_answer(text: str) -> Answer:
    """Return what a model's short answer says: a number, yes or no, else the text itself."""
    plain = " ".join(text.split()).strip(" .!'\"")[:500]
    lower = plain.casefold()
    if lower in ("yes", "true", "no", "false"):
        return lower in ("yes", "true")
    if lower in _NUMBER_WORDS:
        return _NUMBER_WORDS[lower]
    if re.fullmatch(r"-?\d{1,15}", plain):
        return int(plain)
    return float(plain) if re.fullmatch(r"-?\d{1,12}\.\d{1,12}", plain) else plain
