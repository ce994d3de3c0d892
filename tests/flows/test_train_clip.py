"""A CLIP trained on people's labels, through its command: an adapter, and the towers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.encoders.trained import used_clip
from flows.workspace.workspace import Workspace
from storage.catalog import LearnedKind
from tests.flows.conftest import make_workspace
from tests.flows.test_suggesting import ingest, run
from tests.labelled_folders import write_pictures

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("prefect_server", "one_thread"),
]

NAMES = """
- {name: blicket, was: circle}
- {name: zorp, was: star}
- {name: wug, was: cross}
"""
"""Words that the small CLIP never saw."""


def pictures(workspace: Workspace, folder: Path, seeds: Sequence[int], *, held_out: float) -> None:
    ingest(workspace, write_pictures(folder, seeds), held_out=held_out)


@pytest.fixture
def named(tmp_path: Path) -> Workspace:
    """Pictures whose masks have names that the small CLIP does not know; a third is held out."""
    workspace = make_workspace(tmp_path / "ws", "shard_images = 50\n")
    pictures(workspace, tmp_path / "train", range(5000, 5040), held_out=0.0)
    pictures(workspace, tmp_path / "held", range(6000, 6020), held_out=1.0)
    (tmp_path / "names.yaml").write_text(NAMES)
    run(workspace, "labels", "set", str(tmp_path / "names.yaml"), "--dataset", "shapes")
    return workspace


def train(workspace: Workspace, clip: str, *options: str) -> Any:
    return run(workspace, "labels", "train", "--dataset", "shapes", "--encoder", clip, *options)


def test_an_adapter_learns_words_that_the_clip_never_saw_and_suggests_and_finds_by_them(
    named: Workspace, small_clip: str
) -> None:
    found = train(named, small_clip)
    scores = found["scores"]
    assert found["in_use"]
    assert scores["held_out"]
    assert scores["images"] <= 20
    assert scores["accuracy"] > scores["accuracy_before"] + 0.2
    card = named.catalog.suggesters.get(found["version"]).card
    assert card["encoder"].startswith(f"{small_clip}-")
    assert card["data"] == {**found["data"], "categories": 3, "texts": 60}
    assert card["config"]["steps"] == 300

    again = train(named, small_clip)
    assert (again["version"], again["reason"]) == (found["version"], "no new labels")
    worse = train(named, small_clip, "--steps", "1", "--learning-rate", "0.9")
    assert not worse["in_use"]
    assert "significantly worse" in worse["reason"]
    dataset = named.catalog.datasets.get("shapes")
    stored = named.catalog.suggesters.all(dataset.id, LearnedKind.CLIP)
    assert [one.version for one in stored] == [worse["version"], found["version"]]
    assert used_clip(named, dataset, small_clip).version == found["version"]
    assert named.catalog.suggesters.current(dataset.id) is None  # these have their own versions

    words = ("--dataset", "shapes", "--encoder", small_clip)
    said = run(named, "labels", "suggest", *words, "--by", "trained", "--precision", "0.6")
    assert said["method"] == "texts"
    assert said["labels"] < found["data"]["labels"]  # only masks that it has not learned from
    scored = run(named, "labels", "evaluate", "--dataset", "shapes")
    assert scored["accuracy"] == pytest.approx(scores["accuracy"])
    hits = [one["score"] for one in run(named, "find", "a zorp.", *words)["masks"]]
    status = run(named, "labels", "status", "--dataset", "shapes")
    assert status["trained_clip"]["version"] == found["version"]

    back = run(named, "labels", "rollback", "--trained", "--dataset", "shapes")
    assert back["trained_clip"] is None
    assert [one["score"] for one in run(named, "find", "a zorp.", *words)["masks"]] != hits
    assert used_clip(named, dataset, small_clip).version == ""
    root = {"DATAENGINE_WORKSPACE": str(named.settings.root)}
    refused = CliRunner().invoke(app, ["labels", "suggest", *words, "--by", "trained"], env=root)
    assert "dataengine labels train" in str(refused.exception)


def test_trained_towers_make_new_vectors_which_suggest_and_search(
    named: Workspace, small_clip: str
) -> None:
    options = ("--towers", "--steps", "120", "--batch", "64", "--learning-rate", "0.002")
    found = train(named, small_clip, *options)
    scores, name = found["scores"], f"clip:{found['version']}"
    assert found["in_use"]
    assert scores["accuracy"] > scores["accuracy_before"] + 0.2
    status = run(named, "labels", "status", "--dataset", "shapes")
    masks = status["masks"]
    assert [n for version, n in status["vectors"].items() if version.startswith(name)] == [masks]
    words = ("--dataset", "shapes", "--encoder", small_clip)
    said = run(named, "labels", "suggest", *words, "--by", "trained", "--precision", "0.6")
    assert said["encoder"].startswith(name)
    scored = run(named, "labels", "evaluate", "--dataset", "shapes")
    assert scored["accuracy"] == pytest.approx(scores["accuracy"])
    assert len(run(named, "find", "a wug.", *words)["masks"]) == 24


@pytest.mark.parametrize(
    ("encoder", "message"),
    [("lite", "reads no texts"), ("clip:towers-2026", "no such towers")],
)
def test_an_encoder_that_cannot_be_trained_is_refused_with_what_to_do(
    workspace: Workspace, encoder: str, message: str
) -> None:
    workspace.catalog.datasets.get_or_create("shapes")
    root = {"DATAENGINE_WORKSPACE": str(workspace.settings.root)}
    words = ["labels", "train", "--dataset", "shapes", "--encoder", encoder]
    found = CliRunner().invoke(app, words, env=root)
    assert found.exit_code != 0
    assert message in str(found.exception)
