"""Encoders of masks and of words, as a workspace and a dataset use them."""
