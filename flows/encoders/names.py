"""Names of encoders."""

PUBLISHED_CLIP = "clip:ViT-B-32/laion2b_s34b_b79k"
"""The CLIP of commands that need one, unless another is named."""
