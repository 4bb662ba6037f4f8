#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Manual pages are clean for mandoc and for man, and say what everybody looks for.

usage: man.py ROOT | --self-test
"""
import concurrent.futures
import os
import re
import shutil
import sys
import tempfile

import lint

SECTIONS = {
    "1": ["NAME", "SYNOPSIS", "DESCRIPTION", "SEE ALSO"],
    "3": ["NAME", "SYNOPSIS", "DESCRIPTION", "RETURN VALUE", "SEE ALSO"],
    "4": ["NAME", "SYNOPSIS", "DESCRIPTION", "FILES", "SEE ALSO"],
    "5": ["NAME", "DESCRIPTION", "SEE ALSO"],
    "7": ["NAME", "DESCRIPTION", "SEE ALSO"],
    "8": ["NAME", "SYNOPSIS", "DESCRIPTION", "SEE ALSO"],
}
# mandoc does not know the pages of this project and of the system as installed.
IGNORED = re.compile(r"referenced manual not found|cross reference to self|missing date"
                     r"|operating system explicitly|unterminated quoted argument: Os")


def render(tree, page):
    """What man has to say when it shows the page; an alias is found as installed."""
    path = os.path.join(tree, f"man{page[-1]}", page)
    show = 'cd "$0" && man --warnings -E UTF-8 -Tutf8 -Z -l "$1" 2>&1 >/dev/null'
    return lint.run("sh", "-c", show, tree, path, env={**os.environ, "LC_ALL": "C.UTF-8",
                                                        "MANWIDTH": "80"})[1]


def rendered(root, paths):
    with tempfile.TemporaryDirectory() as tree:
        for path in paths:
            folder = os.path.join(tree, f"man{path[-1]}")
            os.makedirs(folder, exist_ok=True)
            shutil.copy(os.path.join(root, path), folder)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            said = pool.map(lambda path: render(tree, os.path.basename(path)), paths)
            for path, lines in zip(paths, said):
                for line in lines.splitlines():
                    yield f"{path}: man says: {line.replace(tree + '/', '')}"


def check(root):
    paths = list(lint.files(root, *(f".{s}" for s in SECTIONS), under="man"))
    yield from rendered(root, paths)
    for path in paths:
        text = lint.read(root, path)
        alias = re.match(r"\.so man\d/(\S+)\n$", text)
        if alias:
            if not os.path.isfile(os.path.join(root, "man", alias.group(1))):
                yield f"{path}: {alias.group(1)} is not there"
            continue
        output = lint.run("mandoc", "-T", "lint", "-W", "warning", os.path.join(root, path))[1]
        for line in output.splitlines():
            if not IGNORED.search(line):
                yield line.replace(root + "/", "")
        headings = re.findall(r'^\.S[Hh] "?(.*?)"?$', text, re.M)
        for heading in SECTIONS[path[-1]]:
            if heading not in headings:
                yield f"{path}: no {heading}"


PAGE = """.TH A 3 2026-01-01 "mirrord 0.1" "Library Functions"
.SH NAME
a \\- b
.SH SYNOPSIS
.B a
.SH DESCRIPTION
Text.
.SH RETURN VALUE
0.
.SH SEE ALSO
.BR b (3)
"""

SAMPLES = [
    lint.Sample("good", {"man/a.3": PAGE, "man/b.3": ".so man3/a.3\n"}),
    lint.Sample("no section", {"man/a.3": PAGE.replace("RETURN VALUE", "RETURNS")},
                "no RETURN VALUE"),
    lint.Sample("unknown macro", {"man/a.3": PAGE + ".XYZ\n"}, "XYZ"),
    lint.Sample("unclosed", {"man/a.3": PAGE + ".RS\ntext\n"}, "RS"),
    lint.Sample("bad for man", {"man/a.3": PAGE + "A\\ B" * 40 + "\n"}, "man says"),
    lint.Sample("broken alias", {"man/b.3": ".so man3/a.3\n"}, "a.3 is not there"),
]

if __name__ == "__main__":
    for tool in ("mandoc", "man"):
        if not shutil.which(tool):
            print(f"skip: {tool} is not installed")
            sys.exit(77)
    lint.main(check, SAMPLES)
