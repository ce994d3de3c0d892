"""Flows and commands on the embedded defaults."""
