"""One suite for every database and object store."""
