"""A workspace of an earlier version opens, exports the same masks, and continues."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from engine.core.categories import CategoryList
from engine.sam.checkpoint import shipped_path
from flows.loop.advance import advance_dataset
from flows.operations.status import status_of
from flows.release.export import export_release
from flows.release.release import release
from flows.workspace.workspace import Workspace, open_workspace
from storage.catalog import LabelSource, NewLabel

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


SCORES = ("predicted_iou", "stability_score")


def test_a_release_of_an_earlier_version_exports_the_same_masks(
    old: Workspace, tmp_path: Path
) -> None:
    begun = old.catalog.releases.get("first")
    export_release(old, begun, tmp_path / "out", "coco")
    before = json.loads(old.objects.get(f"{begun.key}/instances.json"))
    after = json.loads((tmp_path / "out" / "instances.json").read_text())
    assert len(after["annotations"]) == 55
    for mask, known in zip(after["annotations"], before["annotations"], strict=True):
        scores = {name: known.pop(name) for name in SCORES if name in known}
        assert {name: mask.pop(name) for name in scores} == pytest.approx(scores)  # of 32 bits
        assert mask == known
    assert after["categories"] == before["categories"]
    for image, known in zip(after["images"], before["images"], strict=True):
        assert image | known == image  # current ones have more


def test_a_release_of_an_earlier_version_stays_class_agnostic(
    old: Workspace, tmp_path: Path
) -> None:
    assert status_of(old)["categories"] == {}
    row = old.catalog.datasets.get("scenes")
    names = CategoryList().extended([("cat", None)])
    old.catalog.categories.set(row.id, names, expected_version=0)
    (mask, *_) = old.masks.masks(current_only=True)
    source = LabelSource.ANNOTATOR
    label = NewLabel(mask_id=mask.mask_id, image_id=mask.image_id, category_id=1, source=source)
    old.catalog.labels.add_many(row.id, [label])
    assert status_of(old)["categories"] == {"scenes": {"cat": 1}}
    export_release(old, old.catalog.releases.get("first"), tmp_path, "coco")
    after = json.loads((tmp_path / "instances.json").read_text())
    assert [one["name"] for one in after["categories"]] == ["object"]
    assert {one["category_id"] for one in after["annotations"]} == {1}


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
