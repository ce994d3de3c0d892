"""The command that makes the base model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.sam import ModelCard, load_checkpoint, save_checkpoint
from engine.training.base_model import main
from tests.unit.small_training import fresh


def checkpoint(path: Path, shift: float) -> Path:
    sam = fresh()
    with torch.no_grad():
        for value in sam.parameters():
            value.add_(shift)
    card = ModelCard(version="a", architecture="lite", data={"shift": shift}, seconds=2.0)
    save_checkpoint(sam, card, path, half=False)
    return path


def test_the_mean_of_checkpoints_is_written_with_the_data_of_all(tmp_path: Path) -> None:
    parts = [checkpoint(tmp_path / f"{n}.safetensors", shift) for n, shift in enumerate((0.0, 0.5))]
    done = main(["--average", *map(str, parts), "--folder", str(tmp_path), "--only", "train"])
    assert done == 0
    mean, card = load_checkpoint(tmp_path / "trained.safetensors", "cpu")
    assert card.data == {"mean_of": [{"shift": 0.0}, {"shift": 0.5}]}
    assert card.seconds == 4.0
    first = fresh()
    for name, value in mean.named_parameters():
        expected = first.get_parameter(name) + 0.25
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3)  # it is stored as fp16


def test_a_file_that_is_no_checkpoint_of_lite_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = checkpoint(tmp_path / "a.safetensors", 0.0)
    other = tmp_path / "b.safetensors"
    other.write_bytes(b"no checkpoint")
    done = main(["--average", str(part), str(other), "--folder", str(tmp_path), "--only", "train"])
    assert done == 2
    assert "b.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "trained.safetensors").exists()
