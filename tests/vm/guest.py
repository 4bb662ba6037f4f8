#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Inside the virtual machine: runs the programs of plan.json, one after the other.

What they say in TAP, and how they end, goes to the host as one list of tests.
"""
import glob
import json
import os
import re
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
RESULT = re.compile(r"^(not ok|ok)\b *\d* *(?:- *)?(.*)$")
PLAN = re.compile(r"^1\.\.(\d+)(?: *# *SKIP *(.*))?$", re.I)
KILLED_S = 10
PURPOSE = "mirror-vm: from here on, on purpose"


def translate(title, output, status):
    """Lines of TAP without numbers: of a program's output and exit status."""
    planned, results, bad = None, 0, 0
    for line in output.splitlines():
        plan, result = PLAN.match(line), RESULT.match(line)
        if plan:
            planned = int(plan.group(1))
            if planned == 0 and status in (0, 77):
                yield f"ok - {title} # SKIP {plan.group(2) or 'no reason given'}"
                return
        elif result:
            results += 1
            bad += result.group(1) != "ok"
            yield f"{result.group(1)} - {title}: {result.group(2)}"
        else:
            yield line if line.startswith("# SKIP ") else f"#   {line}"
    if status == 77 and not results:
        why = re.search(r"^skip\w*\W*(.*)$", output, re.M | re.I)
        yield f"ok - {title} # SKIP {why.group(1) if why else 'no reason given'}"
    elif status is None:
        yield f"not ok - {title}: took too long"
    elif status and not bad:
        yield f"not ok - {title}: exit status {status}"
    elif planned is not None and results != planned:
        yield f"not ok - {title}: {results} results of {planned}"
    elif not results:
        yield f"ok - {title}"


def run(program, limit):
    """Exit status, None if it took too long, and output."""
    env = dict(os.environ, **program["env"])
    child = subprocess.Popen(program["cmd"], env=env, stdin=subprocess.DEVNULL, text=True,
                             errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             start_new_session=True, cwd="/tmp")
    try:
        output, _ = child.communicate(timeout=limit)
        return child.returncode, output
    except subprocess.TimeoutExpired as late:
        where = "".join(blocked())
        os.killpg(child.pid, signal.SIGKILL)
        try:
            output, _ = child.communicate(timeout=KILLED_S)
        except subprocess.TimeoutExpired:
            output = (late.stdout or b"").decode(errors="replace")
        return None, output + where


def blocked():
    """Of what cannot even be killed, where in the kernel it is."""
    for folder in glob.glob("/proc/[0-9]*/task/[0-9]*"):
        try:
            with open(folder + "/stat", encoding="utf-8", errors="replace") as file:
                name, _, rest = file.read().rpartition(")")
            if rest.split()[0] == "D":
                with open(folder + "/stack", encoding="ascii") as file:
                    yield f"{name}) in state D:\n{file.read()}"
        except OSError:
            pass        # it has gone


def complain():
    """Makes the kernel say something bad, to show that the host would see it."""
    with open("/dev/kmsg", "w", encoding="ascii") as file:
        file.write(f"<3>{PURPOSE}\n")
    for path, text in (("/proc/sys/kernel/sysrq", "1"), ("/proc/sysrq-trigger", "l")):
        with open(path, "w", encoding="ascii") as file:
            file.write(text)


def main():
    with open(HERE + "/plan.json", encoding="utf-8") as file:
        plan = json.load(file)
    if plan["shell"]:
        subprocess.run(["/bin/bash", "-i"], check=False)
        return
    with open(glob.glob("/dev/vport*p1")[0], "w", encoding="utf-8", buffering=1) as port:
        print(f"# booted after {time.monotonic():.0f} s", file=port)
        end = time.monotonic() + plan["limit"]
        for program in plan["programs"]:
            left, start = end - time.monotonic(), time.monotonic()
            if left < 5:
                print(f"not ok - {program['title']}: no time is left for it", file=port)
                continue
            status, output = run(program, min(program["timeout"], left))
            for line in translate(program["title"], output, status):
                print(line, file=port)
            print(f"# {program['title']}: {time.monotonic() - start:.1f} s", file=port)
        complain()
        print("# end", file=port)


SAMPLES = [
    # output, exit status, results that count as good, bad, skipped
    ("1..2\nok 1 - a:b:c: Passed\nok 2 - d\n", 0, 2, 0, 0),
    ("1..2\nok 1 - a\nnot ok 2 - d\n", 1, 1, 1, 0),
    ("1..3\nok 1 - a\nok 2 - b\n", 0, 2, 1, 0),
    ("1..2\nok 1 - a\n", -11, 1, 1, 0),
    ("1..2\nok 1 - a\n", None, 1, 1, 0),
    ("ok 1 - a # SKIP no such thing\n1..1\n", 0, 0, 0, 1),
    ("1..0 # SKIP nothing here\n", 77, 0, 0, 1),
    ("1..0 # SKIP nothing here\n", 1, 0, 1, 0),
    ("skip: not here\n", 77, 0, 0, 1),
    ("hello\n", 0, 1, 0, 0),
    ("hello\n", 1, 0, 1, 0),
]


def self_test():
    failed = 0
    for output, status, *wanted in SAMPLES:
        lines = [line for line in translate("t", output, status) if not line.startswith("#")]
        skips = sum("# SKIP" in line for line in lines)
        bad = sum(line.startswith("not ok") for line in lines)
        got = [len(lines) - skips - bad, bad, skips]
        print("ok" if got == wanted else "FAIL", repr(output), status, got)
        failed += got != wanted
    return failed


if __name__ == "__main__":
    sys.exit(self_test() if sys.argv[1:] == ["--self-test"] else main())
