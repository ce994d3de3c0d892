"""Import of images, annotations and model weights."""
