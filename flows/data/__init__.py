"""Data in: images and annotations, and models from elsewhere."""
