"""Review: samples for reviewers, verdicts, the comparison of old masks with a new model, when to
retrain.
"""
