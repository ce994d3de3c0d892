"""Releases: a frozen dataset version, its exports and its report."""
