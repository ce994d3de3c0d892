"""Weights of other projects: the architecture is identified, and misfits are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.sam.build import ARCHITECTURES, build_sam
from engine.sam.checkpoint import shipped_path
from engine.sam.state_dicts import CheckpointError, find_architecture, misfits, read_state_dict

torch.set_num_threads(1)


def on_meta(architecture: str) -> dict[str, torch.Tensor]:
    """Return tensors with names and shapes but no values."""
    with torch.device("meta"):
        found: dict[str, torch.Tensor] = build_sam(architecture).state_dict()
    return found


@pytest.fixture(scope="module")
def lite() -> Any:
    torch.manual_seed(2)
    return build_sam("lite").state_dict()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", ["sam.pth", "vit_b_or_vit_h.pth", "vit_huge.pth"])
def test_shapes_identify_the_architecture_if_the_name_does_not(
    architecture: str, name: str
) -> None:
    tensors = on_meta(architecture)
    found, identified_by = find_architecture(name, tensors)
    assert found == architecture
    assert "name" not in identified_by or architecture == "lite"
    assert misfits(tensors, architecture) == ""


def test_metas_file_names_identify_the_architecture() -> None:
    for name in ("sam_vit_b_01ec64.pth", "sam_vit_l_0b3195.pth", "sam_vit_h_4b8939.pth"):
        assert find_architecture(name, {}) == (name[4:9], "the file's name")


@pytest.mark.parametrize(
    "name",
    ["mobile_sam.pt", "mobile_sam-6dbb90523a35330f.pth", "MobileSAM_vit_t.pt", "mobile-sam.pth"],
)
def test_mobile_sams_file_names_identify_vit_t(name: str) -> None:
    assert find_architecture(name, {}) == ("vit_t", "the file's name")


def test_shapes_identify_the_architecture_if_the_name_is_ambiguous() -> None:
    found = find_architecture("mobile_sam_or_vit_b.pt", on_meta("vit_b"))
    assert found == ("vit_b", "its encoder of 12 blocks, 768 wide")
    assert find_architecture("mobile_sampler.pt", on_meta("lite"))[0] == "lite"


def test_another_tiny_vit_is_refused_with_its_width() -> None:
    tensors = on_meta("vit_t")
    assert find_architecture("x", tensors) == ("vit_t", "its TinyViT, 320 wide at its end")
    wider = torch.empty(256, 448, 1, 1, device="meta")
    with pytest.raises(CheckpointError, match="a TinyViT that is 448 wide"):
        find_architecture("x", tensors | {"image_encoder.neck.0.weight": wider})
    without = {name: value for name, value in tensors.items() if ".neck." not in name}
    with pytest.raises(CheckpointError, match="a TinyViT that is 0 wide"):
        find_architecture("x", without)


def test_an_encoder_of_unknown_size_is_refused_with_its_size() -> None:
    tensors = on_meta("vit_b")
    del tensors["image_encoder.blocks.11.norm1.weight"]
    assert find_architecture("x", tensors)[0] == "vit_b"
    short = {name: value for name, value in tensors.items() if ".blocks.11." not in name}
    with pytest.raises(CheckpointError, match="11 blocks, 768 wide"):
        find_architecture("x", short)
    with pytest.raises(CheckpointError, match="no SAM image encoder"):
        find_architecture("x", {"fc.weight": torch.zeros(2)})


def test_misfits_are_named() -> None:
    tensors = on_meta("vit_l")
    found = misfits(tensors, "vit_b")
    assert "unexpected: image_encoder.blocks.12." in found
    assert "more" in found
    assert "image_encoder.pos_embed (1, 64, 64, 1024) instead of (1, 64, 64, 768)" in found
    del tensors["mask_decoder.iou_token.weight"]
    assert misfits(tensors, "vit_l") == "missing: mask_decoder.iou_token.weight"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_without_a_card_are_read_as_they_are(
    lite: Any, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(lite, path)
    else:
        save_file(lite, path)
    found = read_state_dict(path)
    assert (found.architecture, found.identified_by) == ("lite", "the names of its tensors")
    assert found.tensors.keys() == lite.keys()
    assert all(torch.equal(found.tensors[name], value) for name, value in lite.items())


def test_a_file_named_for_another_architecture_is_refused(lite: Any, tmp_path: Path) -> None:
    torch.save(lite, tmp_path / "sam_vit_b.pth")
    with pytest.raises(CheckpointError, match=r"does not fit vit_b, .* the file's name: missing: "):
        read_state_dict(tmp_path / "sam_vit_b.pth")


@pytest.mark.parametrize("architecture", ["vit_b", "vit_xxl"])
def test_the_cards_architecture_must_be_the_weights(architecture: str) -> None:
    with pytest.raises(CheckpointError, match=architecture):
        read_state_dict(shipped_path(), architecture)


def test_a_training_state_is_refused_with_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "state.pth"
    torch.save({"model": {"x": torch.zeros(2)}, "step": 3}, path)
    with pytest.raises(CheckpointError, match="but model, step"):
        read_state_dict(path)


@pytest.mark.parametrize("keep", [0.0, 1e-4, 0.5, 0.9999])
def test_a_cut_pth_file_is_refused(lite: Any, tmp_path: Path, keep: float) -> None:
    path = tmp_path / "cut.pth"
    torch.save(lite, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(CheckpointError, match=r"cut\.pth") as raised:
        read_state_dict(path)
    assert "weights_only" not in str(raised.value)
