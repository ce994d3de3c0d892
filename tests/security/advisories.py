"""Looks up locked packages in a copy of an advisory database, for machines without access to a
server.

    python -m tests.security.advisories requirements.lock FOLDER-OR-ZIP

The copy has records of the OSV schema, as JSON or YAML: a checkout of
https://github.com/pypa/advisory-database, or OSV's `PyPI/all.zip`, packed or unpacked.
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ENDINGS = (".json", ".yaml", ".yml")
CLEAN, VULNERABLE, NOTHING_READ = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Finding:
    """A locked package that an advisory is about."""

    package: str
    version: str
    advisory: str
    aliases: tuple[str, ...]
    fixed: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join([self.advisory, *self.aliases])
        cure = f"fixed in {' or '.join(self.fixed)}" if self.fixed else "no fixed version is known"
        return f"{self.package} {self.version}: {names}; {cure}"


def records_of(source: Path) -> Iterator[dict[str, Any]]:
    """Every valid advisory of the copy about packages of PyPI."""
    for name, text in _texts(source):
        loaded = json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
        if isinstance(loaded, dict) and "affected" in loaded and not loaded.get("withdrawn"):
            yield loaded


def _texts(source: Path) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.suffix in ENDINGS:
                yield path.name, path.read_bytes()
        return
    with zipfile.ZipFile(source) as packed:
        for name in sorted(packed.namelist()):
            if name.endswith(ENDINGS):
                yield name, packed.read(name)


def locked_in(lock: Path) -> dict[str, str]:
    """Version by normal name."""
    pins = (line.split() for line in lock.read_text().splitlines())
    pairs = (words[0].partition("==") for words in pins if words and not words[0].startswith("#"))
    return {canonicalize_name(name): version for name, _, version in pairs}


def findings_in(record: dict[str, Any], locked: dict[str, str]) -> Iterator[Finding]:
    """The findings of an advisory about the locked packages."""
    for affected in record["affected"]:
        package = affected.get("package", {})
        name = canonicalize_name(package.get("name", ""))
        if package.get("ecosystem") == "PyPI" and name in locked:
            version = locked[name]
            if version in affected.get("versions", []) or _in_a_range(affected, Version(version)):
                fixed = tuple(
                    str(event["fixed"]) for event in _events(affected) if "fixed" in event
                )
                aliases = tuple(record.get("aliases", []))
                yield Finding(name, version, str(record["id"]), aliases, fixed)


def _events(affected: dict[str, Any]) -> list[dict[str, str]]:
    ranges = (row for row in affected.get("ranges", []) if row.get("type") == "ECOSYSTEM")
    return [event for row in ranges for event in row["events"]]


def _in_a_range(affected: dict[str, Any], version: Version) -> bool:
    """Whether the last event up to this version made it vulnerable."""
    turns = []
    for event in _events(affected):
        ((kind, text),) = event.items()
        try:
            at = Version(str(text))
        except InvalidVersion:  # older than PEP 440; the record's list of versions has it
            continue
        # A fixed version is not vulnerable, the last affected one is.
        turns.append((at, kind == "last_affected", kind == "introduced"))
    past = [turn for turn in sorted(turns) if turn[:2] <= (version, False)]
    return bool(past) and past[-1][2]


def main() -> int:
    """Print the findings; the exit code says whether there are any."""
    lock, source = Path(sys.argv[1]), Path(sys.argv[2])
    locked, read, newest = locked_in(lock), 0, ""
    found: list[Finding] = []
    for record in records_of(source):
        read, newest = read + 1, max(newest, str(record.get("modified", "")))
        found += findings_in(record, locked)
    if not read:
        print(f"{source} has no advisory: a copy of an OSV database is wanted", file=sys.stderr)
        return NOTHING_READ
    for finding in found:
        print(finding)
    print(f"{len(found)} advisories about the {len(locked)} packages of {lock.name}")
    print(f"{read} records were read, of which the newest is of {newest[:10] or 'no date'}")
    return VULNERABLE if found else CLEAN


if __name__ == "__main__":
    sys.exit(main())
