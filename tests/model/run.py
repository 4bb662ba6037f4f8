#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Check the Spin models and their mutants.  Prints TAP.

A model must be searched completely and without an error.  A mutant must fail,
and for the reason that is written down here.

  run.py [--only NAME] [--deep]

NAME is a part of a test's name: a model ("ring") or a mutant ("NO_PROBE").
--deep gives the models (not the mutants) more calls; it takes minutes and up
to 4 GB of memory.
"""

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
JOBS = 2
LIMIT_S = 120
HANG = "invalid end state"

# model: ([option sets that must pass], {mutant: reason}, options for --deep)
# A mutant may be followed by further options.
MODELS = {
    "gate": (
        ["", "STRICT"],
        {
            "SEQ_AFTER_READ": "ORDERED",
            "NO_FENCE": "ORDERED",
            "EVEN_BEFORE_STARTED": "ORDERED",
            "EVEN_AFTER_FIRST": "ORDERED",
            "ENDED_BEFORE_RECORD": "DRAINED",
            "STRIPE_BEFORE_GATE": "ORDERED",
            "VERSION_AFTER_READ": "ORDERED",
            "VERSION_RELOADED": "DRAINED",
            "NO_PROBE STRICT": "STRICT_",
            "PROBE_AFTER_GATE STRICT": "STRICT_",
        },
        "CALLS=3",
    ),
    "move": (
        [""],
        {
            "ALWAYS": "MOVED",
            "NOW_ONLY": "MOVED",
            "THEN_ONLY": "MOVED",
        },
        "CALLS=7",
    ),
    "remove": (
        [""],
        {
            "ENDED_AT_READ": "REMOVE",
            "END_WHEN_UNCHANGED": "REMOVE",
            "ANY_STOP_ENDS_ALL": "REMOVE",
            "SEQ_AFTER_READ": "REMOVE",
            "WAIT_IN_LINE": HANG,
            "NOT_LET_GO": HANG,
        },
        "CALLS=4",
    ),
    "ring": (
        [""],
        {
            "DROP_SILENTLY": "DRAINED",
            "CLEAR_FIRST": "DRAINED",
            "FLAG_AFTER_ENDED": "DRAINED",
            "DRAIN_THEN_FLAG": "DRAINED",
            "TAIL_BEFORE_SLOT": "NO_GAP",
            "HEAD_BEFORE_SLOT": "NO_GAP",
            "JUMP_QUEUE": "NO_LOSS",
            "SLEEP_IGNORES_FLAG": HANG,
            "NO_OVERFLOW_WAKE": HANG,
            "WAKE_BEFORE_CLEAR": HANG,
            "NO_KICK": HANG,
            "NO_CONSUMER_FENCE": HANG,
            "NO_PRODUCER_FENCE": HANG,
        },
        "CHANGES=5",
    ),
    "table": (
        [""],
        {
            "NO_WHERE": "OWN",
            "NO_RECHECK": "OWN",
            "NO_ODD": "OWN",
            "EVEN_FIRST": "OWN",
            "NO_ZERO": "ALIVE",
            "SAME_GEN": "OWN",
        },
        "STEPS=7",
    ),
    "wake": (
        [""],
        {
            "NO_CONSUMER_FENCE": HANG,
            "NO_PRODUCER_FENCE": HANG,
            "NO_RECHECK": HANG,
            "SAME_GEN": HANG,
            "FLAG": HANG,
            "LATE_CLEAR": HANG,
            "EVERY_TIME": "ONCE",
        },
        "RECORDS=6",
    ),
    "death": (
        ["", "STRICT", "NO_COPY"],
        {
            "NO_LIFE_CHECK": "ORDERED",
            "NO_LIFE_CHECK STRICT": "STRICT_",
            "LIFE_AFTER_FILES": "ORDERED",
            "LIFE_AFTER_FILES NO_COPY": "ORDERED",
            "NO_LIFELINE": HANG,
            "LIFELINE_ONCE": HANG,
            "LIFELINE_DROPS": HANG,
            "LIFELINE_EARLY": "ORDERED",
            "WAIT_IGNORES_DEATH": HANG,
        },
        "CALLS=3",
    ),
    "restart": (
        ["", "STRICT", "SAME_LIVE", "REMOVE", "KILLS=2 CALLS=1", "KILLS=2 CALLS=1 REMOVE"],
        {
            "LIFE_FIRST": "ORDERED",
            "LIFE_FIRST STRICT": "STRICT_",
            "NO_COUNT": "ORDERED",
            "NO_COUNT SAME_LIVE": "ORDERED",
            "NO_OVERFLOW": "ORDERED",
            "ONLY_SEQ": "ORDERED",
            "OVERFLOW_LATE": "ORDERED",
            "EVEN_FIRST KILLS=2": "ORDERED",
            "ENDED_FIRST KILLS=2": "ORDERED",
            "STAYS_ODD": HANG,
            "NOT_READ": HANG,
            "END_UNPROVEN REMOVE": "ORDERED",
        },
        "TWO",
    ),
}


def tests(deep):
    """Yield (name, model, options, reason); reason None: must pass."""
    for model, (variants, _, more) in MODELS.items():
        for variant in variants:
            options = variant.split() + ([more] if deep else [])
            yield " ".join([model] + options), model, options, None
    for model, (_, mutants, _) in MODELS.items():
        for mutant, reason in mutants.items():
            options = ("MUTANT_" + mutant).split()
            yield " ".join([model] + options), model, options, reason


def command(argv, where, limit):
    """Run argv; return (exit status or None when it took too long, output)."""
    try:
        done = subprocess.run(argv, cwd=where, timeout=limit,
                              stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT,
                              universal_newlines=True)
    except subprocess.TimeoutExpired as late:
        out = late.stdout or ""
        if isinstance(out, bytes):
            out = out.decode(errors="replace")
        return None, out + "\ntook more than %d s" % limit
    return done.returncode, done.stdout


def search(model, options, deep):
    """Build and run one verifier; return (problem or None, its output)."""
    with tempfile.TemporaryDirectory(prefix="mirror-model-") as where:
        shutil.copy(os.path.join(HERE, model + ".pml"), where)
        status, out = command(
            ["spin", "-a"] + ["-D" + o for o in options] + [model + ".pml"],
            where, LIMIT_S)
        if status != 0 or "Error" in out:
            return "spin -a failed", out
        status, out = command(
            ["gcc", "-O2", "-w", "-DSAFETY", "-DCOLLAPSE",
             "-DMEMLIM=%d" % (6000 if deep else 1000), "-o", "pan", "pan.c"],
            where, LIMIT_S)
        if status != 0:
            return "gcc failed", out
        status, out = command(["./pan", "-m100000"], where,
                              1800 if deep else LIMIT_S)
        if status != 0:
            return "pan failed", out
        return None, out


def verdict(reason, out):
    """Return None if the output is what was expected, else what is not."""
    for sign in ("max search depth too small", "MEMLIM", "out of memory",
                 "aborting", "took more than"):
        if sign in out:
            return "the search was cut short: " + sign
    if reason is None and "Search not completed" in out:
        return "the search was not completed"
    errors = re.search(r"errors: (\d+)", out)
    if not errors:
        return "no count of errors"
    found = re.findall(r"^pan:\d+: (.*) \(at depth", out, re.M)
    if reason is None:
        if errors.group(1) != "0" or found:
            return "fails: " + "; ".join(found)
        return None
    if errors.group(1) == "0":
        return "the mutant passes"
    wanted = reason if reason == HANG else "assertion violated " + reason
    if found != [wanted]:
        return "expected '%s', got '%s'" % (wanted, "; ".join(found))
    return None


def check(test, deep):
    name, model, options, reason = test
    problem, out = search(model, options, deep and reason is None)
    if problem is None:
        problem = verdict(reason, out)
    stored = re.search(r"(\S+) states, stored", out)
    return problem, stored.group(1) if stored else "?", out


def main():
    parser = argparse.ArgumentParser(description="check the Spin models")
    parser.add_argument("--only", metavar="NAME", default="",
                        help="only tests with NAME in their name")
    parser.add_argument("--deep", action="store_true",
                        help="search further; takes minutes")
    args = parser.parse_args()

    for tool in ("spin", "gcc"):
        if not shutil.which(tool):
            print("1..0 # SKIP %s is not installed" % tool)
            return 77

    todo = [t for t in tests(args.deep) if args.only in t[0]]
    if not todo:
        print("Bail out! no test is named like '%s'" % args.only)
        return 1
    print("1..%d" % len(todo), flush=True)
    bad = 0
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        results = pool.map(lambda t: check(t, args.deep), todo)
        for number, (test, result) in enumerate(zip(todo, results), 1):
            name, _, _, reason = test
            problem, states, out = result
            if reason is not None:
                name += " fails with '%s'" % reason
            print("%sok %d - %s" % ("not " if problem else "", number, name))
            if problem:
                bad += 1
                print("# " + problem)
                for line in out.splitlines()[:60]:
                    print("#   " + line)
            elif reason is None:
                print("# %s states" % states)
            sys.stdout.flush()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
