#!/bin/sh
# Writes image.lock: what the image installs beside torch, each with the SHA-256 sums that PyPI's index gives for its
# files, as `pip --require-hashes` wants it. Versions are those of requirements.lock, files those for CPython 3.11 on
# x86-64 Linux. Run it (or `make lock`) after every change of requirements.lock or of pyproject.toml's dependencies,
# with the Python of an environment in which this project is installed:
#
#   sh infra/lock.sh .venv/bin/python
set -eu
cd "$(dirname "$0")/.."
exec "$1" -P - << 'END'
import sys, tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import httpx
from packaging.requirements import Requirement
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

EXTRAS = ("postgres", "ray")
ASIDE = {"torch", "torchvision"}  # see the Dockerfile
BUILD = "setuptools"
glibc = [f"manylinux_2_{minor}_x86_64" for minor in range(5, 37)]
platforms = [*glibc, "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
tags = {*cpython_tags((3, 11), platforms=platforms), *compatible_tags((3, 11), "cp311", platforms)}

lines = Path("requirements.lock").read_text().split()
versions = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
waiting = [Requirement(line) for line in project["dependencies"]]
waiting += [Requirement(line) for extra in EXTRAS for line in project["optional-dependencies"][extra]]
wanted, seen = set(), set()
while waiting:
    one = waiting.pop()
    name = canonicalize_name(one.name)
    for extra in {"", *one.extras}:
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            sys.exit(f"{name} is not installed in this environment")
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                waiting.append(need)
    wanted.add(name)

wanted.add(BUILD)
versions.setdefault(BUILD, distribution(BUILD).version)


def fits(file, name, version):
    """Whether the image could install this file."""
    try:
        if file.endswith(".whl"):
            its_name, its_version, _, its_tags = parse_wheel_filename(file)
            return (its_name, str(its_version)) == (name, version) and bool(tags & its_tags)
        its_name, its_version = parse_sdist_filename(file)
        return (its_name, str(its_version)) == (name, version)
    except ValueError:  # of an old form
        return False


rows = []
with httpx.Client(headers={"Accept": "application/vnd.pypi.simple.v1+json"}, timeout=60) as index:
    for name in sorted(wanted - ASIDE):
        answer = index.get(f"https://pypi.org/simple/{name}/")
        answer.raise_for_status()
        sums = {row["filename"]: row["hashes"]["sha256"] for row in answer.json()["files"]}
        sums = {file: sum for file, sum in sums.items() if fits(file, name, versions[name])}
        if not sums:
            sys.exit(f"PyPI has no file of {name} {versions[name]} for the image")
        if wheels := {file: sum for file, sum in sums.items() if file.endswith(".whl")}:
            sums = wheels
        else:
            print(f"{name} {versions[name]} has no wheel: building it takes unpinned tools")
        rows.append(" ".join([f"{name}=={versions[name]}", *(f"--hash=sha256:{sum}" for sum in sorted(sums.values()))]))
Path("infra/image.lock").write_text("\n".join(rows) + "\n")
print(f"infra/image.lock: {len(rows)} packages")
END
