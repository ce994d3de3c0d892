"""`dataengine models`: versions are listed, promoted, rolled back, imported and pulled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from engine.sam.build import ARCHITECTURES, build_sam
from engine.sam.checkpoint import CheckpointError, load_checkpoint, read_card, shipped_path
from flows.cli.main import app
from flows.data.import_model import PUBLIC, ImportRefusedError, import_model, pull
from flows.workspace import progress
from flows.workspace.workspace import Workspace
from storage.catalog import AlreadyExistsError, ModelState
from storage.downloads import DownloadError
from tests.file_server import FileServer, serving

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    yield
    progress.use(progress.Silent())


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    found: dict[str, torch.Tensor] = build_sam("lite").state_dict()
    return found


@pytest.fixture(scope="module")
def pth(weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "cells.pth"
    torch.save(weights, path)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def told(*arguments: str) -> Any:
    """The output of a command with --json."""
    result = CliRunner().invoke(app, ["models", *arguments, "--json"])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return json.loads(result.stdout)


def change(told: Any) -> tuple[str, str | None]:
    """The version that became current, and which it replaced."""
    return told["current"], told["replaced"]


def test_versions_are_promoted_and_rolled_back(
    workspace: Workspace, pth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.settings.root)
    imported = told("import", str(pth))
    assert (imported["version"], imported["state"]) == ("cells", "candidate")
    assert imported["source"]["architecture_told_by"] == "the names of its tensors"
    assert change(told("promote", "cells")) == ("cells", "lite")
    assert change(told("promote", "cells")) == ("cells", None)
    rows = {row["version"]: row for row in told()["models"]}
    assert told("list")["models"] == list(rows.values())
    assert (rows["cells"]["state"], rows["lite"]["state"]) == ("current", "retired")
    assert rows["lite"]["miou_1_click"] == pytest.approx(0.6, abs=0.2)
    assert rows["cells"]["miou_1_click"] is None
    assert change(told("rollback")) == ("lite", "cells")
    result = CliRunner().invoke(app, ["models", "rollback"])
    assert "before 'lite'" in str(result.exception)
    assert "cells" in CliRunner().invoke(app, ["models"]).stdout
    card = json.loads(CliRunner().invoke(app, ["models", "show", "cells"]).stdout)
    assert card["architecture"] == "lite"


def test_an_imported_file_is_stored_as_it_is_with_a_card(
    workspace: Workspace, pth: Path, weights: dict[str, torch.Tensor]
) -> None:
    model = import_model(workspace, pth, "cells-1")
    assert model.state == ModelState.CANDIDATE
    stored, card = load_checkpoint(workspace.checkpoint("cells-1"))
    assert card.as_dict() == model.card
    assert card.source == {
        "file": "cells.pth",
        "sha256": sha256(pth),
        "architecture_told_by": "the names of its tensors",
    }
    assert card.thresholds == read_card(shipped_path()).thresholds
    for name, value in stored.state_dict().items():
        assert torch.equal(value, weights[name])
    assert workspace.segmenter("cells-1").version == "cells-1"


def test_a_file_of_this_project_keeps_its_card(workspace: Workspace) -> None:
    model = import_model(workspace, shipped_path(), "lite-2")
    shipped = read_card(shipped_path())
    assert model.card["scores"] == shipped.scores
    assert model.card["source"]["architecture_told_by"] == "its card"
    with pytest.raises(AlreadyExistsError, match="--name"):
        import_model(workspace, shipped_path())


@pytest.mark.parametrize("name", ["a/b", "../lite", ".hidden", "x" * 300, ""])
def test_a_version_is_not_given_any_name(workspace: Workspace, pth: Path, name: str) -> None:
    with pytest.raises(ImportRefusedError, match="--name"):
        import_model(workspace, pth, name)


def test_a_broken_import_leaves_nothing(workspace: Workspace, tmp_path: Path) -> None:
    before = [found.key for found in workspace.objects.list()]
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    for path in (tmp_path / "bad.pth", tmp_path / "absent.pth", tmp_path):
        with pytest.raises(CheckpointError, match=path.name):
            import_model(workspace, path)
    assert [found.key for found in workspace.objects.list()] == before
    assert list(workspace.cache.iterdir()) == []


# Pulling; a `lite` stands in for ViT-B, which is 375 MB


@pytest.fixture
def server(pth: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setitem(ARCHITECTURES, "vit_b", ARCHITECTURES["lite"])
    with serving(pth.read_bytes()) as state:
        yield state


def test_a_public_checkpoint_is_fetched_checked_imported_and_promoted(
    workspace: Workspace, server: FileServer, pth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.settings.root)
    server.faults = ["drop"]
    from_here = ("pull", "vit_b", "--url", f"{server.url}?token=1", "--sha256", sha256(pth))
    found = told(*from_here, "--promote")
    assert (found["version"], found["architecture"]) == ("vit_b", "vit_b")
    assert change(found["promotion"]) == ("vit_b", "lite")
    assert found["source"]["url"] == server.url
    assert found["source"]["sha256"] == sha256(pth)
    thresholds = workspace.catalog.models.get("vit_b").card["thresholds"]
    assert (thresholds["min_predicted_iou"], thresholds["min_stability"]) == (0.88, 0.95)
    assert list((workspace.cache / "downloads").iterdir()) == []
    again = told(*from_here)
    assert (again["version"], len(server.ranges)) == ("vit_b", 2)


def test_a_mirror_must_serve_the_published_file(workspace: Workspace, server: FileServer) -> None:
    with pytest.raises(DownloadError, match=PUBLIC["vit_b"].sha256):
        pull(workspace, "vit_b", url=server.url)
    assert [model.version for model in workspace.catalog.models.all()] == ["lite"]


def test_nothing_is_fetched_for_a_version_that_is_there(
    workspace: Workspace, server: FileServer
) -> None:
    with pytest.raises(AlreadyExistsError):
        pull(workspace, "vit_b", name="lite", url=server.url)
    assert server.ranges == []


@pytest.mark.parametrize(
    ("architecture", "options"), [("lite", {}), ("vit_b", {"sha256": "01ec64"})]
)
def test_wrong_arguments_of_pull_are_named(
    workspace: Workspace, architecture: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ImportRefusedError, match=r"vit_h|64 hex digits"):
        pull(workspace, architecture, **options)
