"""Training inside the loop: training set, retrain, thresholds, scores, promotion."""
