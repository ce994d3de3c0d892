"""Simulation: generated scenes with exact masks, and the simulated annotator."""
