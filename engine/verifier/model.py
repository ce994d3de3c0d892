"""The learned verifier: logistic regression on a mask's features, and its file.

A verifier has one head that learned from all images, and one for each of FOLDS groups of images
that never saw that group. So the probability that it would give a mask of an unknown image is known
for every judged mask, also for those that it learned from: by the head of the mask's fold.

N = masks, F = features, K = heads: FOLDS, and the last one, which saw all images.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from engine.core.errors import DataEngineError
from engine.verifier.features import NAMES, Picture, features

ARCHITECTURE = "verifier-logistic"

FOLDS = 5
WHOLE = FOLDS
"""Number of the head that learned from all images."""

CLIP = 5.0
"""Standardised features are clipped to this."""


class Verifier(Protocol):
    """Judges masks: a learned one, or any other, such as a vision-language model."""

    @property
    def version(self) -> str:
        """Name of the model version."""
        ...

    def probabilities(self, picture: Picture) -> np.ndarray:
        """Return for each mask the probability that a reviewer accepts it, float64 (N,)."""
        ...


class VerifierFileError(DataEngineError):
    """The file is not a verifier of this code: train one with `dataengine verifier train`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifierCard:
    """Metadata of one verifier."""

    version: str
    segmenter: str
    """Model version whose image embeddings it reads."""
    architecture: str = ARCHITECTURE
    parent: str | None = None
    """The verifier that was current before."""
    table_version: int | None = None
    """Mask-table version of the judged masks."""
    data: dict[str, Any] = field(default_factory=dict)
    """Dataset, and numbers of verdicts and images."""
    scores: dict[str, Any] = field(default_factory=dict)
    promotion: dict[str, Any] = field(default_factory=dict)
    """The comparison that decided on promotion."""
    seconds: float = 0.0
    """Wall time of the training, without features."""
    code_version: str = ""
    created_at: str = ""
    note: str = ""
    features: tuple[str, ...] = NAMES

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "features": list(self.features)}


@dataclass(frozen=True, slots=True)
class Heads:
    """Weights of a verifier, float64.

    Attributes:
        mean_F, scale_F: of the features, for standardisation.
        weights_KF, offset_K: from standardised features to log-odds.
        calibration_2: slope and offset from a head's log-odds to calibrated ones.
    """

    mean_F: np.ndarray
    scale_F: np.ndarray
    weights_KF: np.ndarray
    offset_K: np.ndarray
    calibration_2: np.ndarray

    def log_odds(self, features_NF: np.ndarray, head_N: np.ndarray) -> np.ndarray:
        """Return log-odds of acceptance by the given heads, before calibration, float64 (N,)."""
        given_NF = standardised(features_NF, self.mean_F, self.scale_F)
        return np.asarray((given_NF * self.weights_KF[head_N]).sum(axis=1) + self.offset_K[head_N])


def standardised(features_NF: np.ndarray, mean_F: np.ndarray, scale_F: np.ndarray) -> np.ndarray:
    """Return features of mean 0 and deviation 1, float64 (N, F); 0 where they are NaN."""
    scaled = (features_NF.astype(np.float64) - mean_F) / scale_F
    return np.asarray(np.clip(np.nan_to_num(scaled), -CLIP, CLIP))


def sigmoid(log_odds: np.ndarray) -> np.ndarray:
    """Return probabilities in (0, 1)."""
    return np.asarray(1 / (1 + np.exp(-np.clip(log_odds, -30, 30))))


class LearnedVerifier:
    """A verifier of this project. Implements `Verifier`."""

    def __init__(self, heads: Heads, card: VerifierCard) -> None:
        self.heads = heads
        self.card = card

    @property
    def version(self) -> str:
        """Name of the model version."""
        return self.card.version

    def probabilities(self, picture: Picture) -> np.ndarray:
        """Return for each mask the probability that a reviewer accepts it, float64 (N,)."""
        found = features(picture)
        return self.of_features(found, np.full(len(found), WHOLE))

    def of_features(self, features_NF: np.ndarray, head_N: np.ndarray) -> np.ndarray:
        """Return the probabilities of masks by the given heads, float64 (N,)."""
        slope, offset = self.heads.calibration_2
        return sigmoid(slope * self.heads.log_odds(features_NF, head_N) + offset)


def save_verifier(verifier: LearnedVerifier, path: Path) -> None:
    """Write weights and card as one safetensors file."""
    tensors = {
        name: np.ascontiguousarray(getattr(verifier.heads, name)) for name in Heads.__slots__
    }
    card = json.dumps(verifier.card.as_dict(), sort_keys=True)
    save_file(tensors, path, metadata={"card": card})


def load_verifier(path: Path) -> LearnedVerifier:
    """Read the file of a verifier.

    Raises:
        VerifierFileError: it is not one, or it reads other features than this code computes.
    """
    try:
        with safe_open(str(path), framework="np") as file:
            stored = json.loads((file.metadata() or {})["card"])
        tensors = load_file(str(path))
        card = VerifierCard(**{**stored, "features": tuple(stored["features"])})
        heads = Heads(**tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise VerifierFileError(f"{path} is not a verifier: {error!r}") from error
    if card.features != NAMES:
        raise VerifierFileError(
            f"{path} reads other features than this version of the software computes; "
            "train a new one with `dataengine verifier train`"
        )
    return LearnedVerifier(heads, card)
