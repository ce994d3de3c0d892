"""The automatic mask generator."""

from engine.automatic.config import GeneratorConfig
from engine.automatic.generator import GeneratedMask, MaskGenerator

__all__ = ["GeneratedMask", "GeneratorConfig", "MaskGenerator"]
