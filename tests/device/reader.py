#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The example device-reader: a program that knows nothing of mirrord is watched by one that
knows only its device.

usage: reader.py DEVICE-READER PRELOAD-OBJECT PROGRAM
"""
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "scenario"))
import private          # noqa: E402

def tell(target, what):
    target.stdin.write(what + "\n")
    target.stdin.flush()
    return target.stdout.readline() == "done\n"


def wait_for(reader, pattern):
    """The lines up to the one that matches; to the end of all if none does."""
    lines = []
    for line in reader.stdout:
        lines.append(line)
        if re.fullmatch(pattern, line):
            break
    return lines


def watch(tap, device, target, reader_path):
    start, end = target.stdout.readline().split()
    with subprocess.Popen([reader_path, device, str(target.pid)], text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as reader:
        try:
            tap.ok(reader.stdout.readline() == "watching\n", "it watches")
            tap.ok(tell(target, "dontneed"), "the target drops its memory")
            lines = wait_for(reader, rf"\d+ CLEAR dontneed {start}-{end}\n")
            tap.ok(lines and " CLEAR " in lines[-1], "that is told", lines)
            tap.ok(tell(target, "unmap"), "the target unmaps it")
            lines = wait_for(reader, rf"\d+ UNMAP munmap {start}-{end}\n")
            tap.ok(lines and " UNMAP " in lines[-1], "that is told too", lines)
            target.stdin.close()
            tap.ok(target.wait(private.STOP_S) == 0, "the target ends")
            lines = list(reader.stdout)
            tap.ok(lines and " RELEASE " in lines[-1], "RELEASE is the last", lines)
            tap.ok(reader.wait(private.STOP_S) == 0, "and then the reader ends")
        finally:
            private.stop(reader)


def device_of(folder):
    """Options for the daemon, and the device they give.  None: there can be none here."""
    is_cuse = os.environ.get("MIRROR_TEST_TRANSPORT") == "cuse"
    if os.geteuid() or not os.access("/dev/cuse" if is_cuse else "/dev/fuse", os.W_OK):
        return None
    if is_cuse:
        name = f"mirror-reader-{os.getpid()}"
        return ["--cuse", name], "/dev/" + name
    path = os.path.join(folder, "device")
    return ["--fuse", path], path


def main():
    reader_path, preload, program = sys.argv[1:]
    tap = private.Tap()
    private.watchdog(100)
    with private.directory() as folder:
        found = device_of(folder)
        if not found:
            print("1..0 # SKIP only root may make a device, if the kernel has any")
            return
        options, device = found
        with private.daemon(os.environ["MIRROR_DAEMON"], folder, *options) as daemon:
            env = {**os.environ, "LD_PRELOAD": preload, "MIRROR_PRELOAD": "1",
                   "MIRROR_SOCKET": daemon.socket}
            with subprocess.Popen([program], env=env, text=True, stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE) as target:
                try:
                    watch(tap, device, target, reader_path)
                finally:
                    private.stop(target)
    tap.end()


if __name__ == "__main__":
    main()
