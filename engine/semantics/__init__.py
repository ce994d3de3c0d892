"""Names for masks: vectors of masks, categories suggested from them, and search."""
