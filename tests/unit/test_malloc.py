"""Settings of the memory allocator."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from engine.core.malloc import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
np.ones(4_000_000)  # 32 MB: taken once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(4_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_not_requested_from_the_kernel_again() -> None:
    faults = {
        mode: int(subprocess.check_output([sys.executable, "-c", SCRIPT, mode], text=True))
        for mode in ("keep", "default")
    }
    assert faults["keep"] < faults["default"] / 4
