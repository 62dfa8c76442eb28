"""Freed memory is found again without page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, resource, sys
from jaxcnn.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
size = 1 << 27
def faults():
    pointer = c.malloc(ctypes.c_size_t(size))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    ctypes.memset(pointer, 1, size)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    c.free(ctypes.c_void_p(pointer))
    return after - before
faults()
print(faults())
"""


def faults(mode: str) -> int:
    return int(subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_memory_that_was_freed_is_not_mapped_afresh():
    assert faults("keep") < 10 < faults("leave")
