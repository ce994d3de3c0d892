"""The annotation app over HTTP, without a browser."""
