"""The texts of the page: their English catalogue, and files of translators.

    python -m engine.annotation.strings                    # writes web/strings/en.json
    python -m engine.annotation.strings --new de.json      # a file to fill in
    python -m engine.annotation.strings --check de.json    # what it lacks

A text's key is the English text itself; that of a plural is its form for many.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from engine.annotation.javascript import Call, JavaScriptError, calls, tokens

WEB = Path(__file__).parent / "web"
ENGLISH = "strings/en.json"
SHOWN_ATTRIBUTES = ("title", "placeholder", "aria-label", "alt")
UNTRANSLATED = ("script", "style", "kbd")
"""Elements of the HTML whose text is code, or the name of a key."""
FORMS = ("zero", "one", "two", "few", "many", "other")
PLACEHOLDER = re.compile(r"\{(\w+)\}")

Strings = dict[str, str | dict[str, str]]

EPILOG = """examples:
  python -m engine.annotation.strings
  python -m engine.annotation.strings --new de.json
  python -m engine.annotation.strings --new pt-BR.json --with pt.json
  python -m engine.annotation.strings --check de.json
"""


class StringsError(ValueError):
    """Texts that cannot be listed, or a file that is no translation. A line for each problem."""


@dataclass(frozen=True)
class Text:
    """A text of the page.

    Attributes:
        value: the English text, or the forms of a plural by their names.
        place: file and line where it is first used.
    """

    value: str | dict[str, str]
    place: str


class _Page(HTMLParser):
    """Collects what `translatePage` of `strings.js` replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, int]] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open.append(tag)
        for name, value in attrs:
            if name in SHOWN_ATTRIBUTES:
                self._add(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass  # elements that need no end

    def handle_data(self, data: str) -> None:
        if not set(self._open) & set(UNTRANSLATED):
            self._add(" ".join(data.split()))

    def _add(self, text: str) -> None:
        if any(character.isalpha() for character in text):
            self.found.append((text, self.getpos()[0]))


def read_texts(web: Path = WEB) -> dict[str, Text]:
    """The texts of a page's HTML and JavaScript by their keys, in the order of the files.

    Raises:
        StringsError: calls without a literal text, or one key with different forms.
    """
    found: dict[str, Text] = {}
    problems: list[str] = []
    for path in sorted(web.glob("*.html")):
        page = _Page()
        page.feed(path.read_text("utf-8"))
        page.close()
        for text, line in page.found:
            found.setdefault(text, Text(text, f"{path.name}:{line}"))
    for path in sorted((web / "js").glob("*/*.js")):
        name = path.relative_to(web).as_posix()
        try:
            for call in calls(tokens(path.read_text("utf-8"))):
                problems += _add(found, call, name)
        except JavaScriptError as error:
            problems.append(f"{name}:{error}")
    if problems:
        raise StringsError("\n".join(problems))
    return found


def _add(found: dict[str, Text], call: Call, name: str) -> Iterator[str]:
    """Add a call's text; yields what is wrong with it."""
    try:
        if call.name == "plural":
            one, other = call.literal(1), call.literal(2)
        else:
            one, other = None, call.literal(0)
    except JavaScriptError as error:
        yield f"{name}:{error}"
        return
    if other is None:
        return
    place = f"{name}:{call.line}"
    value: str | dict[str, str] = other if one is None else {"one": one, "other": other}
    known = found.setdefault(other, Text(value, place))
    if known.value != value:
        yield f"{place}: {_quoted(other)} has other forms at {known.place}"


def english(web: Path = WEB) -> Strings:
    """The English catalogue: each text by its key.

    Raises:
        StringsError: as `read_texts`.
    """
    return {key: text.value for key, text in read_texts(web).items()}


def as_json(strings: Mapping[str, str | dict[str, str]]) -> str:
    """A catalogue as the text of its file."""
    return json.dumps(strings, ensure_ascii=False, indent=1) + "\n"


def blank(web: Path = WEB, given: Strings | None = None) -> Strings:
    """A catalogue to fill in: what `given` has for the page's texts, and empty texts.

    Raises:
        StringsError: as `read_texts`.
    """
    made: Strings = {}
    for key, value in english(web).items():
        old = (given or {}).get(key)
        if isinstance(value, dict):
            made[key] = old if isinstance(old, dict) else dict.fromkeys(value, "")
        else:
            made[key] = old if isinstance(old, str) else ""
    return made


def read_translation(path: Path) -> Strings:
    """A translator's file.

    Raises:
        StringsError: it is no JSON object of texts.
        OSError: it cannot be read.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise StringsError(f"{path}: no JSON: {error}") from error
    if not isinstance(found, dict):
        raise StringsError(f"{path}: a JSON object of texts is needed")
    for key, value in found.items():
        forms = value if isinstance(value, dict) else {"other": value}
        if not all(name in FORMS and isinstance(form, str) for name, form in forms.items()):
            raise StringsError(
                f"{path}: {_quoted(key)} needs a text, or texts by {', '.join(FORMS)}"
            )
    return found


def problems_of(translation: Strings, web: Path = WEB) -> list[str]:
    """What is wrong with a translation, a line each: texts that are missing, are not used any
    more, or have other placeholders than the English ones.

    Raises:
        StringsError: as `read_texts`.
    """
    texts = read_texts(web)
    found: list[str] = []
    for key, text in texts.items():
        found += _problems(key, text, translation.get(key, ""))
    found += [f"not used any more: {_quoted(key)}" for key in translation if key not in texts]
    return found


def _problems(key: str, text: Text, given: str | dict[str, str]) -> Iterator[str]:
    where = f"{_quoted(key)} ({text.place})"
    if isinstance(text.value, dict) != isinstance(given, dict) and given != "":
        kind = "forms, at least other," if isinstance(text.value, dict) else "one text"
        yield f"of another kind: {where} needs {kind} in the translation"
        return
    forms = given if isinstance(given, dict) else {"other": given}
    if not forms.get("other"):
        yield f"missing: {where}"
    expected = Counter(PLACEHOLDER.findall(key))
    for name, form in forms.items():
        if not form:
            continue
        has = Counter(PLACEHOLDER.findall(form))
        free = {"n"} if isinstance(given, dict) and name != "other" else set()
        wrong = {word for word in expected | has if expected[word] != has[word]} - free
        if wrong:
            listed = ", ".join(f"{{{word}}}" for word in sorted(wrong))
            yield f"placeholders differ: {where} and {_quoted(form)} in {listed}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _write_new(path: Path, given: Path | None, web: Path) -> int:
    strings = blank(web, None if given is None else read_translation(given))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(as_json(strings))
    except FileExistsError:
        raise StringsError(f"{path} is there already; --check tells what it lacks") from None
    print(f"{path}: {len(strings)} texts to fill in; then --check {path}")
    return 0


def _check(path: Path, web: Path) -> int:
    found = problems_of(read_translation(path), web)
    print("\n".join(found) if found else f"{path}: complete")
    if found:
        print(f"{path}: {len(found)} problems", file=sys.stderr)
    return int(bool(found))


def _write_english(web: Path) -> int:
    path = web / ENGLISH
    strings = english(web)
    path.parent.mkdir(exist_ok=True)
    path.write_text(as_json(strings), "utf-8")
    print(f"{path}: {len(strings)} texts")
    return 0


def main(arguments: list[str] | None = None, web: Path = WEB) -> int:
    """The command. Returns its exit status: 1 where something is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.annotation.strings",
        description="Lists the page's texts in web/strings/en.json, or helps to translate them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--new", type=Path, metavar="FILE", help="write a new file to fill in")
    one.add_argument("--check", type=Path, metavar="FILE", help="what is wrong with a translation")
    parser.add_argument(
        "--with", type=Path, metavar="FILE", dest="given", help="fills --new with its texts"
    )
    options = parser.parse_args(arguments)
    if options.given and not options.new:
        parser.error("--with needs --new")
    try:
        if options.new:
            return _write_new(options.new, options.given, web)
        return _check(options.check, web) if options.check else _write_english(web)
    except (StringsError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
