"""Access, limits, secrets and advisories."""
