"""Visual programs over a dataset: written, saved, run, and what their results are used for."""
