"""What models say of masks: their vectors, suggested categories, and search."""
