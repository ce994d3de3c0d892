"""The benchmark for a GPU, on a processor and with as little as possible."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from engine.sam import tiny_vit
from tests.benchmarks import gpu

SIDE = 256
"""Pixels of an image to the model, for speed."""


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_vit, "IMAGE_SIZE", SIDE)
    training = replace(gpu.SHORT.training, image_size=SIDE)
    monkeypatch.setattr(gpu, "SHORT", replace(gpu.SHORT, training=training))


@pytest.mark.usefixtures("_small")
def test_the_short_run_measures_every_part_and_ends_with_one_line_of_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert gpu.main(["--device", "cpu", "--short", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out.splitlines()[-1])
    parts = found["parts"]
    assert list(parts) == ["lite_training", "generator vit_t", "training"]
    assert (found["skipped"], found["failed"]) == ([], {})
    agreement = parts["generator vit_t"]["exact_against_peer_at_0.99"]
    assert agreement["found"] == agreement["wanted"] == agreement["matched"] >= 10
    assert agreement["largest_score_difference"] < 1e-4
    assert set(parts["generator vit_t"]["images_per_second"]) == {"peer", "exact", "fast"}
    for name in ("lite_training", "training"):
        assert parts[name]["images_per_second"] > 0
    assert all(f"{name}: {{" in captured.err for name in parts)  # kept if the run is stopped


def test_parts_that_begin_too_late_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", "--short", "--seconds", "0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parts"] == {}
    assert found["skipped"] == ["lite_training", "generator vit_t", "training"]


def test_a_part_that_fails_is_named_and_the_others_run() -> None:
    def fails() -> gpu.Results:
        raise torch.OutOfMemoryError("CUDA out of memory")

    found = gpu.run({"first": fails, "second": lambda: {"rate": 1.0}}, 60)
    assert found["failed"] == {"first": "CUDA out of memory"}
    assert found["parts"] == {"second": {"rate": 1.0}}


def test_without_a_gpu_the_error_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--device cpu --short" in captured.err
