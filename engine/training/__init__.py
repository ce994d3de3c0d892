"""Training: samples, losses and the loops that train a promptable model; the base model."""
