"""What the modules of programs do.

A function takes the run and the step's values by parameter, and returns the step's value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.programs import pictures
from engine.programs.errors import ProgramError
from engine.programs.expression import Answer, read_answer
from engine.programs.faces import find_faces
from engine.programs.values import Box, Objects, Picture, Thing, Tools, Value, is_named, same_name


@dataclass(slots=True)
class Running:
    """A step that is carried out.

    Attributes:
        line: of the program.
        allocate: counts pixels of a new picture; raises ProgramError beyond the limit.
        call: counts a call of a plug-in.
    """

    tools: Tools
    line: int
    allocate: Callable[[int], None]
    call: Callable[[], None]

    def wrong(self, reason: str) -> ProgramError:
        """The error of this step."""
        return ProgramError(reason, self.line)


Given = Mapping[str, Any]


def _edited(run: Running, picture: Picture, pixels: Callable[[], np.ndarray]) -> Picture:
    if picture.is_empty:
        return picture
    run.allocate(picture.pixels_HWC.shape[0] * picture.pixels_HWC.shape[1])
    return replace(picture, pixels_HWC=pixels())


def _inside(run: Running, given: Given) -> tuple[Thing, ...]:
    """The objects among `object` that lie within `image`."""
    picture, objects = given["image"], given["object"]
    if objects.slot != picture.slot:
        raise run.wrong(f"the objects are of {objects.slot}, the image is {picture.slot}")
    return tuple(thing for thing in objects.things if picture.holds(thing))


def _all(run: Running, picture: Picture) -> tuple[Thing, ...]:
    return tuple(thing for thing in run.tools.things.get(picture.slot, ()) if picture.holds(thing))


def _is_known(run: Running, name: str) -> bool:
    known = run.tools.known_names
    return known is None or any(same_name(name, one) for one in known)


def _unknown(run: Running, name: str) -> ProgramError:
    known = ", ".join((run.tools.known_names or ())[:20]) or "none"
    return run.wrong(
        f"no category is named {name!r} (there are: {known}); take one of these, or let a CLIP "
        "compare objects with words: --encoder clip:NAME"
    )


def loc(run: Running, given: Given) -> Objects:
    """Objects with the label, and those without a label that are what the name says."""
    picture, name = given["image"], given["object"]
    things, matcher = _all(run, picture), run.tools.matcher
    if matcher is None:
        if not _is_known(run, name):
            raise _unknown(run, name)
        return Objects(picture.slot, _shown(name, [t for t in things if is_named(t, name)]))
    unnamed = [thing for thing in things if not thing.names]
    fits = matcher.are(picture.slot, unnamed, name) if unnamed else np.zeros(0, bool)
    by_matcher = {id(thing) for thing, fit in zip(unnamed, fits, strict=True) if fit}
    found = [t for t in things if is_named(t, name) or id(t) in by_matcher]
    return Objects(picture.slot, _shown(name, found))


def _shown(name: str, things: list[Thing]) -> tuple[Thing, ...]:
    return tuple(replace(thing, shown=name) for thing in things)


def seg(run: Running, given: Given) -> Objects:
    """All objects."""
    return Objects(given["image"].slot, _all(run, given["image"]))


def select(run: Running, given: Given) -> Objects:
    """Objects of each name of the query; for a name that none has, the one that fits best."""
    things, slot = _inside(run, given), given["image"].slot
    if (category := given["category"]) is not None:
        things = tuple(thing for thing in things if is_named(thing, category))
    chosen: dict[int, Thing] = {}
    for name in filter(None, map(str.strip, given["query"].split(","))):
        rows = [row for row, thing in enumerate(things) if is_named(thing, name)]
        if not rows:
            if run.tools.matcher is not None and things:
                rows = [int(run.tools.matcher.scores(slot, things, [name])[:, 0].argmax())]
            elif run.tools.matcher is None and not _is_known(run, name):
                raise _unknown(run, name)
        chosen |= {row: replace(things[row], shown=name) for row in rows}
    return Objects(slot, tuple(chosen[row] for row in sorted(chosen)))


def classify(run: Running, given: Given) -> Objects:
    """Objects named by the categories: by label, else by the matcher, else by the language
    model."""
    things, names, picture = _inside(run, given), given["categories"], given["image"]
    found: dict[int, str] = {}
    for row, thing in enumerate(things):
        name = next((one for one in names if is_named(thing, one)), None)
        if name is not None:
            found[row] = name
    rest = [row for row in range(len(things)) if row not in found and names]
    if rest and run.tools.matcher is not None:
        scores = run.tools.matcher.scores(picture.slot, [things[row] for row in rest], names)
        found |= dict(zip(rest, [names[best] for best in scores.argmax(axis=1)], strict=True))
    elif rest and run.tools.answer is not None:
        found |= {row: name for row in rest if (name := _asked(run, picture, things[row], names))}
    elif any(not things[row].names for row in rest):
        raise run.wrong(
            "objects without a label are classified by a CLIP (--encoder clip:NAME) or a language "
            "model (DATAENGINE_LLM_URL)"
        )
    named = [
        replace(thing, names=(found[row],), shown=found[row])
        for row, thing in enumerate(things)
        if row in found
    ]
    return Objects(picture.slot, tuple(named))


def _asked(run: Running, picture: Picture, thing: Thing, names: tuple[str, ...]) -> str | None:
    """Return the category that the language model chooses for an object."""
    part = picture.cut(tuple(map(float, thing.box_xyxy)))  # type: ignore[arg-type]
    if part.is_empty or run.tools.answer is None:
        return None
    run.call()
    said = run.tools.answer(
        part.pixels_HWC, f"Which of these is it: {', '.join(names)}? Answer with one of them."
    )
    return next((name for name in names if same_name(name, said.strip(" .!'\""))), None)


def count(run: Running, given: Given) -> int:
    """How many objects."""
    return len(given["object"].things)


def crop(run: Running, given: Given) -> Picture:
    """The part around the objects."""
    things, picture = _inside(run, given), given["image"]
    if not things:
        return _nothing(picture)
    boxes = np.array([thing.box_xyxy for thing in things])
    low, high = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
    found: Picture = picture.cut((*map(float, low), *map(float, high)))
    return found


def _nothing(picture: Picture) -> Picture:
    x0, y0, _, _ = picture.region
    return picture.cut((x0, y0, x0, y0))


def _beside(side: str) -> Callable[[Running, Given], Picture]:
    """A crop to one side of the centre of at least one object."""

    def cropped(run: Running, given: Given) -> Picture:
        things, picture = _inside(run, given), given["image"]
        if not things:
            return _nothing(picture)
        x, y = zip(*(thing.center_xy for thing in things), strict=True)
        regions: dict[str, Box] = {
            "left": (0.0, 0.0, max(x), math.inf),
            "right": (math.nextafter(min(x), math.inf), 0.0, math.inf, math.inf),
            "above": (0.0, 0.0, math.inf, max(y)),
            "below": (0.0, math.nextafter(min(y), math.inf), math.inf, math.inf),
        }
        found: Picture = picture.cut(regions[side])
        return found

    return cropped


def face_det(run: Running, given: Given) -> Objects:
    """Boxes of faces."""
    picture = given["image"]
    (left, top), pixels = picture.origin_xy, picture.pixels_HWC
    boxes = [] if picture.is_empty else find_faces(np.ascontiguousarray(pixels))
    things = [
        Thing((x0 + left, y0 + top, x1 + left, y1 + top), shown="face") for x0, y0, x1, y1 in boxes
    ]
    return Objects(picture.slot, tuple(things))


def vqa(run: Running, given: Given) -> Answer:
    """The language model's answer; about an empty image it is asked nothing."""
    if run.tools.answer is None:
        raise run.wrong("Vqa needs a language model that sees pictures: set DATAENGINE_LLM_URL")
    if given["image"].is_empty:
        raise run.wrong("Vqa is asked about an image without pixels: nothing was left of the crop")
    run.call()
    question = f"{given['question']} Answer with one word or number."
    return read_answer(run.tools.answer(given["image"].pixels_HWC, question))


def list_names(run: Running, given: Given) -> tuple[str, ...]:
    """The language model's list."""
    if run.tools.list_names is None:
        raise run.wrong("List needs a language model: set DATAENGINE_LLM_URL")
    run.call()
    found = tuple(run.tools.list_names(given["query"], given["max"]))[: given["max"]]
    if not found:
        raise run.wrong(f"the language model lists nothing for {given['query']!r}")
    return found


def tag(run: Running, given: Given) -> Picture:
    """Boxes and names."""
    things, picture = _inside(run, given), given["image"]
    return _edited(run, picture, lambda: pictures.tagged(picture, things))


def color_pop(run: Running, given: Given) -> Picture:
    """Colour in the objects."""
    things, picture = _inside(run, given), given["image"]
    return _edited(run, picture, lambda: pictures.colour_popped(picture, things))


def bg_blur(run: Running, given: Given) -> Picture:
    """Blur around the objects."""
    things, picture = _inside(run, given), given["image"]
    return _edited(run, picture, lambda: pictures.background_blurred(picture, things))


def emoji(run: Running, given: Given) -> Picture:
    """An emoji over each object."""
    name = given["emoji"].casefold()
    if name not in pictures.EMOJIS:
        raise run.wrong(f"there is no emoji {name!r}; there are {', '.join(pictures.EMOJIS)}")
    things, picture = _inside(run, given), given["image"]
    return _edited(run, picture, lambda: pictures.with_emojis(picture, things, name))


def replace_objects(run: Running, given: Given) -> Picture:
    """The objects painted anew."""
    picture: Picture = given["image"]
    things, repaint = _inside(run, given), run.tools.repaint
    if repaint is None:
        raise run.wrong(
            "Replace needs a model that paints: DATAENGINE_PAINT_URL, or DATAENGINE_PAINT_MODEL "
            "with diffusers"
        )
    inside = pictures.cover_of(picture, things)
    if not inside.any():
        return picture
    run.call()

    def pixels() -> np.ndarray:
        painted = repaint(picture.pixels_HWC, inside, given["prompt"])
        if painted.shape != picture.pixels_HWC.shape or painted.dtype != np.uint8:
            raise run.wrong(f"the model painted {painted.dtype} {painted.shape}, another size")
        exact = np.where(inside[:, :, None], painted, picture.pixels_HWC)  # outside
        return np.asarray(exact)

    return _edited(run, picture, pixels)


MODULES: dict[str, Callable[[Running, Given], Value]] = {
    "Loc": loc,
    "Seg": seg,
    "Select": select,
    "Classify": classify,
    "Count": count,
    "Crop": crop,
    **{f"Crop{side.title()}": _beside(side) for side in ("left", "right", "above", "below")},
    "FaceDet": face_det,
    "Vqa": vqa,
    "List": list_names,
    "Tag": tag,
    "ColorPop": color_pop,
    "BgBlur": bg_blur,
    "Emoji": emoji,
    "Replace": replace_objects,
    "Result": lambda run, given: given["var"],
}
"""All modules by name, but Eval, which the interpreter computes."""
