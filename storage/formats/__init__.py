"""File formats, read and written: images, COCO, SA-1B."""
