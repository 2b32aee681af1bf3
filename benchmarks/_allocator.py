"""A warm allocator: the C library keeps what it is given back.

By default glibc returns large blocks to the system, so that a method which allocates much pays for page faults, and
methods that save memory look faster than they are.
"""

import ctypes
import os
import sys

WARM = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**34)}


def keep_warm() -> None:
    """Start this script again with the allocator's variables set, unless they are."""
    if all(name in os.environ for name in WARM):
        return
    print("Starting again with", " ".join(f"{name}={value}" for name, value in WARM.items()), flush=True)
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **WARM})


def give_back() -> None:
    """Return what is free to the system after all, between measurements: blocks of many sizes leave holes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
