"""Settings of the C library's memory allocator.

glibc gives each thread its own arena and takes large blocks directly from the kernel, which zeroes
every page. Mask generation allocates and frees several megabytes per operation on several threads,
and spent a fifth of its time on this.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Parameters of `mallopt`, from malloc.h."""

_LARGE = 32 << 20
"""Blocks of this size, in bytes, are taken from the kernel: the largest size that glibc accepts.
They are few, and kept ones would leave gaps that smaller blocks then fill."""


def keep_freed_memory() -> bool:
    """Make this process keep freed memory in one arena for all threads.

    Call it before the process starts threads. The process then returns only blocks of _LARGE bytes
    or more to the system.

    Returns:
        True if the allocator accepted the settings, which only glibc does.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    options = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, 2**31 - 1))
    return [mallopt(option, value) for option, value in options] == [1, 1, 1]
