"""Released images with their masks, for training in PyTorch: docs/formats.md."""

from engine.data.loader import MaskLoader
from engine.data.mask_dataset import MaskDataset, MaskStream, collate

__all__ = ["MaskDataset", "MaskLoader", "MaskStream", "collate"]
