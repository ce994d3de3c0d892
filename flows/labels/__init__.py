"""Names for masks: category lists, labels, and how many masks have which."""
