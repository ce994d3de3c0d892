"""Captions of a dataset's masks and images: made, searched, and read for names."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.semantics.mask_pictures import outlined
from flows.semantics import captioning
from flows.semantics.captioning import CaptionError, caption_dataset, captions_of
from flows.semantics.coca_training import CocaPairsError, train_coca
from flows.workspace.endpoint import NoEndpointError
from flows.workspace.workspace import Workspace
from storage.catalog import RunKind
from tests.chat_server import ChatServer, chatting, pictures_in, said
from tests.flows.conftest import make_workspace
from tests.flows.test_programs import run
from tests.flows.test_suggesting import ingest, shape_of
from tests.labelled_folders import write_pictures

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with chatting(lambda question: "Some shapes on a table.") as running:
        yield running


@pytest.fixture(scope="module")
def described(
    tmp_path_factory: pytest.TempPathFactory, server: ChatServer, prefect_server: None
) -> tuple[Workspace, dict[str, str]]:
    """A workspace whose language model sees the shape of an outlined mask; shapes by mask id."""
    folder = tmp_path_factory.mktemp("captions")
    toml = f'shard_images = 2\nllm_url = "{server.url}"\nllm_model = "sees"\n'
    workspace = make_workspace(folder / "ws", toml)
    pictures = write_pictures(folder / "pictures", range(5))
    ingest(workspace, pictures)
    shapes = shape_of(workspace, pictures)
    known = {}
    for mask in workspace.masks.masks():
        pixels = workspace.pixels(workspace.catalog.images.get(mask.image_id))
        [picture] = outlined(pixels, [mask.rle], captioning.SIDE)
        known[picture.tobytes()] = shapes[mask.mask_id]

    def reply(body: dict[str, Any]) -> dict[str, Any]:
        shape = known.get(pictures_in(body)[0].tobytes())
        return said(f"A small {shape} on a mat." if shape else "Some shapes on a table.")

    server.reply = reply
    return workspace, shapes


def test_masks_are_described_once_and_found_by_words_and_name_categories(
    described: tuple[Workspace, dict[str, str]], server: ChatServer
) -> None:
    workspace, shapes = described
    root = str(workspace.settings.root)
    first = caption_dataset(root, "shapes")
    assert first["captions"] == len(shapes)
    asked = len(server.requests)
    assert caption_dataset(root, "shapes")["captions"] == 0
    assert len(server.requests) == asked
    dataset = workspace.catalog.datasets.get("shapes")
    for one in captions_of(workspace, dataset):
        assert one.caption == f"A small {shapes[str(one.mask_id)]} on a mat."
        assert one.model == first["model"]
    words = ("--dataset", "shapes", "--in-captions")
    found = run(workspace, "find", "small stars", *words)["captions"]
    stars = {mask for mask, shape in shapes.items() if shape == "star"}
    assert {one["mask_id"] for one in found if one["score"] == 1} == stars
    names = run(workspace, "labels", "propose", *words)["names"]
    counts = {one["name"]: one["masks"] for one in names}
    assert counts["mat"] == len(shapes)
    assert {name: counts[name] for name in set(shapes.values())} == {
        name: list(shapes.values()).count(name) for name in set(shapes.values())
    }


def test_images_are_described_and_a_stopped_run_resumes(
    described: tuple[Workspace, dict[str, str]],
    server: ChatServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workspace, _ = described
    root, seen = str(workspace.settings.root), list[int]()
    shown = captioning._shown

    def stops(*given: Any) -> Any:
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return shown(*given)

    monkeypatch.setattr(captioning, "_shown", stops)
    with pytest.raises(KeyboardInterrupt):
        caption_dataset(root, "shapes", "images")
    figures = caption_dataset(root, "shapes", "images")
    assert figures["captions"] == 5
    assert len(seen) == 5 + 2  # the stopped shard's two, again
    runs = workspace.catalog.runs.all(kind=RunKind.CAPTIONS, limit=9)
    assert [one.id for one in runs].count(figures["run"]) == 1
    dataset = workspace.catalog.datasets.get("shapes")
    images = [one for one in captions_of(workspace, dataset) if one.mask_id is None]
    assert {one.caption for one in images} == {"Some shapes on a table."}


def test_wrong_use_says_what_to_do(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws")
    workspace.catalog.datasets.get_or_create("bare")
    root = str(workspace.settings.root)
    with pytest.raises(CaptionError, match="a captioner is llm or coca:NAME"):
        caption_dataset(root, "bare", model="gpt")
    error = run(workspace, "find", "x", "--dataset", "bare", "--in-captions", fails=True)
    assert "run `dataengine caption --dataset bare`" in error
    with pytest.raises(NoEndpointError, match="DATAENGINE_LLM_URL"):
        caption_dataset(root, "bare")


def test_a_coca_is_trained_on_a_users_pairs(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", range(4))
    (folder / "broken.png").write_bytes(b"no picture")
    pairs = folder / "pairs.csv"
    with pairs.open("w", newline="") as file:
        rows = [(f"00{n}.png", f"picture {n}") for n in range(4)]
        csv.writer(file).writerows([*rows, ("broken.png", "nothing")])
    common: dict[str, Any] = {
        **{"base": None, "steps": 2, "batch": 4, "learning_rate": None},
        **{"max_pixels": 1_000_000, "device": "cpu"},
    }
    result = train_coca(pairs, tmp_path / "model", **common)
    assert result["pairs"] == 4
    assert list(result["skipped"]) == [str(folder / "broken.png")]
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == [
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]
    with pytest.raises(CocaPairsError, match="exists; name a new folder"):
        train_coca(pairs, tmp_path / "model", **common)
    pairs.write_text("001.png\n")
    with pytest.raises(CocaPairsError, match=r"pairs\.csv, line 1: expected the path"):
        train_coca(pairs, tmp_path / "other", **common)
