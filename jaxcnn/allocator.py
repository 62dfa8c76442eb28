"""Memory that a training step frees and needs again is kept: mapping it afresh costs page faults in every step."""

from __future__ import annotations

import ctypes
import platform

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> None:
    """Tells glibc to keep what is freed instead of returning it to the system; elsewhere it does nothing.

    XLA on CPU allocates a step's temporary buffers anew in every step. It must be called before the process starts
    threads, since one arena has to serve them all for the buffers to be found again.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_MMAP_THRESHOLD, 1 << 30)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_ARENA_MAX, 1)
