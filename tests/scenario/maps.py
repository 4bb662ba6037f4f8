#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A program that uses memory: see scenario.py."""
import ctypes
import mmap
import os

PAGE = mmap.PAGESIZE

m = mmap.mmap(-1, 16 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
at = ctypes.addressof(ctypes.c_char.from_buffer(m))
m[:] = b"x" * len(m)
print(f"pid {os.getpid()}\nrange {at:#x} {at + len(m):#x}", flush=True)
m.madvise(mmap.MADV_DONTNEED, 0, 4 * PAGE)
assert m[0] == 0 and m[4 * PAGE] == ord("x")
m.close()
if not os.fork():
    os._exit(0)
os.wait()
