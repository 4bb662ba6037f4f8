#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The example regcache: registrations are found again, and never when they are stale.

usage: regcache.py REGCACHE
"""
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "scenario"))
import private          # noqa: E402

REUSES = 20000


def main():
    tap = private.Tap()
    private.watchdog(100)
    with private.directory() as folder:
        with private.daemon(os.environ["MIRROR_DAEMON"], folder) as daemon:
            done = subprocess.run(
                [sys.argv[1], str(REUSES)], env={**os.environ, "MIRROR_SOCKET": daemon.socket},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=90)
    said = re.fullmatch(r"(\d+) hits, (\d+) misses, (\d+) stale\n", done.stdout)
    if tap.ok(said, "it says what happened", done.stdout):
        hits, misses, stale = map(int, said.groups())
        tap.ok(stale == 0, "none was stale", stale)
        tap.ok(misses == REUSES, "each buffer is registered once", misses)
        tap.ok(hits == REUSES, "and found once more", hits)
    tap.ok(done.returncode == 0, "it ends well", done.returncode)
    tap.end()


if __name__ == "__main__":
    main()
