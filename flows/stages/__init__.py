"""The three stages of the data engine: what makes masks, here or on Ray."""
