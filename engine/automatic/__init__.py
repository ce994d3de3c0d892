"""The automatic mask generator: presets, crops, filters, NMS, post-processing."""

from engine.automatic.config import GeneratorConfig, preset
from engine.automatic.generator import GeneratedMask, MaskGenerator

__all__ = ["GeneratedMask", "GeneratorConfig", "MaskGenerator", "preset"]
