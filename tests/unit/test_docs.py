"""The docs name files and commands that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from flows.cli.main import app

ROOT = Path(__file__).parents[2]
GUIDES = ["README.md", "CONTRIBUTING.md", "docs/architecture.md"]
DOCS = [*GUIDES, *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
DOCS = [name for name in dict.fromkeys(DOCS) if name != "docs/LOG.md"]  # history

FOLDERS = "docs|engine|flows|infra|storage|tests"
PATH = re.compile(rf"(?:(?:{FOLDERS})/[\w./-]*|\.ci/run|\b[A-Z]+\.md|pyproject\.toml)")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
COMMAND = re.compile(r"`dataengine ([^`]+)`|^    (?:\.venv/bin/)?dataengine (.+)$", re.M)


@pytest.mark.parametrize("name", GUIDES)
def test_every_path_that_is_named_exists(name: str) -> None:
    text = (ROOT / name).read_text()
    named = {path.rstrip("./") for path in PATH.findall(text)}
    missing = {path for path in named if not (ROOT / path).exists()}
    linked = {(ROOT / name).parent / link for link in LINK.findall(text)}
    assert named
    assert not missing
    assert [path for path in linked if not path.exists()] == []


@pytest.mark.parametrize("name", DOCS)
def test_every_command_and_option_that_is_named_exists(name: str) -> None:
    lines = [first or second for first, second in COMMAND.findall((ROOT / name).read_text())]
    assert [line for line in lines if not _exists(line)] == []


def _exists(line: str) -> bool:
    """Whether the words begin with a command, and it has the options."""
    words = re.split(r" #|[|\\]|&&", line.replace("\n", " "))[0].split()
    command: Any = typer.main.get_command(app)
    while (commands := getattr(command, "commands", {})) and words and words[0] in commands:
        command = commands[words.pop(0)]
    if commands and words and not words[0].startswith("-"):
        if (default := getattr(command, "default_command", None)) is None:
            return words[0] in ("...", "…")
        command = commands[default]
    known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    return options <= known | {"--help"}


def test_lines_of_the_readme_are_under_120_characters() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert [line for line in lines if len(line) >= 120] == []
