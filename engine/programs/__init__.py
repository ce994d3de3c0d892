"""Visual programs: one call a line over an image, its masks and labels. No torch."""
