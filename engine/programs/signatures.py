"""The modules that programs may call, with their parameters and results."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a variable is."""

    IMAGE = "image"
    OBJECTS = "objects"
    TEXTS = "list"
    ANSWER = "answer"
    """A number, yes or no, or a text."""


class Wants(StrEnum):
    """What a parameter takes."""

    IMAGE = "an image"
    OBJECTS = "objects"
    TEXTS = "a list of texts"
    TEXT = "a text in quotes"
    INTEGER = "a whole number"
    ANY = "a variable"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter. `default` is what it is without a value, if it is `optional`; `low` and `high`
    bound a whole number."""

    name: str
    wants: Wants
    optional: bool = False
    default: int | None = None
    low: int = 1
    high: int = 50


@dataclass(frozen=True, slots=True)
class Signature:
    """Parameters in order, of which the first may be given without its name, the kind of the
    result (None: that of the argument), and a sentence for people and language models."""

    parameters: tuple[Parameter, ...]
    result: Kind | None
    help: str

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names."""
        return tuple(parameter.name for parameter in self.parameters)


_IMAGE, _OBJECT = Parameter("image", Wants.IMAGE), Parameter("object", Wants.OBJECTS)


def _text(name: str, *, optional: bool = False) -> Parameter:
    return Parameter(name, Wants.TEXT, optional)


SIGNATURES = {
    "Loc": Signature(
        (_IMAGE, _text("object")), Kind.OBJECTS, "The objects of a name: Loc(object='dog')."
    ),
    "Seg": Signature((_IMAGE,), Kind.OBJECTS, "All objects."),
    "Select": Signature(
        (_IMAGE, _OBJECT, _text("query"), _text("category", optional=True)),
        Kind.OBJECTS,
        "Of some objects, those of a name, or the one that fits the words best. Several names have "
        "commas between them.",
    ),
    "Classify": Signature(
        (_IMAGE, _OBJECT, Parameter("categories", Wants.TEXTS)),
        Kind.OBJECTS,
        "The objects, each named by the category that fits best.",
    ),
    "Count": Signature((_OBJECT,), Kind.ANSWER, "How many objects."),
    "Crop": Signature((_IMAGE, _OBJECT), Kind.IMAGE, "The part around the objects."),
    "CropLeft": Signature(
        (_IMAGE, _OBJECT), Kind.IMAGE, "What lies left of the centre of one of the objects."
    ),
    "CropRight": Signature((_IMAGE, _OBJECT), Kind.IMAGE, "The same, right of it."),
    "CropAbove": Signature((_IMAGE, _OBJECT), Kind.IMAGE, "The same, above it."),
    "CropBelow": Signature((_IMAGE, _OBJECT), Kind.IMAGE, "The same, below it."),
    "FaceDet": Signature((_IMAGE,), Kind.OBJECTS, "Faces that look at the camera."),
    "Vqa": Signature(
        (_IMAGE, _text("question")), Kind.ANSWER, "A language model's answer about an image."
    ),
    "List": Signature(
        (_text("query"), Parameter("max", Wants.INTEGER, optional=True, default=10)),
        Kind.TEXTS,
        "Names that a language model lists.",
    ),
    "Tag": Signature((_IMAGE, _OBJECT), Kind.IMAGE, "The image with boxes and names."),
    "ColorPop": Signature((_IMAGE, _OBJECT), Kind.IMAGE, "Colour in the objects, grey elsewhere."),
    "BgBlur": Signature((_IMAGE, _OBJECT), Kind.IMAGE, "All but the objects blurred."),
    "Emoji": Signature(
        (_IMAGE, _OBJECT, _text("emoji")),
        Kind.IMAGE,
        "An emoji over each object: smile, sad, wink, surprised, cool, heart or star.",
    ),
    "Replace": Signature(
        (_IMAGE, _OBJECT, _text("prompt")),
        Kind.IMAGE,
        "The objects painted anew, as the words say.",
    ),
    "Eval": Signature(
        (_text("expr"),),
        Kind.ANSWER,
        "Arithmetic and logic over answers in braces: Eval('{ANSWER0} >= 2 and not {ANSWER1}').",
    ),
    "Result": Signature((Parameter("var", Wants.ANY),), None, "The variable as it is."),
}
"""All modules by name."""

INPUTS = ("IMAGE", "LEFT", "RIGHT")
"""Variables that are there at the start: an image, or a pair."""

PLUG_INS = ("Vqa", "List", "Replace")
"""Modules that need a model from outside."""
