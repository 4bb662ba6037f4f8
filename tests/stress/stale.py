#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The classic bug of registration caches: there without libmirror, gone with it.

usage: stale.py STALE-LOOKUP [--some|--full]

Drives the example stale-lookup, which reuses an address and counts the lookups that
gave an old translation.
"""
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "scenario"))
import private          # noqa: E402

# What the last one finds proves that the test can: without the probe, a lookup in
# another thread is not covered, and goes wrong while the daemon has not read the event.
# How long that takes is the machine's affair, so there the daemon stutters.
RUNS = (
    ("plain", 1, "> 0"),
    ("plain", 2, "> 0"),
    ("mirror", 1, "== 0"),
    ("strict", 1, "== 0"),
    ("strict", 2, "== 0"),
    ("mirror", 2, "> 0"),
)
QUICK, SOME, FULL = 20000, 60000, 1000000
TIMEOUT = {QUICK: 100, SOME: 200, FULL: 500}


def run(path, where, cache, threads, reuses):
    done = subprocess.run(
        [path, f"--cache={cache}", f"--threads={threads}", f"--reuses={reuses}", "--json"],
        env={**os.environ, "MIRROR_SOCKET": where}, stdin=subprocess.DEVNULL, check=True,
        stdout=subprocess.PIPE, timeout=TIMEOUT[reuses])
    return json.loads(done.stdout)


@contextlib.contextmanager
def stutter(pid):
    """The daemon stands still every other millisecond: it reads late."""
    done = threading.Event()

    def stop_and_go():
        while not done.wait(0.001):
            os.kill(pid, signal.SIGSTOP)
            done.wait(0.001)
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def main():
    path, size = sys.argv[1], sys.argv[2:]
    reuses = FULL if "--full" in size else SOME if "--some" in size else QUICK
    tap = private.Tap()
    private.watchdog(240 if reuses < FULL else 900)
    with private.directory() as folder:
        with private.daemon(os.environ["MIRROR_DAEMON"], folder) as daemon:
            for cache, threads, wanted in RUNS:
                # what is proven in few is proven
                n = reuses if wanted == "== 0" else QUICK
                late = (cache, wanted) == ("mirror", "> 0")
                with stutter(daemon.pid) if late else contextlib.nullcontext():
                    got = run(path, daemon.socket, cache, threads, n)
                good = got["stale"] == 0 if wanted == "== 0" else got["stale"] > 0
                good = good and got["reuses"] == n and got["hits"] >= n
                tap.ok(good, f"{cache}, {threads} threads, {n} reuses: stale {wanted}", got)
                print(f"# {got}", flush=True)
    tap.end()


if __name__ == "__main__":
    main()
