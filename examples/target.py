#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A program that knows nothing of mirrord and changes its memory in every way
that shows: run it under 'mirrorctl run'.

usage: target.py [PIDFILE FIFO]

With arguments it has some memory, writes its pid to PIDFILE, and waits until somebody
writes to FIFO: to look at it meanwhile."""

import mmap
import os
import subprocess
import sys

PAGE = mmap.PAGESIZE


def say(text):
    """One write a line, past Python's buffers."""
    os.write(1, f"target.py: {text}\n".encode())


def fill(buffer):
    """Have a page behind every address."""
    for at in range(0, len(buffer), PAGE):
        buffer[at] = 1


def change_mappings():
    """What the mmap module can do."""
    buffer = mmap.mmap(-1, 16 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    fill(buffer)

    say("madvise, DONTNEED 4 pages")
    buffer.madvise(mmap.MADV_DONTNEED, 4 * PAGE, 4 * PAGE)
    assert buffer[4 * PAGE] == 0

    say("mremap, shrink to 8 pages")
    buffer.resize(8 * PAGE)

    say("mremap, grow to 4096 pages, which may move it")
    buffer.resize(4096 * PAGE)

    say("munmap")
    buffer.close()


def make_child():
    """A child that goes on with the memory of its parent."""
    buffer = mmap.mmap(-1, 8 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    fill(buffer)

    say("fork")
    child = os.fork()
    if not child:
        say("munmap, in the child")
        buffer.close()
        os._exit(0)
    os.waitpid(child, 0)
    buffer.close()


def run_program():
    """A child that becomes another program."""
    say("run another program")
    subprocess.run([sys.executable, "-S", "-c", "pass"], check=True)


def churn():
    """What any program does: big objects come and go."""
    say("allocate and free 32 MiB")
    for _ in range(4):
        bytearray(8 << 20)


def wait(pidfile, fifo):
    """Half of one buffer is there, and every eighth page of another."""
    dense = mmap.mmap(-1, 1024 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    dense[:512 * PAGE] = bytes(512 * PAGE)
    sparse = mmap.mmap(-1, 1024 * PAGE)
    for at in range(0, len(sparse), 8 * PAGE):
        sparse[at] = 1
    with open(pidfile + "~", "w", encoding="ascii") as file:
        print(os.getpid(), file=file)
    os.rename(pidfile + "~", pidfile)
    with open(fifo, encoding="ascii") as file:
        file.read()


if __name__ == "__main__":
    if len(sys.argv) == 3:
        wait(*sys.argv[1:])
        sys.exit()
    change_mappings()
    make_child()
    run_program()
    churn()
    say("exit")
