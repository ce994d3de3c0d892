"""Checkpoints: written, read, and refused if damaged."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.sam.build import ARCHITECTURES, build_sam
from engine.sam.checkpoint import (
    CheckpointError,
    ModelCard,
    Thresholds,
    load_checkpoint,
    load_sam,
    read_card,
    save_checkpoint,
)

torch.set_num_threads(1)
CARD = ModelCard(
    version="lite-r1-abc",
    architecture="lite",
    parent="lite",
    table_version=7,
    data={"images": 12, "masks": {"annotator": 30}},
    config={"steps": 4, "jitter": [0.7, 1.6]},
    thresholds=Thresholds(min_predicted_iou=0.5, min_stability=0.6, confident_iou=0.7),
    scores={"miou_1_click": 0.61},
    seconds=12.5,
    code_version="1234",
    created_at="2026-11-23T22:41:00+00:00",
    note="promoted",
)


@pytest.fixture(scope="module")
def lite() -> Any:
    torch.manual_seed(2)
    return build_sam("lite")


@pytest.fixture(scope="module")
def saved(lite: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "lite-r1.0.safetensors"
    save_checkpoint(lite, CARD, path)
    return path


def test_a_half_precision_checkpoint_loads_with_rounded_weights(lite: Any, saved: Path) -> None:
    loaded, card = load_checkpoint(saved)
    assert card == CARD
    assert not loaded.training
    before, after = lite.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name].dtype == torch.float32
        assert torch.equal(after[name], value.half().float())


def test_a_full_precision_checkpoint_loads_unchanged(lite: Any, tmp_path: Path) -> None:
    save_checkpoint(lite, CARD, tmp_path / "exact.safetensors", half=False)
    loaded, _ = load_checkpoint(tmp_path / "exact.safetensors")
    after = loaded.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in lite.state_dict().items())


def test_saving_leaves_nothing_but_the_checkpoint(saved: Path) -> None:
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


def test_saving_a_loaded_model_again_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    loaded, card = load_checkpoint(saved)
    save_checkpoint(loaded, card, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_the_card_is_read_without_the_weights(saved: Path) -> None:
    assert read_card(saved) == CARD


def test_a_card_survives_json() -> None:
    assert ModelCard.from_dict(json.loads(json.dumps(CARD.as_dict()))) == CARD


def test_a_checkpoint_of_this_project_is_found_by_its_path(lite: Any, saved: Path) -> None:
    for model in (saved, str(saved)):
        name = "mask_decoder.iou_token.weight"
        wanted = lite.state_dict()[name].half().float()
        assert torch.equal(load_sam(model).state_dict()[name], wanted)


# broken files


def cut(path: Path, source: Path, *, keep: float) -> None:
    whole = source.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])


BROKEN: dict[str, Callable[[Path, Path], object]] = {
    "missing": lambda path, source: None,
    "empty": lambda path, source: path.write_bytes(b""),
    "noise": lambda path, source: path.write_bytes(bytes(range(256)) * 40),
    "a picture": lambda path, source: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 500),
    "cut in the header": lambda path, source: cut(path, source, keep=1e-4),
    "cut in half": lambda path, source: cut(path, source, keep=0.5),
    "short of its last bytes": lambda path, source: cut(path, source, keep=0.9999),
    "without a card": lambda path, source: save_file({"x": torch.zeros(3)}, path),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("read", [read_card, load_checkpoint, load_sam])
def test_a_broken_file_is_refused(
    kind: str, read: Callable[[Path], object], saved: Path, tmp_path: Path
) -> None:
    path = tmp_path / "broken.safetensors"
    BROKEN[kind](path, saved)
    with pytest.raises(CheckpointError, match=r"broken\.safetensors"):
        read(path)


def with_card(path: Path, card: str) -> Path:
    save_file({"x": torch.zeros(3)}, path, metadata={"card": card})
    return path


@pytest.mark.parametrize(
    "card",
    [
        json.dumps({**CARD.as_dict(), "field_of_next_year": 1}),
        json.dumps({"version": "x", "architecture": "lite"}),
        "{not json",
    ],
    ids=["unknown field", "no thresholds", "no JSON"],
)
def test_a_card_that_cannot_be_read_is_refused(card: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="odd"):
        read_card(with_card(tmp_path / "odd.safetensors", card))


def test_a_checkpoint_of_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    card = json.dumps({**CARD.as_dict(), "architecture": "vit_xxl"})
    path = with_card(tmp_path / "odd.safetensors", card)
    with pytest.raises(CheckpointError, match="'vit_xxl'"):
        load_checkpoint(path)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = with_card(tmp_path / "odd.safetensors", json.dumps(CARD.as_dict()))
    with pytest.raises(CheckpointError, match="does not fit lite"):
        load_checkpoint(path)


def test_an_unknown_architecture_cannot_be_built() -> None:
    with pytest.raises(ValueError, match=r"'resnet'.*lite, vit_t, vit_b, vit_l, vit_h"):
        build_sam("resnet")


# segment_anything's own files; a `lite` stands in for ViT-B, which takes a gigabyte


@pytest.fixture
def small_vit_b(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "vit_b", ARCHITECTURES["lite"])


@pytest.mark.usefixtures("small_vit_b")
def test_metas_own_file_is_loaded_by_its_name(lite: Any, tmp_path: Path) -> None:
    path = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save(lite.state_dict(), path)
    loaded = load_sam(path)
    assert not loaded.training
    after = loaded.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in lite.state_dict().items())


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return _spring, (str(self.path), "sprung")


def _spring(path: str, text: str) -> None:
    Path(path).write_text(text)


@pytest.mark.usefixtures("small_vit_b")
def test_code_in_a_pth_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "sam_vit_b.pth"
    torch.save({"weights": Trap(tmp_path / "sprung")}, path)
    with pytest.raises((CheckpointError, pickle.UnpicklingError)):
        load_sam(path)
    assert not (tmp_path / "sprung").exists()
    torch.load(path, weights_only=False)  # the trap works
    assert (tmp_path / "sprung").exists()


@pytest.mark.usefixtures("small_vit_b")
def test_a_pth_file_that_does_not_fit_its_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sam_vit_b.pth"
    torch.save({"x": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="does not fit vit_b"):
        load_sam(path)


@pytest.mark.usefixtures("small_vit_b")
def test_a_missing_pth_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="vit_b"):
        load_sam(tmp_path / "sam_vit_b.pth")


@pytest.mark.parametrize("content", [b"", b"no pickle at all"], ids=["empty", "noise"])
@pytest.mark.usefixtures("small_vit_b")
def test_a_pth_file_without_a_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "sam_vit_b.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        load_sam(path)
