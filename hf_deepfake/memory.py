"""How the process deals with memory that networks free on a CPU."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of mallopt(3)


def keep_freed_memory() -> None:
    """Let glibc keep what each batch frees instead of handing it back and faulting it in again for the next batch.

    Training and scoring on a CPU spend much of their time on those page faults; `benchmarks/freed_memory.py` measures how
    much. All threads share one arena, so that what one of them has freed serves the others.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            libc.mallopt(option, 2**31 - 1)
