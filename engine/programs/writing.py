"""Programs by a language model, from a request in words and examples."""

from __future__ import annotations

import re
from collections.abc import Sequence

from engine.programs.errors import ProgramError
from engine.programs.language import Program, parse
from engine.programs.signatures import SIGNATURES
from engine.semantics.chat import Chat

EXAMPLES = (
    (
        "images with at least two dogs left of a person",
        "OBJ0=Loc(image=IMAGE, object='person')\n"
        "IMAGE0=CropLeft(image=IMAGE, object=OBJ0)\n"
        "OBJ1=Loc(image=IMAGE0, object='dog')\n"
        "ANSWER0=Count(object=OBJ1)\n"
        "ANSWER1=Eval('{ANSWER0} >= 2')\n"
        "RESULT=ANSWER1",
    ),
    (
        "images with more cats than dogs, or with no animal at all",
        "OBJ0=Loc(image=IMAGE, object='cat')\n"
        "OBJ1=Loc(image=IMAGE, object='dog')\n"
        "OBJ2=Loc(image=IMAGE, object='animal')\n"
        "ANSWER0=Count(object=OBJ0)\n"
        "ANSWER1=Count(object=OBJ1)\n"
        "ANSWER2=Count(object=OBJ2)\n"
        "ANSWER3=Eval('{ANSWER0} > {ANSWER1} or {ANSWER2} == 0')\n"
        "RESULT=ANSWER3",
    ),
    (
        "the red cars",
        "OBJ0=Loc(image=IMAGE, object='car')\n"
        "OBJ1=Classify(image=IMAGE, object=OBJ0, categories=['red car', 'car of another colour'])\n"
        "OBJ2=Select(image=IMAGE, object=OBJ1, query='red car', category='red car')\n"
        "RESULT=OBJ2",
    ),
    (
        "is it raining in the image?",
        "ANSWER0=Vqa(image=IMAGE, question='Is it raining?')\nRESULT=ANSWER0",
    ),
    (
        "six people in both images together",
        "ANSWER0=Vqa(image=LEFT, question='How many people are in the image?')\n"
        "ANSWER1=Vqa(image=RIGHT, question='How many people are in the image?')\n"
        "ANSWER2=Eval('{ANSWER0} + {ANSWER1} == 6')\n"
        "RESULT=ANSWER2",
    ),
    (
        "tag the planets of the solar system",
        "OBJ0=Seg(image=IMAGE)\n"
        "LIST0=List(query='planets of the solar system', max=8)\n"
        "OBJ1=Classify(image=IMAGE, object=OBJ0, categories=LIST0)\n"
        "IMAGE0=Tag(image=IMAGE, object=OBJ1)\n"
        "RESULT=IMAGE0",
    ),
    (
        "hide faces behind a smile and keep the colour of the flags only",
        "OBJ0=FaceDet(image=IMAGE)\n"
        "IMAGE0=Emoji(image=IMAGE, object=OBJ0, emoji='smile')\n"
        "OBJ1=Loc(image=IMAGE, object='flag')\n"
        "IMAGE1=ColorPop(image=IMAGE0, object=OBJ1)\n"
        "RESULT=IMAGE1",
    ),
)
"""Requests and programs."""

LONGEST_REQUEST = 500


def prompt_for(request: str, categories: Sequence[str]) -> str:
    """Return the question to the language model."""
    calls = "\n".join(
        f"{name}({', '.join(signature.names)}): {signature.help}"
        for name, signature in SIGNATURES.items()
    )
    examples = "\n\n".join(f"Request: {words}\nProgram:\n{text}" for words, text in EXAMPLES)
    named = f"\nThe objects have these names: {', '.join(categories)}." if categories else ""
    return (
        "Write a program for a request about images. A program has one call a line, "
        "NAME=Module(argument=value, ...). It begins with IMAGE, or LEFT and RIGHT for a pair, and "
        "its last line sets RESULT. There are no loops, attributes, or other modules than these:\n"
        f"{calls}{named}\n\n{examples}\n\nRequest: {request}\nProgram:\n"
    )


def write_program(chat: Chat, request: str, categories: Sequence[str]) -> Program:
    """Have a program written; if it is refused, once more with the reason.

    Raises:
        ChatError: the language model does not answer.
        ProgramError: the request is empty or too long, or both answers are no program.
    """
    request = " ".join(request.split())
    if not 0 < len(request) <= LONGEST_REQUEST:
        raise ProgramError(f"a request has 1 to {LONGEST_REQUEST} characters")
    asked = prompt_for(request, categories)
    said = program_in(chat.ask(asked).text)
    try:
        return parse(said)
    except ProgramError as error:
        first = error
    again = f"{asked}{said}\n\nThis was refused: {first}\nProgram:\n"
    said = program_in(chat.ask(again).text)
    try:
        return parse(said)
    except ProgramError as error:
        raise ProgramError(
            f"{chat.name} wrote no program for this request: {error}; it wrote:\n{said[:1000]}"
        ) from error


def program_in(answer: str) -> str:
    """Return the lines of an answer that look like calls; thoughts and fences are left out."""
    answer = re.sub(r"<think>.*?</think>", "", answer, flags=re.DOTALL)
    lines = [line.strip() for line in answer.splitlines()]
    return "\n".join(line for line in lines if re.match(r"[A-Z][A-Z0-9_]*\s*=(?!=)", line))
