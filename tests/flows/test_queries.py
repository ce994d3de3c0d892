"""The queries of docs/formats.md, as they stand there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.workspace.workspace import Workspace
from tests.flows.conftest import make_workspace
from tests.labelled_folders import write_pictures

DOCS = Path(__file__).parents[2] / "docs" / "formats.md"


def block(word: str) -> str:
    """The block of Python in the docs that imports a library."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (found,) = (text for text in blocks if word in text)
    return str(found)


@pytest.fixture
def queried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], tuple[Workspace, dict[str, Any]]]:
    """Runs a block of the docs in a workspace with a data set `photos`."""

    def run(code: str) -> tuple[Workspace, dict[str, Any]]:
        from flows.data.annotations import AnnotationsAs
        from flows.data.ingest import ingest_folder

        workspace = make_workspace(tmp_path / "ws")
        folder = write_pictures(tmp_path / "in", range(3))
        coco, kind = folder / "instances.json", AnnotationsAs.MASKS
        ingest_folder(workspace, "photos", folder, coco, annotations_as=kind)
        ingest_folder(workspace, "others", folder, coco, annotations_as=kind)
        monkeypatch.chdir(tmp_path / "ws")
        names: dict[str, Any] = {}
        exec(code, names)  # noqa: S102
        return workspace, names

    return run


def _masks(workspace: Workspace) -> int:
    return workspace.masks.counts(("dataset",))[("photos",)]


def test_duckdb_reads_the_table_and_a_releases_files(
    queried: Callable[[str], tuple[Workspace, dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = block("import duckdb")
    second = code.rindex("duckdb.sql(")
    table, release = code[:second], code[second:]
    workspace, _ = queried(table)
    told = capsys.readouterr().out
    assert re.search(rf"assisted_manual\W+{_masks(workspace)}\b", told)
    assert "images.parquet" in release


@pytest.mark.release_test
def test_polars_reads_the_table(
    queried: Callable[[str], tuple[Workspace, dict[str, Any]]],
) -> None:
    code = block("import polars").replace("masks.filter", "found = masks.filter")
    workspace, names = queried(code)
    assert names["found"].row(0)[:2] == ("assisted_manual", _masks(workspace))


@pytest.mark.release_test
def test_pandas_reads_the_table(
    queried: Callable[[str], tuple[Workspace, dict[str, Any]]],
) -> None:
    workspace, names = queried(block("to_pandas"))
    assert len(names["masks"]) == _masks(workspace)
