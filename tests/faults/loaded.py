"""What the process that workers are forked from loads once."""

from tests.faults.shard_worker import shipped_segmenter

shipped_segmenter()
