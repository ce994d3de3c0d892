"""The language of visual programs: `NAME=Module(arg=value, ...)`, one call a line.

Gupta and Kembhavi 2023, Visual Programming. The parser knows the modules of `signatures`, texts,
whole numbers, None, lists of texts, and variables that a line above has set; it runs nothing. A
variable is set once and no line refers to a later one, so that every program ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from engine.programs.errors import ProgramError
from engine.programs.expression import Expression, parse_expression
from engine.programs.signatures import INPUTS, SIGNATURES, Kind, Parameter, Wants

MOST_STEPS = 64
LONGEST_PROGRAM, LONGEST_LINE, LONGEST_TEXT = 20_000, 1_000, 500
"""In characters."""
MOST_IN_LIST = 50
RESULT = "RESULT"
"""The variable that the last line sets."""

_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,31}")
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^'\\]|\\['"\\])*'|"(?:[^"\\]|\\['"\\])*")|(?P<number>-?\d{1,9}(?![\w.]))"""
    r"""|(?P<word>[A-Za-z_][A-Za-z0-9_]{0,31}(?![A-Za-z0-9_]))|(?P<sign>[=(),\[\]]))"""
)
_WANTED_KIND = {Wants.IMAGE: Kind.IMAGE, Wants.OBJECTS: Kind.OBJECTS, Wants.TEXTS: Kind.TEXTS}


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable as an argument."""

    name: str


Argument = Variable | str | int | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Step:
    """A line: `target=module(arguments)`; a line `A=B` is a call of Result.

    Attributes:
        line: counted from 1.
        text: as written.
        kind: of the result.
        expression: the parsed text of Eval.
    """

    line: int
    text: str
    target: str
    module: str
    arguments: Mapping[str, Argument]
    kind: Kind
    expression: Expression | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """A program that was read without an error.

    Attributes:
        text: as written.
        steps: in order; the last one sets RESULT.
        inputs: `IMAGE`, or `LEFT` and `RIGHT`.
    """

    text: str
    steps: tuple[Step, ...]
    inputs: tuple[str, ...]

    @property
    def kind(self) -> Kind:
        """Of the result."""
        return self.steps[-1].kind

    @property
    def modules(self) -> set[str]:
        """The modules that it calls."""
        return {step.module for step in self.steps}

    @property
    def is_pair(self) -> bool:
        """Whether it looks at two images."""
        return self.inputs != INPUTS[:1]


@dataclass(slots=True)
class _Reader:
    """Reads the lines of a program; knows the variables so far."""

    kinds: dict[str, Kind] = field(default_factory=lambda: dict.fromkeys(INPUTS, Kind.IMAGE))
    used: set[str] = field(default_factory=set)

    def step(self, line: int, text: str) -> Step:
        tokens = _Tokens(line, text)
        target = tokens.word("a variable, such as ANSWER0")
        if _NAME.fullmatch(target) is None:
            raise ProgramError(
                f"{target!r} is no name of a variable: capitals, digits and _, 32 at most", line
            )
        if target in self.kinds:
            raise ProgramError(f"{target} is set already; take a new name", line)
        tokens.sign("=")
        first = tokens.word("a module, such as Count(...)")
        if tokens.is_done() and _NAME.fullmatch(first):
            module, arguments = "Result", dict[str, Argument](var=self._variable(line, first))
        else:
            module = self._module(line, first)
            arguments = self._arguments(tokens, module)
        arguments, expression = self._checked(line, module, arguments)
        kind = SIGNATURES[module].result
        if kind is None:
            [given] = arguments.values()
            assert isinstance(given, Variable)
            kind = self.kinds[given.name]
        self.kinds[target] = kind
        return Step(line, text, target, module, arguments, kind, expression)

    def _module(self, line: int, name: str) -> str:
        found = next((one for one in SIGNATURES if one.casefold() == name.casefold()), None)
        if found is None:
            raise ProgramError(
                f"there is no module {name!r}; there are {', '.join(SIGNATURES)}", line
            )
        return found

    def _variable(self, line: int, name: str) -> Variable:
        if name not in self.kinds:
            known = ", ".join(one for one in self.kinds if one not in INPUTS) or "none"
            raise ProgramError(f"{name} is not set in a line above (there is {known})", line)
        self.used.add(name)
        return Variable(name)

    def _arguments(self, tokens: _Tokens, module: str) -> dict[str, Argument]:
        names, found = SIGNATURES[module].names, dict[str, Argument]()
        tokens.sign("(")
        while not tokens.take(")"):
            if found:
                tokens.sign(",")
            name = tokens.argument_name()
            if name is None:
                if found:
                    raise ProgramError("only the first argument may go without a name", tokens.line)
                name = names[0]
            if name not in names:
                raise ProgramError(
                    f"{module} has no argument {name!r}; it has {', '.join(names)}", tokens.line
                )
            if name in found:
                raise ProgramError(f"the argument {name} is given twice", tokens.line)
            found[name] = self._value(tokens)
        tokens.end()
        return found

    def _value(self, tokens: _Tokens) -> Argument:
        kind, value = tokens.next("a value: a text in quotes, a number, None or a variable")
        if kind == "text":
            return _unquoted(tokens.line, value)
        if kind == "number":
            return int(value)
        if value == "[":
            return tuple(tokens.texts())
        if kind == "word":
            return None if value == "None" else self._variable(tokens.line, value)
        raise ProgramError(f"{value!r} is no value", tokens.line)

    def _checked(
        self, line: int, module: str, given: dict[str, Argument]
    ) -> tuple[dict[str, Argument], Expression | None]:
        """Return the arguments with defaults, each of the kind that the module takes."""
        found: dict[str, Argument] = {}
        for parameter in SIGNATURES[module].parameters:
            value = given.get(parameter.name, parameter.default)
            if parameter.name not in given and not parameter.optional:
                raise ProgramError(f"{module} lacks the argument {parameter.name}", line)
            if not (value is None and parameter.optional):
                self._check(line, module, parameter, value)
            found[parameter.name] = value
        if module != "Eval":
            return found, None
        expression = parse_expression(str(found["expr"]), line)
        for name in expression.names:
            self._variable(line, name)
            if self.kinds[name] != Kind.ANSWER:
                raise ProgramError(f"Eval takes answers; {name} is {self.kinds[name]}", line)
        return found, expression

    def _check(self, line: int, module: str, parameter: Parameter, value: Argument) -> None:
        wants, name = parameter.wants, parameter.name
        if isinstance(value, Variable):
            kind = self.kinds[value.name]
            if wants == Wants.ANY or _WANTED_KIND.get(wants) == kind:
                return
            raise ProgramError(f"{name} of {module} is {wants}; {value.name} is {kind}", line)
        fits = (
            (wants == Wants.TEXT and isinstance(value, str) and value.strip())
            or (wants == Wants.INTEGER and isinstance(value, int))
            or (wants == Wants.TEXTS and isinstance(value, tuple) and value)
        )
        if not fits:
            raise ProgramError(f"{name} of {module} is {wants}, got {value!r}", line)
        if isinstance(value, int) and not parameter.low <= value <= parameter.high:
            raise ProgramError(
                f"{name} of {module} is {parameter.low} to {parameter.high}, got {value}", line
            )


class _Tokens:
    """The parts of one line."""

    def __init__(self, line: int, text: str) -> None:
        self.line, self._text, self._at = line, text, 0

    def _peek(self) -> re.Match[str] | None:
        return _TOKEN.match(self._text, self._at)

    def is_done(self) -> bool:
        return not self._text[self._at :].strip()

    def next(self, wanted: str) -> tuple[str, str]:
        found = self._peek()
        if found is None:
            raise ProgramError(f"expected {wanted}, got {self._rest()}", self.line)
        self._at = found.end()
        assert found.lastgroup is not None
        return found.lastgroup, found[found.lastgroup]

    def word(self, wanted: str) -> str:
        kind, value = self.next(wanted)
        if kind != "word":
            raise ProgramError(f"expected {wanted}, got {value!r}", self.line)
        return value

    def take(self, sign: str) -> bool:
        found = self._peek()
        if found is None or found["sign"] != sign:
            return False
        self._at = found.end()
        return True

    def sign(self, sign: str) -> None:
        if not self.take(sign):
            raise ProgramError(f"expected {sign!r}, got {self._rest()}", self.line)

    def argument_name(self) -> str | None:
        """Take `name=`; None if a value comes next."""
        before, found = self._at, self._peek()
        if found is not None and found["word"]:
            self._at = found.end()
            if self.take("="):
                return found["word"]
        self._at = before
        return None

    def texts(self) -> Iterator[str]:
        """Take the rest of a list of texts."""
        for number in range(MOST_IN_LIST + 1):
            if self.take("]"):
                return
            if number:
                self.sign(",")
            kind, value = self.next("a text in quotes")
            if kind != "text":
                raise ProgramError(f"a list holds texts in quotes, got {value!r}", self.line)
            yield _unquoted(self.line, value)
        self.sign("]")

    def end(self) -> None:
        if not self.is_done():
            raise ProgramError(f"one call a line; after it comes {self._rest()}", self.line)

    def _rest(self) -> str:
        rest = self._text[self._at :].strip()
        return repr(rest[:40]) if rest else "the end of the line"


def _unquoted(line: int, text: str) -> str:
    value = re.sub(r"\\(.)", r"\1", text[1:-1])
    if len(value) > LONGEST_TEXT or not value.isprintable():
        raise ProgramError(
            f"a text has at most {LONGEST_TEXT} characters, and no control characters", line
        )
    return value


def parse(text: str) -> Program:
    """Read a program. Blank lines and lines that begin with `#` are passed over.

    Raises:
        ProgramError: it is not one; the message names the line and the reason.
    """
    if len(text) > LONGEST_PROGRAM:
        raise ProgramError(
            f"a program has at most {LONGEST_PROGRAM:,} characters, this has {len(text):,}"
        )
    reader, steps = _Reader(), list[Step]()
    for number, line in enumerate(text.split("\n"), 1):
        plain = line.strip()
        if not plain or plain.startswith("#"):
            continue
        if len(plain) > LONGEST_LINE:
            raise ProgramError(f"a line has at most {LONGEST_LINE:,} characters", number)
        if len(steps) == MOST_STEPS:
            raise ProgramError(f"a program has at most {MOST_STEPS} steps", number)
        if steps and steps[-1].target == RESULT:
            raise ProgramError(f"{RESULT} is set by the last line, but this one follows", number)
        steps.append(reader.step(number, plain))
    if not steps or steps[-1].target != RESULT:
        last = steps[-1].line if steps else None
        raise ProgramError(f"the last line sets {RESULT}, as in `{RESULT}=ANSWER0`", last)
    return Program(text, tuple(steps), _inputs(reader.used, steps[-1].line))


def _inputs(used: set[str], line: int) -> tuple[str, ...]:
    image, *pair = INPUTS
    if used.isdisjoint(pair):
        return (image,)
    if image in used:
        raise ProgramError("a program looks at IMAGE, or at LEFT and RIGHT, not at both", line)
    return tuple(pair)
