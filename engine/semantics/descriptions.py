"""Descriptions of categories by a language model, which a CLIP then compares with masks (CuPL).

Pratt et al. 2023: a few questions per category ("What does a heron look like?") are put to a model
behind any endpoint with OpenAI's `POST /chat/completions`. The answers are kept as a YAML text that
people read and edit.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import yaml

from engine.core.errors import DataEngineError
from engine.semantics.chat import Endpoint, ask, flat, open_chat

QUESTIONS = (
    "What does a {} look like?",
    "How can you identify a {}?",
    "Describe an image of a {}.",
    "Which shape, colours and parts does a {} have?",
)
INSTRUCTION = (
    "Answer with 3 to 5 short sentences, one a line, without an introduction. Each names the {} "
    "and says what can be seen."
)

SHORTEST, LONGEST = 8, 300
"""Of a sentence, in characters; a CLIP reads about 300."""
MOST_SENTENCES = 60
"""Of a category."""


class DescriptionsError(DataEngineError):
    """An answer has no sentence, or a file of descriptions is malformed; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Descriptions:
    """Sentences by category name, and where they are from."""

    model: str
    endpoint: str
    """Host of the endpoint."""
    prompt: str
    """What was asked, with `{}` for the name; a question a line."""
    sentences: dict[str, list[str]]

    def to_yaml(self) -> str:
        """Return a text to read and edit."""
        head = {"model": self.model, "endpoint": self.endpoint, "prompt": self.prompt}
        written = yaml.safe_dump(
            {**head, "descriptions": self.sentences},
            allow_unicode=True,
            sort_keys=False,
            width=10_000,
        )
        return f"# What each category looks like, a sentence a line. Edit, add, remove.\n{written}"

    @staticmethod
    def from_yaml(text: str) -> Descriptions:
        """Read a text of `to_yaml`, as people may have changed it.

        The head may be missing, a category may have no sentences or one that is no list.

        Raises:
            DescriptionsError: it is no YAML or something else; the message names the line.
        """
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, RecursionError) as error:
            raise DescriptionsError(f"the descriptions are not YAML: {flat(error)}") from error
        top = _mapping(root, "`descriptions:` and below it the categories")
        for key, node in top.values():
            if key.value not in ("model", "endpoint", "prompt", "descriptions"):
                raise _malformed(key, f"unknown key {key.value[:40]!r}")
            if key.value != "descriptions" and not isinstance(node, yaml.ScalarNode):
                raise _malformed(node, f"`{key.value}` is one text")
        if "descriptions" not in top:
            raise DescriptionsError("the descriptions have no line `descriptions:`")
        categories = _mapping(top["descriptions"][1], "a category's name, a colon, and sentences")
        head = {
            name: top[name][1].value.strip() if name in top else ""
            for name in ("model", "endpoint", "prompt")
        }
        sentences = {name: _sentences(node) for name, (_, node) in categories.items()}
        return Descriptions(**head, sentences=sentences)


def _malformed(node: yaml.Node, message: str) -> DescriptionsError:
    return DescriptionsError(f"descriptions, line {node.start_mark.line + 1}: {message}")


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and not node.value.strip()


def _mapping(node: yaml.Node | None, wanted: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """Return a mapping's key and value nodes by name."""
    if node is None or _is_empty(node):
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise _malformed(node, f"expected {wanted}")
    found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _malformed(key, f"expected {wanted}")
        if key.value in found:
            raise _malformed(key, f"{key.value[:40]!r} is there twice: join the two")
        found[key.value] = key, value
    return found


def _sentences(node: yaml.Node) -> list[str]:
    items = node.value if isinstance(node, yaml.SequenceNode) else [node]
    found = []
    for item in items:
        if not isinstance(item, yaml.ScalarNode):
            raise _malformed(item, "expected a sentence; put one with a colon in quotes")
        sentence = " ".join(item.value.split())
        if len(sentence) > LONGEST or _has_controls(sentence):
            raise _malformed(
                item, f"a sentence has at most {LONGEST} characters, and no control characters"
            )
        if sentence:
            found.append(sentence)
    if len(found) > MOST_SENTENCES:
        raise _malformed(node, f"{len(found)} sentences, at most {MOST_SENTENCES} are allowed")
    return found


def _has_controls(text: str) -> bool:
    return any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text)


def parse_answer(answer: str) -> list[str]:
    """Return the sentences of a model's answer, whose lines may be numbered or have bullets.

    Introductions ("Here are ...:"), headings, a model's thoughts, and lines that are no sentences
    (too short or long, or with control characters) are left out.
    """
    found: dict[str, None] = {}
    answer = re.sub(r"<think>.*?</think>", "", answer, flags=re.DOTALL)
    for line in answer.splitlines():
        plain = re.sub(r"^\s*(?:[-*+•–—]|\(?\d{1,3}[.):])\s+", "", line)
        plain = " ".join(plain.replace("**", "").replace("`", "").split()).strip('"“” ')
        if plain.endswith(":") or plain.startswith("#"):
            continue
        parts = [plain] if len(plain) <= LONGEST else re.split(r"(?<=[.!?])\s+", plain)
        for part in parts:
            if SHORTEST <= len(part) <= LONGEST and not _has_controls(part):
                found[part] = None
    return list(found)


def describe(
    endpoint: Endpoint,
    names: Sequence[str],
    *,
    domain: str = "",
    on_category: Callable[[str, list[str]], None] = lambda name, sentences: None,
) -> Descriptions:
    """Ask QUESTIONS about each category.

    Args:
        endpoint: of the model.
        names: of categories.
        domain: what the images show, such as "photographs of a sorting belt", if anything.
        on_category: called after each category.

    Raises:
        ChatError: the endpoint is not there, refuses or is too slow.
        DescriptionsError: its answer has no sentences; the message names its host.
    """
    asked = [f"{question} {INSTRUCTION}" for question in QUESTIONS]
    if domain:
        asked = [f"The images are {domain}. {question}" for question in asked]
    sentences: dict[str, list[str]] = {}
    with open_chat(endpoint) as client:
        for name in names:
            found: dict[str, None] = {}
            for question in asked:
                answer = ask(client, endpoint, question.replace("{}", name))
                found.update(dict.fromkeys(parse_answer(answer.text)))
            if not found:
                raise DescriptionsError(
                    f"the answers of {endpoint.host} about {name!r} have no sentence; try another "
                    f"model than {endpoint.model}"
                )
            sentences[name] = list(found)[:MOST_SENTENCES]
            on_category(name, sentences[name])
    return Descriptions(
        model=endpoint.model, endpoint=endpoint.host, prompt="\n".join(asked), sentences=sentences
    )
