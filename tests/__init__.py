"""Tests, by kind; fixtures that several kinds share."""
