"""The promptable model: architectures, checkpoints, segmenter, tiles; imports segment_anything."""

from engine.sam.checkpoint import ModelCard, Thresholds, load_checkpoint, load_sam, save_checkpoint
from engine.sam.segmenter import Embedding, Outputs, Prediction, Segmenter, load_segmenter

__all__ = [
    "Embedding",
    "ModelCard",
    "Outputs",
    "Prediction",
    "Segmenter",
    "Thresholds",
    "load_checkpoint",
    "load_sam",
    "load_segmenter",
    "save_checkpoint",
]
