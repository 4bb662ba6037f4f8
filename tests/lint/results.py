#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts the results of meson tests, for ./check.

usage: results.py STAGE STATUS RESULTS EXPECTED OUTPUT TALLY | --self-test

STATUS is the exit status of one `meson test`, the file RESULTS what it wrote as
json, EXPECTED the list of the tests it should have run, OUTPUT what it printed.
Prints the end of the output of each failed test and the reason of each skipped
one, and adds a line "passed failed skipped" to the file TALLY.

A test counts as one.  One that speaks TAP counts as its subtests, and as one
more failure if it ends badly without saying which subtest did.
"""
import json
import re
import sys

TAIL = 30
GOOD = ("OK", "EXPECTEDFAIL")
TAP = re.compile(r"^\s*(not )?ok\b[ \t]*(\d*)[ \t]*(?:- )?([^#\n]*)(?:#\s*(SKIP|TODO)\S*\s*(.*))?$",
                 re.I | re.M)


class Count:
    def __init__(self):
        self.passed, self.failures, self.skips = 0, [], []

    def numbers(self):
        return self.passed, len(self.failures), len(self.skips)


def tail(entry):
    text = entry.get("stdout", "").rstrip() + "\n" + entry.get("stderr", "").rstrip()
    return text.strip().splitlines()[-TAIL:]


def reason(entry):
    """Of a skipped test: what it says after "skip", else its last line."""
    lines = tail(entry)
    for line in lines:
        match = re.match(r"(?:1\.\.0\s*#\s*)?skip\w*\W*(.*)", line.strip(), re.I)
        if match and match.group(1):
            return match.group(1)
    return lines[-1] if lines else "no reason given"


def count_tap(count, name, entry):
    """True if it was a list of subtests."""
    stdout = entry.get("stdout", "")
    if not re.search(r"^1\.\.[1-9]", stdout, re.M):
        return False
    failed = len(count.failures)
    # part of a subtest that passed otherwise
    for what, why in re.findall(r"^# SKIP ([^:\n]+): (.*)$", stdout, re.M):
        count.skips.append((f"{name}: {what}", why))
    for bad, number, title, directive, why in TAP.findall(stdout):
        title = f"{name}: {title.strip() or number}"
        if directive.upper() == "SKIP":
            count.skips.append((title, why or "no reason given"))
        elif bad and directive.upper() != "TODO":
            count.failures.append((title, []))
        else:
            count.passed += 1
    if len(count.failures) > failed:
        title = count.failures[failed][0]
        count.failures[failed] = (title, tail(entry))
    elif entry["result"] not in GOOD + ("SKIP",):
        count.failures.append((f"{name}: {entry['result'].lower()}", tail(entry)))
    return True


def count_entry(count, entry):
    name, result = entry["name"].replace("mirrord:", ""), entry["result"]
    if count_tap(count, name, entry):
        return
    if result in GOOD:
        count.passed += 1
    elif result == "SKIP":
        count.skips.append((name, reason(entry)))
    else:
        title = f"{name}: {result.lower()}, exit status {entry.get('returncode')}"
        count.failures.append((title, tail(entry)))


def count_all(log, status, expected, output=""):
    count, names = Count(), []
    for line in log.splitlines():
        entry = json.loads(line)
        names.append(entry["name"])
        count_entry(count, entry)
    missing = len(expected) - len(names)
    if missing > 0:
        names = {n.split(" / ")[-1] for n in names}
        which = [n for n in expected if n.split(" / ")[-1] not in names]
        for name in (which + ["a test"] * missing)[:missing]:
            count.failures.append((f"{name.replace('mirrord:', '')}: was not run", []))
        count.failures[-1] = (count.failures[-1][0], output.splitlines()[-TAIL:])
    if status and not count.failures:
        count.failures.append((f"meson test ended with {status} and no failed test",
                               output.splitlines()[-TAIL:]))
    if not names and not count.failures:
        count.failures.append(("there is no such test", []))
    return count


def skip_lines(skips):
    """One line for each test and reason; which subtests is in the log."""
    groups = {}
    for title, why in skips:
        name, _, subtest = title.partition(": ")
        groups.setdefault((name, why), []).append(subtest)
    for (name, why), subtests in groups.items():
        if len(subtests) > 1:
            yield f"{name}: {len(subtests)} subtests: {why}"
        else:
            yield f"{name}: {subtests[0]}: {why}" if subtests[0] else f"{name}: {why}"


def colour(number, text):
    return f"\033[{number}m{text}\033[0m" if sys.stdout.isatty() else text


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def main(stage, status, results, expected, output, tally):
    names = [line.strip() for line in read(expected).splitlines() if line.strip()]
    count = count_all(read(results), int(status), names, read(output))
    for line in skip_lines(count.skips):
        print(f"   {colour('33', 'skip')}  {stage}: {line}")
    for title, lines in count.failures:
        print(f"   {colour('31', 'FAIL')}  {stage}: {title}")
        for line in lines:
            print(f"         | {line}")
    with open(tally, "a", encoding="utf-8") as file:
        print(*count.numbers(), file=file)


def entry(name, result, stdout="", returncode=0):
    return json.dumps({"name": name, "result": result, "stdout": stdout,
                       "returncode": returncode}) + "\n"


SAMPLES = [
    # log, exit status, expected tests, passed, failed, skipped
    (entry("a", "OK"), 0, ["a"], 1, 0, 0),
    (entry("a", "FAIL", "x\n", 1), 1, ["a"], 0, 1, 0),
    (entry("a", "TIMEOUT"), 1, ["a"], 0, 1, 0),
    (entry("a", "SKIP", "skip: no such thing\n", 77), 0, ["a"], 0, 0, 1),
    (entry("a", "OK", "1..3\nok 1 - x\nok 2 # SKIP y\nok 3\n"), 0, ["a"], 2, 0, 1),
    (entry("a", "OK", "# SKIP part of it: no such thing\nok 1 - x\n1..1\n"), 0, ["a"], 1, 0, 1),
    (entry("a", "FAIL", "1..2\nok 1 - x\nnot ok 2 - y\n", 0), 1, ["a"], 1, 1, 0),
    (entry("a", "ERROR", "1..2\nok 1 - x\n", 139), 1, ["a"], 1, 1, 0),
    (entry("a", "SKIP", "1..0 # SKIP nothing here\n"), 0, ["a"], 0, 0, 1),
    (entry("a", "OK"), 1, ["a"], 1, 1, 0),
    (entry("a", "OK"), 0, ["a", "b"], 1, 1, 0),
    (entry("a", "OK"), 1, ["a", "b"], 1, 1, 0),
    ("", 1, [], 0, 1, 0),
    ("", 0, [], 0, 1, 0),
]


def self_test():
    bad = 0
    for number, (log, status, expected, *wanted) in enumerate(SAMPLES, 1):
        got = list(count_all(log, status, expected).numbers())
        print("ok " if got == wanted else "FAIL", number, got, "" if got == wanted else wanted)
        bad += got != wanted
    assert list(skip_lines([("a: x", "no"), ("b", "no"), ("a: y", "no"), ("a: z", "off")])) == [
        "a: 2 subtests: no", "b: no", "a: z: off"]
    assert reason({"stdout": "hello\nskip: no such thing\n"}) == "no such thing"
    assert reason({"stdout": "1..0 # SKIP nothing here\n"}) == "nothing here"
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(self_test() if sys.argv[1:] == ["--self-test"] else main(*sys.argv[1:]))
