"""The three stages of the data engine, which make masks, locally or on Ray."""
