"""Formats of files: images, COCO, SA-1B; reading and writing."""
