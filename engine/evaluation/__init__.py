"""Evaluation: click protocol, average recall and precision, intervals, threshold calibration."""
