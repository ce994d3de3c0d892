"""`make audit` without a network: a copy of an advisory database, and the message if it is
missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.security import advisories

ROOT = Path(__file__).parents[2]
LOCK = "Some_Package==2.1\nother==1.0rc1\n"


def record(*events: dict[str, str], name: str = "some-package", **more: Any) -> dict[str, Any]:
    """An advisory in the OSV schema."""
    ranges = [{"type": "ECOSYSTEM", "events": list(events)}]
    affected = {"package": {"ecosystem": "PyPI", "name": name}, "ranges": ranges}
    return {"id": "PYSEC-1", "modified": "2026-01-02T03:04:05Z", "affected": [affected], **more}


@pytest.mark.parametrize(
    ("events", "is_found"),
    [
        ([{"introduced": "0"}], True),
        ([{"introduced": "0"}, {"fixed": "2.2"}], True),
        ([{"introduced": "0"}, {"fixed": "2.1"}], False),
        ([{"introduced": "0"}, {"last_affected": "2.1"}], True),
        ([{"introduced": "0"}, {"last_affected": "2.0"}], False),
        ([{"introduced": "2.1.0"}, {"fixed": "3"}], True),
        ([{"introduced": "2.10"}], False),
        (
            [{"introduced": "2"}, {"fixed": "2.0.5"}, {"introduced": "2.1"}, {"fixed": "2.1.1"}],
            True,
        ),
        ([{"introduced": "2"}, {"fixed": "2.0.5"}, {"introduced": "2.2"}], False),
    ],
)
def test_a_version_is_vulnerable_between_introduction_and_fix(
    events: list[dict[str, str]], is_found: bool, tmp_path: Path
) -> None:
    (tmp_path / "lock").write_text(LOCK)
    locked = advisories.locked_in(tmp_path / "lock")
    assert bool(list(advisories.findings_in(record(*events), locked))) is is_found
    elsewhere = record(*events, name="nothing-of-ours")
    assert not list(advisories.findings_in(elsewhere, locked))


@pytest.mark.parametrize("form", ["json", "yaml", "zip"])
def test_a_copy_of_the_database_is_read_in_every_form(form: str, tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(LOCK)
    source = tmp_path / "copy"
    source.mkdir()
    told = record({"introduced": "0"}, {"fixed": "3"}, aliases=["CVE-2026-1"])
    if form == "yaml":
        (source / "PYSEC-1.yaml").write_text(yaml.safe_dump(told))
    else:
        (source / "PYSEC-1.json").write_text(json.dumps(told))
    withdrawn = {**told, "id": "PYSEC-2", "withdrawn": "2026-01-01T00:00:00Z"}
    (source / "PYSEC-2.json").write_text(json.dumps(withdrawn))
    if form == "zip":
        source = tmp_path / "all.zip"
        with zipfile.ZipFile(source, "w") as packed:
            packed.write(tmp_path / "copy" / "PYSEC-1.json", "PYSEC-1.json")
    done = audit(tmp_path, "-m", "tests.security.advisories", tmp_path / "lock", source)
    assert done.returncode == advisories.VULNERABLE
    assert "some-package 2.1: PYSEC-1, CVE-2026-1; fixed in 3\n" in done.stdout
    assert "newest is of 2026-01-02" in done.stdout


def audit(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_copy_without_advisories_is_no_pass(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(LOCK)
    done = audit(tmp_path, "-m", "tests.security.advisories", tmp_path / "lock", tmp_path)
    assert done.returncode == advisories.NOTHING_READ
    assert "has no advisory" in done.stderr


def test_without_the_advisory_api_the_audit_says_so_and_fails(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "infra/audit.sh", sys.executable, "no-such-pip-audit", ""],
        cwd=ROOT,
        env={**os.environ, "https_proxy": "http://127.0.0.1:9", "no_proxy": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "nothing was audited" in done.stderr
    assert "ADVISORIES=" in done.stderr
    assert "Traceback" not in done.stderr
