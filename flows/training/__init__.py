"""Training inside the loop: what a retrain trains on, thresholds, scores, promotion; the base
model's photographs.
"""
