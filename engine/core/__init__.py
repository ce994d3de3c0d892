"""Records, run lengths, boxes, clicks and metrics; numpy only, no torch."""
