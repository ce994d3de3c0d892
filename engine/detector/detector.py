"""A detector version: a network, the model version whose embeddings it reads, and its card.

N = boxes, C = channels of the embedding.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from engine.core.errors import DataEngineError
from engine.detector.network import CELL, build_network
from engine.sam.segmenter import Embedding

ARCHITECTURE = "fcos"


class DetectorError(DataEngineError):
    """A detector's file cannot be read, or an embedding is of another model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorCard:
    """Metadata of one detector version."""

    version: str
    segmenter: str
    """The model version on whose embeddings it was trained; it reads no other's."""
    embedding_channels: int
    parent: str | None = None
    table_version: int | None = None
    """Mask-table version of the training data."""
    data: dict[str, Any] = field(default_factory=dict)
    """Numbers of images and masks."""
    config: dict[str, Any] = field(default_factory=dict)
    confident: float = 0.5
    """Least confidence, [0, 1], of masks that pre-fill an image (`confidence`)."""
    scores: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    """Wall time of the training."""
    code_version: str = ""
    created_at: str = ""
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "architecture": ARCHITECTURE}


@dataclass(frozen=True, slots=True)
class DetectedBoxes:
    """Boxes (N, 4) float32, half-open XYXY in pixels of the image, and scores (N,) float32 in
    [0, 1], highest first."""

    boxes_N4: np.ndarray
    scores_N: np.ndarray


class Detector:
    """A loaded detector version."""

    def __init__(self, network: Any, card: DetectorCard, device: str = "cpu") -> None:
        self.network, self.card = network.to(device).eval(), card

    @torch.inference_mode()
    def detect(self, embedding: Embedding) -> DetectedBoxes:
        """Return the boxes of one image, 300 at most.

        Raises:
            DetectorError: the embedding has another number of channels.
        """
        features = embedding.features_1CHW
        if features.shape[1] != self.card.embedding_channels:
            raise DetectorError(
                f"detector {self.card.version} reads embeddings of {self.card.segmenter} with "
                f"{self.card.embedding_channels} channels, this one has {features.shape[1]}"
            )
        device = next(self.network.parameters()).device
        found = self.network([features[0].to(device)])[0]
        scale = units_per_pixel(embedding)
        height, width = embedding.original_size
        boxes = found["boxes"].cpu().numpy() / np.array([*scale, *scale], np.float32)
        boxes = np.clip(boxes, 0, np.array([width, height] * 2, np.float32))
        is_box = (boxes[:, 2] - boxes[:, 0] >= 1) & (boxes[:, 3] - boxes[:, 1] >= 1)
        return DetectedBoxes(boxes[is_box], found["scores"].cpu().numpy()[is_box])

    def save(self, path: Path) -> None:
        """Write weights and card as one safetensors file."""
        tensors = {n: v.detach().cpu().contiguous() for n, v in self.network.state_dict().items()}
        save_file(tensors, path, metadata={"card": json.dumps(self.card.as_dict())})

    @staticmethod
    def load(path: Path, device: str = "cpu") -> Detector:
        """Load a file of `save`.

        Raises:
            DetectorError: the file is missing or damaged, or is no detector.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                values = json.loads((file.metadata() or {})["card"])
            if values.pop("architecture") != ARCHITECTURE:
                raise DetectorError(f"{path} is no detector of this code")
            card = DetectorCard(**values)
            network = build_network(card.embedding_channels)
            network.load_state_dict(load_file(str(path)))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise DetectorError(f"{path} is not a readable detector: {error}") from error
        return Detector(network, card, device)


def units_per_pixel(embedding: Embedding) -> tuple[float, float]:
    """Return units of the network's boxes per pixel of the image, for (x, y)."""
    side = max(embedding.features_1CHW.shape[-2:]) * CELL
    height, width = embedding.original_size
    in_height, in_width = embedding.input_size
    padded = max(in_height, in_width)  # the longer side fills the model's square input
    return side * in_width / (padded * width), side * in_height / (padded * height)
