"""Measurements of speed, memory and quality, which are run by hand."""
