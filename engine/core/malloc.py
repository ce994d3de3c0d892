"""How the C library hands out memory.

glibc gives each thread an arena of its own, and large pieces straight from the kernel, zeroed page
by page every time. Mask generation takes and frees some megabytes in every operation, on several
threads: a fifth of its time went into that.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""Parameters of mallopt, from malloc.h."""


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, in one arena for all threads; call it before there are
    threads. The memory it holds stays at the highest it ever needed.

    Returns:
        Whether it could: with glibc only.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    options = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))
    return [mallopt(option, value) for option, value in options] == [1, 1, 1]
