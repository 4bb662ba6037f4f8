#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Manual pages are clean for mandoc, and say what everybody looks for.

usage: man.py ROOT | --self-test
"""
import os
import re
import shutil
import sys

import lint

SECTIONS = {
    "1": ["NAME", "SYNOPSIS", "DESCRIPTION", "SEE ALSO"],
    "3": ["NAME", "SYNOPSIS", "DESCRIPTION", "RETURN VALUE", "SEE ALSO"],
    "7": ["NAME", "DESCRIPTION", "SEE ALSO"],
    "8": ["NAME", "SYNOPSIS", "DESCRIPTION", "SEE ALSO"],
}
# mandoc does not know the pages of this project and of the system as installed.
IGNORED = re.compile(r"referenced manual not found|cross reference to self|missing date"
                     r"|operating system explicitly|unterminated quoted argument: Os")


def check(root):
    for path in lint.files(root, *(f".{s}" for s in SECTIONS), under="man"):
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
    lint.Sample("broken alias", {"man/b.3": ".so man3/a.3\n"}, "a.3 is not there"),
]

if __name__ == "__main__":
    if not shutil.which("mandoc"):
        print("skip: mandoc is not installed")
        sys.exit(77)
    lint.main(check, SAMPLES)
