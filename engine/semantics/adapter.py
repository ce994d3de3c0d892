"""An adapter: a small residual network on a frozen CLIP's vectors, one for masks, one for texts.

It turns a vector x into the direction of x + relu(x down) up, so that with `up` = 0, where training
starts, it changes nothing (Gao et al. 2021, CLIP-Adapter). Stored vectors are adapted without
their images.

N = vectors, D = length of a vector, R = units of the network.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from engine.core.errors import DataEngineError
from engine.core.rle import RLE
from engine.semantics.encoders import unit

if TYPE_CHECKING:
    from engine.semantics.clip import ClipEncoder

KEPT_BACK = 5
"""One image in so many is not trained on: its labelled masks calibrate probabilities."""


class AdapterError(DataEngineError):
    """An adapter's file cannot be read, or the vectors are of another encoder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterCard:
    """Metadata of one version of a trained CLIP: an adapter, or towers."""

    version: str
    encoder: str
    """The version of the encoder whose vectors it changes, or whose towers were trained."""
    name: str = ""
    """The encoder's name, as users write it."""
    method: str = "adapter"
    """`adapter` or `towers`."""
    dataset: str = ""
    parent: str | None = None
    """The version that was in use before."""
    config: dict[str, Any] = field(default_factory=dict)
    """How it was trained."""
    data: dict[str, Any] = field(default_factory=dict)
    """Numbers of labelled masks, categories and texts."""
    scores: dict[str, Any] = field(default_factory=dict)
    texts: str = ""
    """Digest of the categories' names and descriptions."""
    last_label: int = 0
    """Highest id of the labels that it was trained on."""
    seconds: float = 0.0
    code_version: str = ""
    created_at: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def is_kept_back(image_N: np.ndarray) -> np.ndarray:
    """Return which images are not trained on, bool (N,): about one in KEPT_BACK, always the same.

    Args:
        image_N: image ids, as in Labelled: near-duplicates have one id.
    """
    mixed = image_N.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing
    return np.asarray((mixed >> np.uint64(40)) % np.uint64(KEPT_BACK) == 0)


@dataclass(frozen=True, slots=True)
class Tower:
    """One of an adapter's two networks: float32 (D, R) and (R, D)."""

    down_DR: np.ndarray
    up_RD: np.ndarray

    def __call__(self, vectors_ND: np.ndarray) -> np.ndarray:
        """Return adapted vectors, float32 (N, D) of length 1.

        Raises:
            AdapterError: vectors of another length.
        """
        if vectors_ND.shape[1] != len(self.down_DR):
            raise AdapterError(
                f"the adapter reads vectors of {len(self.down_DR)} numbers, these have "
                f"{vectors_ND.shape[1]}: they are of another encoder"
            )
        vectors = vectors_ND.astype(np.float32)
        return unit(vectors + np.maximum(vectors @ self.down_DR, 0) @ self.up_RD)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A trained adapter; `logit_scale` multiplies cosines of its vectors to get log-odds."""

    card: AdapterCard
    masks: Tower
    texts: Tower
    logit_scale: float

    def save(self, path: Path) -> None:
        """Write the adapter and its card as one safetensors file."""
        tensors = {
            "masks.down": self.masks.down_DR,
            "masks.up": self.masks.up_RD,
            "texts.down": self.texts.down_DR,
            "texts.up": self.texts.up_RD,
            "logit_scale": np.array([self.logit_scale]),
        }
        written = {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
        save_file(written, path, metadata={"card": json.dumps(self.card.as_dict())})

    @staticmethod
    def load(path: Path) -> Adapter:
        """Load a file of `save`.

        Raises:
            AdapterError: the file is missing or damaged, or is no adapter.
        """
        try:
            with safe_open(str(path), framework="numpy") as file:
                card = AdapterCard(**json.loads((file.metadata() or {})["card"]))
            found = load_file(str(path))
            masks = Tower(found["masks.down"], found["masks.up"])
            texts = Tower(found["texts.down"], found["texts.up"])
            return Adapter(card, masks, texts, float(found["logit_scale"][0]))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise AdapterError(f"{path} is not a readable adapter: {error}") from error


class AdaptedEncoder:
    """A CLIP with an adapter: an encoder of masks and texts as ClipEncoder is.

    Raises:
        AdapterError: the adapter was trained on vectors of another encoder.
    """

    def __init__(self, encoder: ClipEncoder, adapter: Adapter) -> None:
        if adapter.card.encoder != encoder.version:
            raise AdapterError(
                f"adapter {adapter.card.version} changes vectors of {adapter.card.encoder}, "
                f"not of {encoder.version}"
            )
        self._encoder, self._adapter = encoder, adapter
        self.name, self.dimensions = encoder.name, encoder.dimensions
        self.version = f"{encoder.version}+{adapter.card.version}"
        self.logit_scale = adapter.logit_scale

    def encode(self, image_HWC: np.ndarray, rles: Sequence[RLE]) -> np.ndarray:
        """See MaskEncoder."""
        return self._adapter.masks(self._encoder.encode(image_HWC, rles)).astype(np.float16)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """See TextEncoder."""
        return self._adapter.texts(self._encoder.encode_texts(texts))
