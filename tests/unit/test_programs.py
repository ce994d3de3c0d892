"""Visual programs: what the modules answer on scenes whose masks and names are given."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest
from skimage import data

from engine.core.rle import decode, encode
from engine.programs.errors import ProgramError
from engine.programs.expression import read_answer
from engine.programs.interpreter import Done, execute, is_selected
from engine.programs.language import Program, parse
from engine.programs.pictures import cover_of
from engine.programs.plug_ins import answers_of, endpoint_repaint, lists_of, parse_list
from engine.programs.rationale import page, section
from engine.programs.values import Objects, Picture, Thing, Tools, Value, is_named
from engine.programs.writing import EXAMPLES, write_program
from engine.semantics.chat import Endpoint, EndpointChat
from engine.simulation.scenes import generate_scene
from tests.chat_server import asked_in, chatting, pictures_in, said

NAMES = ("dog", "cat", "person", "bench")
SIDE = 128

PEOPLE_AND_BOATS = """
ANSWER0=Vqa(image=LEFT, question='How many people are in the image?')
ANSWER1=Vqa(image=RIGHT, question='How many people are in the image?')
ANSWER2=Vqa(image=LEFT, question='How many boats are in the image?')
ANSWER3=Vqa(image=RIGHT, question='How many boats are in the image?')
ANSWER4=Eval('{ANSWER0} + {ANSWER1} == 6 and {ANSWER2} + {ANSWER3} == 2')
RESULT=ANSWER4
"""
CHARACTERS = """
OBJ0=FaceDet(image=IMAGE)
LIST0=List(query='main characters of the show', max=7)
OBJ1=Classify(image=IMAGE, object=OBJ0, categories=LIST0)
IMAGE0=Tag(image=IMAGE, object=OBJ1)
RESULT=IMAGE0
"""
GRASS = """
OBJ0=Seg(image=IMAGE)
OBJ1=Select(image=IMAGE, object=OBJ0, query='desert', category=None)
IMAGE0=Replace(image=IMAGE, object=OBJ1, prompt='lush green grass')
RESULT=IMAGE0
"""


def scene(seed: int) -> tuple[Picture, list[Thing]]:
    """A generated scene, whose objects have names at random."""
    made = generate_scene(seed, (SIDE, SIDE), "objects")
    rng = np.random.default_rng(seed)
    things = []
    for mask in made.masks:
        rows, columns = np.nonzero(mask)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        name = str(rng.choice(NAMES))
        x0, y0, x1, y1 = (int(value) for value in box)
        things.append(Thing((x0, y0, x1, y1), encode(mask), names=(name,), shown=name))
    return Picture.whole(made.image_HWC, "IMAGE"), things


def run(text: str, picture: Picture, things: list[Thing], **tools: Any) -> Value:
    known = {"known_names": NAMES} | tools
    return execute(parse(text), {"IMAGE": picture}, Tools(things={"IMAGE": things}, **known))


SIDES: dict[str, Callable[[Thing, Thing], bool]] = {
    "CropLeft": lambda one, other: one.center_xy[0] < other.center_xy[0],
    "CropRight": lambda one, other: one.center_xy[0] > other.center_xy[0],
    "CropAbove": lambda one, other: one.center_xy[1] < other.center_xy[1],
    "CropBelow": lambda one, other: one.center_xy[1] > other.center_xy[1],
}


@dataclass
class Written:
    """A random program and its true answer, found without the modules."""

    lines: list[str]
    answer: Any


def write_at_random(rng: np.random.Generator, things: list[Thing]) -> Written:
    lines: list[str] = []
    counts: list[int] = []
    for part in range(int(rng.integers(1, 4))):
        wanted, image = str(rng.choice(NAMES)), "IMAGE"
        within = list(things)
        for step in range(int(rng.integers(0, 3))):
            side, anchor = str(rng.choice(list(SIDES))), str(rng.choice(NAMES))
            anchors = [thing for thing in within if anchor in thing.names]
            within = [t for t in within if any(SIDES[side](t, one) for one in anchors)]
            lines.append(f"OBJ{part}_{step}=Loc(image={image}, object='{anchor}')")
            lines.append(f"IMAGE{part}_{step}={side}(image={image}, object=OBJ{part}_{step})")
            image = f"IMAGE{part}_{step}"
        lines.append(f"OBJ{part}=Seg(image={image})")
        lines.append(f"OBJ{part}_W=Select(image={image}, object=OBJ{part}, query='{wanted}s')")
        lines.append(f"ANSWER{part}=Count(object=OBJ{part}_W)")
        counts.append(sum(wanted in thing.names for thing in within))
    least = int(rng.integers(0, 4))
    total, any_odd = sum(counts), any(count % 2 for count in counts)
    answers = [f"{{ANSWER{part}}}" for part in range(len(counts))]
    odd = " or ".join(f"{one} % 2 == 1" for one in answers)
    choice = int(rng.integers(3))
    expr = (
        " + ".join(answers),
        f"{' + '.join(answers)} >= {least} xor ({odd})",
        f"'many' if {' + '.join(answers)} > {least} else 'few'",
    )[choice]
    lines.append(f'RESULT=Eval("{expr}")')
    truth = (total, (total >= least) != any_odd, "many" if total > least else "few")[choice]
    return Written(lines, truth)


def test_two_hundred_programs_on_generated_scenes_answer_as_the_given_masks_are() -> None:
    answers = []
    for seed in range(50):
        picture, things = scene(seed)
        for number in range(4):
            made = write_at_random(np.random.default_rng([seed, number]), things)
            found = run("\n".join(made.lines), picture, things)
            assert (type(found), found) == (type(made.answer), made.answer), made.lines
            answers.append(made.answer)
    assert len(answers) == 200
    assert len(set(map(str, answers))) > 8  # not all alike


def test_the_nlvr_program_counts_over_two_images() -> None:
    people = {40: 4, 60: 2}  # by the pictures' width
    boats = {40: 1, 60: 1}

    def reply(body: dict[str, Any]) -> dict[str, Any]:
        width = pictures_in(body)[0].shape[1]
        counts = people if "people" in asked_in(body) else boats
        return said({4: "four", 2: "2", 1: "One."}[counts[width]])

    program = parse(PEOPLE_AND_BOATS)
    assert program.is_pair
    sides = {
        slot: Picture.whole(np.full((30, width, 3), 90, np.uint8), slot)
        for slot, width in (("LEFT", 40), ("RIGHT", 60))
    }
    with chatting(str) as server:
        server.reply = reply
        chat = EndpointChat(Endpoint(url=server.url, model="sees"))
        assert execute(program, sides, Tools(answer=answers_of(chat))) is True
        boats[60] = 2
        assert execute(program, sides, Tools(answer=answers_of(chat))) is False
        chat.close()


def test_faces_are_found_named_and_tagged() -> None:
    pixels: np.ndarray = data.astronaut()  # type: ignore[no-untyped-call]

    def answer(question: str) -> str:
        if "List" in question:
            return "1. Sheldon\n2. Leonard\n3. Penny"
        return "Penny." if "Penny" in question else "?"

    with chatting(answer) as server:
        chat = EndpointChat(Endpoint(url=server.url, model="sees"))
        tools = Tools(answer=answers_of(chat), list_names=lists_of(chat))
        done: list[Done] = []
        program = parse(CHARACTERS)
        found = execute(program, {"IMAGE": Picture.whole(pixels, "IMAGE")}, tools, done=done)
        chat.close()
    assert isinstance(found, Picture)
    objects = done[2].value
    assert isinstance(objects, Objects)
    [face] = objects.things
    assert face.shown == "Penny"
    assert face.box_xyxy[0] < 222 < face.box_xyxy[2]  # the astronaut's nose
    assert face.box_xyxy[1] < 120 < face.box_xyxy[3]
    changed = (found.pixels_HWC != pixels).any(axis=2)
    x0, y0, x1, y1 = face.box_xyxy
    assert changed[y0, x0:x1].all()
    assert not changed[y1 + 4 :].any()


def test_the_selected_object_is_painted_and_the_rest_stays_exact() -> None:
    picture, things = scene(3)
    named = [
        Thing(t.box_xyxy, t.rle, names=("desert" if n == 0 else "sky",))
        for n, t in enumerate(things)
    ]
    asked = []

    def paint(path: str, body: bytes) -> dict[str, Any]:
        asked.append((path, b"lush green grass" in body))
        green = np.zeros((64, 64, 3), np.uint8)
        green[:, :, 1] = 200
        coded = cv2.imencode(".png", green)[1].tobytes()
        return {"data": [{"b64_json": base64.b64encode(coded).decode()}]}

    with chatting(str) as server:
        server.other = paint
        repaint = endpoint_repaint(Endpoint(url=server.url, model="paints"))
        found = run(GRASS, picture, named, known_names=None, repaint=repaint)
    assert asked == [("/v1/images/edits", True)]
    assert isinstance(found, Picture)
    rle = named[0].rle
    assert rle is not None
    inside = decode(rle)
    assert (found.pixels_HWC[inside] == (0, 200, 0)).all()
    assert (found.pixels_HWC[~inside] == picture.pixels_HWC[~inside]).all()


def test_colour_blur_and_emojis_change_only_what_they_should() -> None:
    picture, things = scene(8)
    one = "OBJ0=Seg(image=IMAGE)\nOBJ1=Select(image=IMAGE, object=OBJ0, query='dog')\n"
    dogs = [thing for thing in things if is_named(thing, "dog")]
    assert dogs
    inside = cover_of(picture, dogs)
    for call in ("ColorPop(image=IMAGE, object=OBJ1)", "BgBlur(image=IMAGE, object=OBJ1)"):
        found = run(f"{one}RESULT={call}", picture, things)
        assert isinstance(found, Picture)
        assert (found.pixels_HWC[inside] == picture.pixels_HWC[inside]).all()
        assert (found.pixels_HWC[~inside] != picture.pixels_HWC[~inside]).any(axis=1).mean() > 0.5
    x0, y0, x1, y1 = dogs[0].box_xyxy
    for name in ("smile", "sad", "wink", "surprised", "cool", "heart", "star"):
        found = run(f"{one}RESULT=Emoji(image=IMAGE, object=OBJ1, emoji='{name}')", picture, things)
        assert isinstance(found, Picture)
        middle = np.s_[(y0 + y1) // 2, (x0 + x1) // 2]
        assert (found.pixels_HWC[middle] != picture.pixels_HWC[middle]).any()
    with pytest.raises(ProgramError, match="line 3: there is no emoji 'devil'; there are smile"):
        run(f"{one}RESULT=Emoji(image=IMAGE, object=OBJ1, emoji='devil')", picture, things)


def test_edits_of_crops_are_where_the_crop_is() -> None:
    picture, things = scene(8)
    text = "OBJ0=Loc(image=IMAGE, object='dog')\nIMAGE0=Crop(image=IMAGE, object=OBJ0)\n"
    text += "IMAGE1=ColorPop(image=IMAGE0, object=OBJ0)\nRESULT=IMAGE1"
    found = run(text, picture, things)
    whole = run(
        "OBJ0=Loc(image=IMAGE, object='dog')\nRESULT=ColorPop(IMAGE, object=OBJ0)", picture, things
    )
    assert isinstance(found, Picture)
    assert isinstance(whole, Picture)
    (left, top), (height, width) = found.origin_xy, found.pixels_HWC.shape[:2]
    assert (height, width) < (SIDE, SIDE)
    same = whole.pixels_HWC[top : top + height, left : left + width]
    assert (found.pixels_HWC == same).all()


def test_nothing_is_left_of_nothing() -> None:
    picture, _ = scene(1)
    text = "OBJ0=Loc(image=IMAGE, object='dog')\nIMAGE0=CropLeft(image=IMAGE, object=OBJ0)\n"
    count = "OBJ1=Seg(image=IMAGE0)\nRESULT=Count(object=OBJ1)"
    assert run(text + count, picture, [Thing((5, 5, 9, 9), names=("cat",))]) == 0
    edited = run(text + "RESULT=Tag(image=IMAGE0, object=OBJ0)", picture, [])
    assert isinstance(edited, Picture)
    assert edited.is_empty
    with pytest.raises(ProgramError, match="line 3: Vqa is asked about an image without pixels"):
        run(text + "RESULT=Vqa(IMAGE0, question='?')", picture, [], answer=lambda p, q: "1")


def test_names_above_a_label_and_plurals_are_found_and_unknown_names_are_errors() -> None:
    picture, _ = scene(1)
    things = [Thing((5, 5, 9, 9), names=("bus", "vehicle")), Thing((20, 5, 29, 9), names=("box",))]
    for name, count in (("vehicles", 1), ("a bus", 1), ("buses", 1), ("boxes", 1), ("Box", 1)):
        text = f"OBJ0=Loc(image=IMAGE, object='{name}')\nRESULT=Count(object=OBJ0)"
        assert run(text, picture, things, known_names=("bus", "box", "vehicle")) == count
    text = "OBJ0=Loc(image=IMAGE, object='tram')\nRESULT=Count(object=OBJ0)"
    with pytest.raises(ProgramError, match=r"line 1: no category is named 'tram' \(there are: bus"):
        run(text, picture, things, known_names=("bus", "box"))


class Reds:
    """A matcher that knows one colour by the objects' places."""

    def scores(self, slot: str, things: Any, texts: Any) -> np.ndarray:
        return np.array(
            [[float(("red" in text) == (t.box_xyxy[0] < 50)) for text in texts] for t in things]
        )

    def are(self, slot: str, things: Any, text: str) -> np.ndarray:
        return self.scores(slot, things, [text])[:, 0] > 0.5


def test_objects_without_a_label_are_compared_with_words() -> None:
    picture, _ = scene(1)
    things = [Thing((5, 5, 9, 9)), Thing((60, 5, 69, 9)), Thing((80, 5, 89, 9), names=("dog",))]
    text = "OBJ0=Loc(image=IMAGE, object='red thing')\nRESULT=Count(object=OBJ0)"
    assert run(text, picture, things, matcher=Reds()) == 1
    text = (
        "OBJ0=Seg(image=IMAGE)\n"
        "OBJ1=Classify(image=IMAGE, object=OBJ0, categories=['red', 'blue', 'dog'])\n"
        "RESULT=OBJ1"
    )
    found = run(text, picture, things, matcher=Reds())
    assert isinstance(found, Objects)
    assert [thing.shown for thing in found.things] == ["red", "blue", "dog"]


def test_the_rationale_is_one_page_with_a_picture_for_each_step_and_escapes_what_it_shows() -> None:
    picture, things = scene(8)
    done: list[Done] = []
    program = parse(
        "# <script>alert(1)</script>\nOBJ0=Loc(image=IMAGE, object='dog')\n"
        "IMAGE0=Tag(image=IMAGE, object=OBJ0)\nRESULT=IMAGE0"
    )
    tools = Tools(things={"IMAGE": things}, known_names=NAMES)
    execute(program, {"IMAGE": picture}, tools, done=done)
    part = section("<b>.png", {"IMAGE": picture}, done, "line 9: <i>")
    text = page("run", program.text, [part])
    assert text.count("<img") == 3  # the input, the objects, the tagged picture
    assert text.count("data:image/jpeg;base64,") == 3
    assert "http" not in text
    for raw in ("<script>", "<b>", "<i>"):
        assert raw not in text
    assert "line 9: &lt;i&gt;" in text


def test_results_select_images() -> None:
    picture, things = scene(8)
    selected: list[Value] = [True, 2, "many", picture, Objects("IMAGE", tuple(things)), ("x",)]
    assert all(map(is_selected, selected))
    others: list[Value] = [False, 0, "no", "", Objects("IMAGE", ()), ()]
    assert not any(map(is_selected, others))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3", 3),
        (" Two. ", 2),
        ("Yes", True),
        ("no.", False),
        ("1.5", 1.5),
        ("a red bus", "a red bus"),
    ],
)
def test_short_answers_are_numbers_yes_or_no_and_texts(text: str, answer: Any) -> None:
    assert read_answer(text) == answer
    assert type(read_answer(text)) is type(answer)


def test_lists_are_read_from_lines_or_commas() -> None:
    assert parse_list("Here you are:\n1. Anna\n- Ben\n* **Cleo**") == ["Anna", "Ben", "Cleo"]
    assert parse_list("Anna, Ben, Cleo.") == ["Anna", "Ben", "Cleo"]


def test_a_language_model_writes_a_program_and_mends_a_refused_one() -> None:
    answers = [
        "<think>RESULT=Hm</think>Sure!\n```\nOBJ0=Detect(image=IMAGE)\nRESULT=OBJ0\n```",
        "```python\nOBJ0=Loc(image=IMAGE, object='dog')\nRESULT=OBJ0\n```\nThat is all.",
    ]
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return answers[min(len(asked), len(answers)) - 1]

    with chatting(answer) as server:
        chat = EndpointChat(Endpoint(url=server.url, model="writes"))
        program = write_program(chat, "the dogs", ["dog", "cat"])
        assert program.text == "OBJ0=Loc(image=IMAGE, object='dog')\nRESULT=OBJ0"
        assert "The objects have these names: dog, cat." in asked[0]
        assert "was refused: line 1: there is no module 'Detect'" in asked[1]
        answers[1] = "I cannot do that."
        asked.clear()
        with pytest.raises(ProgramError, match="writes@"):
            write_program(chat, "the dogs", ["dog"])
        chat.close()


def test_the_examples_that_are_shown_to_language_models_are_programs() -> None:
    assert all(isinstance(parse(text), Program) for _, text in EXAMPLES)
    assert json.dumps(EXAMPLES)
