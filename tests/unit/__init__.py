"""Unit tests of engine, storage and flows."""
