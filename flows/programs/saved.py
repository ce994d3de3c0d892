"""Programs that are saved in the workspace: `programs/NAME/vVERSION.yaml`.

A version is never replaced; a change is the next version.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import yaml

from engine.programs.errors import ProgramError
from engine.programs.language import Program, parse
from flows.workspace.workspace import Workspace
from storage.local_files import link_new

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_KEYS = ("name", "version", "request", "program")
LARGEST = 100_000
"""Of a file, in bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedProgram:
    """A version of a program. `request`: the words that it was written for, if any."""

    name: str
    version: int
    request: str
    program: Program
    path: Path | None = None

    def to_yaml(self) -> str:
        """The file's text, to read and edit."""
        text = "".join(f"  {line}\n" for line in self.program.text.strip().splitlines())
        head = {"name": self.name, "version": self.version, "request": self.request}
        return f"{yaml.safe_dump(head, allow_unicode=True, sort_keys=False)}program: |\n{text}"


def check_program_name(name: str) -> None:
    """Raises:
    ProgramError: the name cannot be that of a program."""
    if _NAME.fullmatch(name) is None:
        raise ProgramError(
            f"a program's name has small letters, digits, - and _, 64 at most; got {name!r}"
        )


def save_program(
    workspace: Workspace, name: str, program: Program, *, request: str = ""
) -> SavedProgram:
    """Save a program as the next version of its name; the same text again is no new version.

    Raises:
        ProgramError: the name is not allowed.
    """
    check_program_name(name)
    while True:
        known = _versions(workspace, name)
        if known:
            last = load_program(workspace, name)
            if last.program.text.strip() == program.text.strip():
                return last
        version = max(known, default=0) + 1
        path = _folder(workspace, name) / f"v{version}.yaml"
        made = SavedProgram(name=name, version=version, request=request, program=program, path=path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if link_new(path, BytesIO(made.to_yaml().encode())):
            return made


def load_program(workspace: Workspace, name: str, version: int | None = None) -> SavedProgram:
    """Return a version of a saved program; None: the newest.

    Raises:
        ProgramError: there is none, or the file is no program; the message names file and line.
    """
    check_program_name(name)
    known = _versions(workspace, name)
    if not known or (version is not None and version not in known):
        what = f"version {version} of " if known else ""
        names = ", ".join(one.name for one in saved_programs(workspace)) or "none"
        raise ProgramError(f"there is no {what}program {name!r}; saved are: {names}")
    chosen = max(known) if version is None else version
    return _read(_folder(workspace, name) / f"v{chosen}.yaml", name, chosen)


def saved_programs(workspace: Workspace) -> list[SavedProgram]:
    """Return the newest version of each saved program, by name."""
    folder = workspace.settings.root / "programs"
    if not folder.is_dir():
        return []
    names = sorted(one.name for one in folder.iterdir() if _NAME.fullmatch(one.name))
    return [load_program(workspace, name) for name in names if _versions(workspace, name)]


def program_of(workspace: Workspace, given: str, version: int | None = None) -> SavedProgram:
    """Return a saved program by its name, or the program in a file, which has no version.

    Raises:
        ProgramError: it is neither.
    """
    path = Path(given)
    if _NAME.fullmatch(given) is None or (not _versions(workspace, given) and path.is_file()):
        if not path.is_file():
            raise ProgramError(f"{given!r} is no saved program and no file")
        return _read(path, path.stem, 0)
    return load_program(workspace, given, version)


def _folder(workspace: Workspace, name: str) -> Path:
    return workspace.settings.root / "programs" / name


def _versions(workspace: Workspace, name: str) -> list[int]:
    files = _folder(workspace, name).glob("v*.yaml")
    return [int(file.stem[1:]) for file in files if file.stem[1:].isdecimal()]


def _read(path: Path, name: str, version: int) -> SavedProgram:
    """Read a file of `to_yaml`, or one that holds the program alone."""
    try:
        if path.stat().st_size > LARGEST:
            raise ProgramError(f"it has more than {LARGEST:,} bytes")
        text = path.read_text(encoding="utf-8")
        request = ""
        if path.suffix in (".yaml", ".yml"):
            found = yaml.safe_load(text)
            if not isinstance(found, dict) or not isinstance(found.get("program"), str):
                raise ProgramError("it has no text `program: |`")
            if unknown := [key for key in found if key not in _KEYS]:
                raise ProgramError(f"unknown key {str(unknown[0])[:40]!r}")
            text, request = found["program"], str(found.get("request") or "")
        program = parse(text)
    except (ProgramError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        told = " ".join(str(error).split())[:500]
        raise ProgramError(f"{path}: {told}") from error
    return SavedProgram(name=name, version=version, request=request, program=program, path=path)
