"""Programs that would read files, run code, never end or fill the memory are refused."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.programs.errors import ProgramError
from engine.programs.interpreter import Limits, execute
from engine.programs.language import LONGEST_PROGRAM, MOST_STEPS, parse
from engine.programs.signatures import SIGNATURES
from engine.programs.values import Picture, Thing, Tools

IMAGE = Picture.whole(np.zeros((16, 16, 3), np.uint8), "IMAGE")
TOOLS = Tools(things={"IMAGE": [Thing((2, 2, 9, 9), names=("dog",))]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RESULT=__import__('os')", "line 1: there is no module '__import__'"),
        ("A=Count(object=IMAGE.__class__)\nRESULT=A", "line 1: expected ','"),
        ("RESULT=open('/etc/passwd')", "line 1: there is no module 'open'"),
        ("import os\nRESULT=IMAGE", "line 1: 'import' is no name of a variable"),
        ("while True: pass\nRESULT=IMAGE", "line 1: 'while' is no name of a variable"),
        ("A=B\nB=A\nRESULT=A", "line 1: B is not set in a line above"),
        ("A=A\nRESULT=A", "line 1: A is not set in a line above"),
        ("A=Seg(IMAGE)\nA=Seg(IMAGE)\nRESULT=A", "line 2: A is set already"),
        ("IMAGE=Seg(IMAGE)\nRESULT=IMAGE", "line 1: IMAGE is set already"),
        ("A=Crop(IMAGE, object=IMAGE)\nRESULT=A", "line 1: object of Crop is objects"),
        ("A=Crop(IMAGE, width=99999)\nRESULT=A", "line 1: Crop has no argument 'width'"),
        ("A=List('x', max=1000000000)\nRESULT=A", "line 1: expected a value"),
        ("A=List('x', max=51)\nRESULT=A", "line 1: max of List is 1 to 50, got 51"),
        ("A=List('x', max=-1)\nRESULT=A", "line 1: max of List is 1 to 50, got -1"),
        ("A=Seg(IMAGE); B=Seg(IMAGE)\nRESULT=A", "line 1: one call a line; after it comes"),
        ("A=Seg(Seg(IMAGE))\nRESULT=A", "line 1: Seg is not set in a line above"),
        ("A=Seg(IMAGE, IMAGE)\nRESULT=A", "line 1: only the first argument may go without"),
        ("A=Vqa(IMAGE, question='a\\n\x07')\nRESULT=A", "line 1: expected a value"),
        ("A=Vqa(IMAGE)\nRESULT=A", "line 1: Vqa lacks the argument question"),
        ("A=Seg(IMAGE)", "line 1: the last line sets RESULT"),
        ("", "the last line sets RESULT"),
        ("RESULT=IMAGE\nA=IMAGE", "line 2: RESULT is set by the last line"),
        ("A=Seg(IMAGE)\nB=Seg(LEFT)\nRESULT=B", "line 3: a program looks at IMAGE, or at LEFT"),
        ("RESULT=Eval('().__class__.__bases__')", "line 1: Eval cannot read"),
        ("RESULT=Eval('__import__(1)')", "line 1: Eval cannot read '__import__"),
        ("RESULT=Eval('9**9**9')", "line 1: Eval does not expect '*' there"),
        ("RESULT=Eval('[1]*9')", "line 1: Eval cannot read"),
        ("RESULT=Eval('{IMAGE}')", "line 1: Eval takes answers; IMAGE is image"),
        ("RESULT=Eval('{A.b}')", "line 1: Eval cannot read"),
        ("RESULT=Eval('1 < 2 < 3')", "line 1: Eval compares two values"),
        (f"RESULT=Eval('{'(' * 90}1{')' * 90}')", "line 1: Eval is nested more than 20 times"),
        (f"RESULT=Eval('{'1+' * 150}1')", "line 1: it is long"),
        ("x" * (LONGEST_PROGRAM + 1), "at most 20,000 characters"),
        (f"A=Vqa(IMAGE, question='{'x' * 501}')", "a text has at most 500 characters"),
        (f"A=Vqa(IMAGE, question='{'x' * 1001}')", "a line has at most 1,000 characters"),
        ("\n".join(f"A{n}=Seg(IMAGE)" for n in range(99)), f"line {MOST_STEPS + 1}: a program has"),
    ],
)
def test_a_hostile_or_wrong_line_is_refused_with_its_number_and_the_reason(
    text: str, message: str
) -> None:
    with pytest.raises(ProgramError) as caught:
        parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("expr", "message"),
    [
        ("999999999999999 * 999999999999999", "a number is beyond 1e"),
        ("1 / 0", "Eval divides by zero"),
        ("1 % 0", "Eval divides by zero"),
        ("'a' + 'b'", "'+' takes numbers"),
        ("'a' and True", "yes or no is expected"),
    ],
)
def test_a_wrong_sum_is_an_error_of_its_line(expr: str, message: str) -> None:
    with pytest.raises(ProgramError) as caught:
        execute(parse(f'# sum\nRESULT=Eval("{expr}")'), {"IMAGE": IMAGE}, TOOLS)
    assert str(caught.value).startswith(f"line 2: {message}")


def test_a_billion_pixels_are_refused_before_they_are_made() -> None:
    lines = ["OBJ0=Seg(IMAGE)", "IMAGE0=Tag(IMAGE, object=OBJ0)"]
    lines += [f"IMAGE{n}=BgBlur(IMAGE{n - 1}, object=OBJ0)" for n in range(1, 30)]
    program = parse("\n".join([*lines, "RESULT=IMAGE29"]))
    limits = Limits(pixels=10 * 16 * 16)
    with pytest.raises(ProgramError, match="line 11: pictures have more than 2,560 pixels"):
        execute(program, {"IMAGE": IMAGE}, TOOLS, limits)
    huge = Picture.whole(np.broadcast_to(np.zeros(3, np.uint8), (40_000, 30_000, 3)), "IMAGE")
    began = time.monotonic()
    with pytest.raises(ProgramError, match="400,000,000 pixels"):
        execute(program, {"IMAGE": huge}, TOOLS)
    assert time.monotonic() - began < 1


def test_time_and_calls_are_limited() -> None:
    lines = "\n".join(f"A{n}=Vqa(IMAGE, question='?')" for n in range(6)) + "\nRESULT=A5"

    def slow(picture: np.ndarray, question: str) -> str:
        time.sleep(0.02)
        return "1"

    with pytest.raises(ProgramError, match="the program takes more"):
        execute(parse(lines), {"IMAGE": IMAGE}, Tools(answer=slow), Limits(seconds=0.05))
    with pytest.raises(ProgramError, match="line 4: plug-ins are called more than 3 times"):
        execute(parse(lines), {"IMAGE": IMAGE}, Tools(answer=slow), Limits(calls=3))


def test_an_answer_cannot_change_what_is_computed() -> None:
    text = "A=Vqa(IMAGE, question='?')\nRESULT=Eval('{A} == 1 or False')"
    tools = Tools(answer=lambda picture, question: "0 or True")
    assert execute(parse(text), {"IMAGE": IMAGE}, tools) is False


SIGNS = (*"=(),.[]+:;#'", "\n", " ", "\\", '"', "**", "//")
WORDS = ("IMAGE", "LEFT", "OBJ0", "RESULT", "None", "image", "object", "query", "expr", "{OBJ0}")
CODE = ("__import__", "open", "os", "lambda", "eval", "1000000000", "'dog'", "\x00", "é")
PARTS = st.sampled_from((*SIGNATURES, *SIGNS, *WORDS, *CODE))


def assert_ends_or_names_a_line(text: str) -> None:
    refused: ProgramError | None = None
    try:
        program = parse(text)
        execute(program, dict.fromkeys(program.inputs, IMAGE), TOOLS)
    except ProgramError as error:
        refused = error
    is_blank = not [line for line in text.split("\n") if line.strip() and line.strip()[0] != "#"]
    assert refused is None or refused.line is not None or is_blank


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(PARTS, max_size=40).map("".join)))
@example("RESULT=Eval('" + "-" * 150 + "1')")
@example("RESULT=Eval('" + "not " * 150 + "1')")
def test_any_text_is_a_program_that_ends_or_is_refused(text: str) -> None:
    assert_ends_or_names_a_line(text)


CALLS = st.lists(
    st.tuples(
        st.sampled_from(sorted(SIGNATURES)),
        st.sampled_from(["IMAGE", "A0", "A1", "A2", "'dog'", "3", "None", "['dog', 'cat']"]),
        st.sampled_from(["IMAGE", "A0", "A1", "A2", "'smile'", "'{A0} + {A1} > 1'", "None"]),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=200, deadline=None)
@given(CALLS)
def test_calls_with_any_arguments_end_or_are_refused(calls: list[tuple[str, str, str]]) -> None:
    lines = []
    for number, (module, *values) in enumerate(calls):
        names = SIGNATURES[module].names
        given = ", ".join(f"{n}={v}" for n, v in zip(names, [*values, "'dog'"], strict=False))
        lines.append(f"A{number}={module}({given})")
    text = "\n".join([*lines, f"RESULT=A{len(calls) - 1}"])
    assert_ends_or_names_a_line(text)
