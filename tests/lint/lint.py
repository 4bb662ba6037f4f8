# SPDX-License-Identifier: GPL-2.0-or-later
"""What the lint scripts share.

Each script has a function check(root, ...) that yields complaints, and a list
of samples.  It is run twice: on the tree, where it must have no complaint, and
with --self-test on its samples, where it must complain about every bad one and
about no good one: a check that cannot fail proves nothing.
"""
import os
import subprocess
import sys
import tempfile

SKIP = ("shared", "subprojects", "__pycache__")

seen = set()


def files(root, *suffixes, under=""):
    """Paths relative to root, sorted; no build folders and nothing hidden but .ci."""
    top = os.path.join(root, under)
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(f for f in folders
                            if f == ".ci" or not f.startswith((".", "build"))
                            and f not in SKIP)
        for name in sorted(names):
            path = os.path.join(folder, name)
            if (not suffixes or name.endswith(suffixes)) and not os.path.islink(path):
                path = os.path.relpath(path, root)
                seen.add(path)
                yield path


def read(root, path):
    seen.add(path)
    with open(os.path.join(root, path), encoding="utf-8") as file:
        return file.read()


def run(*command, **options):
    """Exit status and all output of a command; no command runs for ever."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
                          **options)
    return done.returncode, done.stdout


class Sample:
    """A small tree, and a part of the complaint it must cause; none if it is good."""

    def __init__(self, name, tree, complaint=None, args=()):
        self.name, self.tree, self.complaint, self.args = name, tree, complaint, args

    def write(self, root):
        for path, text in self.tree.items():
            path = os.path.join(root, path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)

    def fails(self, check):
        with tempfile.TemporaryDirectory() as root:
            self.write(root)
            got = list(check(root, *(a.replace("@ROOT@", root) for a in self.args)))
        if self.complaint is None and got:
            return f"complaints about a good sample: {got}"
        if self.complaint is not None and not any(self.complaint in c for c in got):
            return f"no complaint with '{self.complaint}' about a bad sample, but: {got}"
        return None


def self_test(check, samples):
    bad = 0
    for sample in samples:
        error = sample.fails(check)
        print(f"{'FAIL' if error else 'ok'}  {sample.name}{': ' + error if error else ''}")
        bad += error is not None
    if not any(s.complaint for s in samples):
        print("FAIL  no bad sample")
        bad += 1
    return 1 if bad else 0


def main(check, samples):
    if sys.argv[1:] == ["--self-test"]:
        sys.exit(self_test(check, samples))
    complaints = list(check(*sys.argv[1:]))
    for complaint in complaints:
        print(complaint)
    print(f"{len(seen)} files read, {len(complaints)} complaints")
    if not seen:
        print("nothing was read: wrong folder?")
    sys.exit(1 if complaints or not seen else 0)
