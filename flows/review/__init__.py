"""Review: samples for reviewers, verdicts, rescoring of old masks, triggers of retrains."""
