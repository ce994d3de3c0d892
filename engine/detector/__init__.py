"""Stage 2's detector: boxes of objects of any class, from SAM's frozen image embedding."""

from engine.detector.detector import DetectedBoxes, Detector, DetectorCard, DetectorError
from engine.detector.training import DetectorConfig, Example, train_detector

__all__ = [
    "DetectedBoxes",
    "Detector",
    "DetectorCard",
    "DetectorConfig",
    "DetectorError",
    "Example",
    "train_detector",
]
