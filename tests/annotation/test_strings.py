"""The page's texts are listed, can be translated, and are all passed to the translation."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import get_args

import pytest

from engine.annotation import strings
from engine.annotation.javascript import tokens
from engine.annotation.schemas import Operation, Painting, Prompting, Travel
from engine.core.records import Source, Stage
from storage.catalog import ModelState, RoundState, RunKind, RunState, Split, TaskKind, TaskState
from storage.catalog import VerdictKind as Verdict
from tests.annotation.visible_texts import untranslated

JS = strings.WEB / "js"
FOLDERS = sorted(path.name for path in JS.iterdir())

PAGE = """<title>Draw · page</title><body><h1>Draw</h1><button title="Go on"><kbd>Enter</kbd>
Next   image</button></body>"""
MODULE = """import { pieces, plural, t } from "../shared/strings.js";
const a = t("Skip"); // t("not a call")
const b = plural(2, "{n} mask", "{n} masks") + t(/* listed */ a);
"""


@pytest.fixture
def web(tmp_path: Path) -> Path:
    """A page of two files."""
    made = tmp_path / "web"
    (made / "js" / "draw").mkdir(parents=True)
    (made / "draw.html").write_text(PAGE)
    (made / "js" / "draw" / "draw.js").write_text(MODULE)
    return made


def test_the_catalogue_has_the_texts_of_the_sources() -> None:
    stored = (strings.WEB / strings.ENGLISH).read_text("utf-8")
    assert stored == strings.as_json(strings.english()), (
        "texts have changed: run `python -m engine.annotation.strings`"
    )


def test_texts_of_html_and_javascript_are_listed_once(web: Path) -> None:
    texts = {"Draw · page", "Draw", "Go on", "Next image", "Skip"}
    masks = {"{n} masks": {"one": "{n} mask", "other": "{n} masks"}}
    assert strings.english(web) == {text: text for text in texts} | masks


@pytest.mark.parametrize("call", ["t(a)", 't("a" + b)', "t(`a ${b}`)", 'plural(n, "one", many)'])
def test_a_text_that_cannot_be_listed_is_refused(web: Path, call: str) -> None:
    imports = 'import { plural, t } from "../shared/strings.js";\n'
    (web / "js" / "draw" / "other.js").write_text(f"{imports}\nshow({call});\n")
    with pytest.raises(strings.StringsError, match=r"^js/draw/other.js:3: \w+\(\) takes a literal"):
        strings.english(web)


def test_a_key_has_the_same_forms_everywhere(web: Path) -> None:
    (web / "js" / "draw" / "other.js").write_text(
        'import { t } from "../shared/strings.js";\nt("{n} masks");\n'
    )
    with pytest.raises(strings.StringsError, match=r'js/draw/other.js:2: "\{n\} masks" has other'):
        strings.english(web)


def test_a_new_translation_is_filled_in_and_checked(
    web: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = web / "de.json"
    assert strings.main(["--new", str(path)], web) == 0
    assert strings.main(["--check", str(path)], web) == 1
    assert 'missing: "Skip" (js/draw/draw.js:2)' in capsys.readouterr().out
    assert strings.main(["--new", str(path)], web) == 1
    assert "is there already" in capsys.readouterr().err

    translated = {
        key: {**value, "few": f"{value['other']}!"} if isinstance(value, dict) else f"{value}!"
        for key, value in strings.english(web).items()
    }
    path.write_text(strings.as_json(translated))
    assert strings.main(["--check", str(path)], web) == 0
    again = web / "de-AT.json"
    assert strings.main(["--new", str(again), "--with", str(path)], web) == 0
    assert json.loads(again.read_text()) == translated


def test_the_command_writes_the_catalogue(web: Path) -> None:
    assert strings.main([], web) == 0
    assert json.loads((web / strings.ENGLISH).read_text()) == strings.english(web)


def test_what_is_wrong_with_a_translation_is_told(web: Path) -> None:
    (web / "js" / "draw" / "other.js").write_text(
        'import { t } from "../shared/strings.js";\nt("Image {n} of {all}");\n'
    )
    right = {**strings.english(web), "{n} masks": {"one": "eine Maske", "other": "{n} Masken"}}
    assert strings.problems_of(right, web) == []
    wrong = {
        **{key: value for key, value in right.items() if key != "Skip"},
        "Draw": {"other": "Zeichnen"},
        "Stop": "Halt",
        "Image {n} of {all}": "Bild {n} von {alle}",
        "{n} masks": {"one": "eine Maske", "other": "Masken"},
    }
    assert sorted(strings.problems_of(wrong, web)) == [
        'missing: "Skip" (js/draw/draw.js:2)',
        'not used any more: "Stop"',
        'of another kind: "Draw" (draw.html:1) needs one text in the translation',
        'placeholders differ: "Image {n} of {all}" (js/draw/other.js:2) and '
        '"Bild {n} von {alle}" in {all}, {alle}',
        'placeholders differ: "{n} masks" (js/draw/draw.js:3) and "Masken" in {n}',
    ]


@pytest.mark.parametrize("text", ["[]", '{"Skip": 3}', '{"a": {"plenty": "b"}}', "{"])
def test_a_file_that_is_no_translation_is_refused(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "de.json"
    path.write_text(text)
    assert strings.main(["--check", str(path)]) == 1
    assert capsys.readouterr().err.startswith(f"{path}: ")


def test_the_page_has_a_file_for_each_of_its_languages() -> None:
    listed = re.search(r"const LANGUAGES = (\[.*\]);", (JS / "shared/strings.js").read_text())
    assert listed is not None
    files = {path.stem for path in (strings.WEB / "strings").glob("*.json")}
    assert set(json.loads(listed[1])) == files


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_text_that_people_see_can_be_translated(folder: str) -> None:
    found = [
        f"js/{folder}/{path.name}:{line}: {text!r} is outside t(), plural() and pieces()"
        for path in sorted((JS / folder).glob("*.js"))
        for line, text in untranslated(path.read_text("utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ('el("p", { class: "muted small" }, isNew && "new", `${n} masks`)', ["new", " masks"]),
        ('el("li", {}, list.map((one) => (one ? "yes" : t("no"))))', ["yes"]),
        ('el("b", { "aria-label": "close", id: "x" }, "✕")', ["close"]),
        ('node.textContent = kind === "complete" ? "check" : t("mask");', ["check"]),
        ('toast(problem.message, "bad"); ask(t("A"), "b", t("C"), { back: "no" });', ["b", "no"]),
        ('node.setAttribute("title", "Next"); node.setAttribute("class", "a");', ["Next"]),
        ('const NAMES = { a: "The whole", b: "Part", c: "part" };', ["The whole", "Part"]),
        ('console.error("Not shown", x); throw new RangeError("Not shown");', []),
        ('t("Skip {n}", { n: f("Enter") }); list.replaceChildren(pieces("At {x}", { x }));', []),
        ('node.append(t("Go"), " · ", el("i", {}, a["b"], f("c"))); // "Not shown"', []),
        ("const a = b / 2; const c = /[/\"'`]{2}/.test(a) ? `${`a${b}`}` : t(`Go`);", []),
    ],
)
def test_a_text_outside_the_translation_is_found(line: str, texts: list[str]) -> None:
    imports = 'import { pieces, plural, t } from "../shared/strings.js";\n'
    assert [text for _, text in untranslated(imports + line)] == texts


def test_the_names_that_the_server_sends_have_texts() -> None:
    source = (JS / "shared" / "names.js").read_text()
    named = {token.text for token in tokens(source) if token.kind == "name"}
    enums: list[type[StrEnum]] = [
        *(Stage, Source, Split, Verdict, TaskKind, TaskState),
        *(RunKind, RunState, RoundState, ModelState),
    ]
    sent = {value.value for enum in enums for value in enum}
    sent |= {name for kind in (Prompting, Painting, Operation, Travel) for name in get_args(kind)}
    assert sent - named == set()
