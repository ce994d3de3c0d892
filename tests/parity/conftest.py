"""The packages that the engine is compared with import torchvision."""

from __future__ import annotations

from engine.sam.torchvision_ops import ensure_torchvision

ensure_torchvision()
