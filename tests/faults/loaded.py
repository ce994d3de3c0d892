"""Imports of the process that workers are forked from."""

from tests.faults.shard_worker import shipped_segmenter

shipped_segmenter()
