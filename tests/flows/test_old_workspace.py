"""A workspace of an earlier version opens, exports the same masks, and continues."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from engine.sam.checkpoint import shipped_path
from flows.loop.advance import advance_dataset
from flows.operations.status import status_of
from flows.release.release import export_release, release
from flows.workspace.workspace import Workspace, open_workspace

PACKED = Path(__file__).parents[1] / "data" / "workspace-eaf811f.tar.gz"
"""By version 0.1.0 of commit eaf811f: six scenes, one of three rounds, a candidate, masks of all
images and the release `first`. The models' weights are left out."""


@pytest.fixture
def old(tmp_path: Path) -> Workspace:
    """A copy whose two model versions have the shipped weights."""
    folder = tmp_path / "ws"
    with tarfile.open(PACKED) as tar:
        tar.extractall(folder, filter="data")
    engine = create_engine(f"sqlite:///{folder / 'catalog.db'}")
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "0004"
        keys = connection.scalars(text("SELECT key FROM models")).all()
    engine.dispose()
    for key in keys:
        path = folder / "store" / key
        path.parent.mkdir(parents=True)
        shutil.copyfile(shipped_path(), path)
    workspace = open_workspace(str(folder))
    workspace.prepare()
    return workspace


def test_a_release_of_an_earlier_version_exports_the_same_masks(
    old: Workspace, tmp_path: Path
) -> None:
    begun = old.catalog.releases.get("first")
    export_release(old, begun, tmp_path / "out", "coco")
    before = json.loads(old.objects.get(f"{begun.key}/instances.json"))
    after = json.loads((tmp_path / "out" / "instances.json").read_text())
    assert len(after["annotations"]) == 55
    assert after["annotations"] == before["annotations"]
    assert after["categories"] == before["categories"]
    for image, known in zip(after["images"], before["images"], strict=True):
        assert image | known == image  # current ones have more


@pytest.mark.usefixtures("prefect_server")
def test_the_loop_of_an_earlier_version_continues_to_its_end(old: Workspace) -> None:
    before = status_of(old)
    assert [row["state"] for row in before["rounds"]] == ["done", "planned", "planned"]
    done = advance_dataset(old, old.catalog.datasets.get("scenes"))
    assert done.loop == "finished"
    after = status_of(old)
    assert [row["state"] for row in after["rounds"]] == ["done", "done", "done"]
    assert after["rounds"][0] == before["rounds"][0]
    assert after["masks"]["semi_automatic"] > 0
    assert release(str(old.settings.root), "scenes", "second")["masks"] > 0
