#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Text is tidy: line ends, widths, tabs, and no path of somebody's machine.

usage: words.py ROOT | --self-test
"""
import os
import re

import lint

WIDTH = 100
TEXT = (".c", ".h", ".cc", ".cpp", ".py", ".sh", ".pml", ".md", ".build", ".rules", ".sym",
        ".in", ".service", ".socket", ".1", ".3", ".4", ".5", ".7", ".8", ".txt", ".conf")
PROGRAMS = ("check", "demo", "deps", ".ci/run", "bench/run")
# tables, lists, roff
WIDE = (".md", ".rules", ".txt", ".1", ".3", ".4", ".5", ".7", ".8")
MACHINE = re.compile(r"(?<![\w.@}])/(work|home|root)/")
INDENT = re.compile(r"^( {2,}|\t+ +\t| +\t)")


def columns(line):
    return len(line.expandtabs(8))


def c_line(line):
    """Kernel style: tabs; spaces only to align, after tabs, and before a comment's star."""
    if INDENT.match(line):
        return "spaces where a tab should be"
    if re.match(r"^\t* {8}", line) and not line.lstrip().startswith("*"):
        return "eight spaces where a tab should be"
    return None


def complaints(path, line):
    if line != line.rstrip():
        yield "white space at the end of the line"
    if MACHINE.search(line):
        yield f"a path of one machine: {MACHINE.search(line).group(0)}"
    if not path.endswith(WIDE) and columns(line) > WIDTH:
        yield f"{columns(line)} columns, more than {WIDTH}"
    if path.endswith((".c", ".h")) and c_line(line):
        yield c_line(line)
    if path.endswith(".py") and re.match(r" *\t", line):
        yield "a tab where spaces should be"


def check(root):
    for path in lint.files(root):
        if path.startswith("LICENSES/") or not path.endswith(TEXT) and path not in PROGRAMS:
            continue
        with open(os.path.join(root, path), "rb") as file:
            data = file.read()
        if b"\r" in data:
            yield f"{path}: carriage returns"
        if data and not data.endswith(b"\n"):
            yield f"{path}: no newline at the end"
        if data.endswith(b"\n\n"):
            yield f"{path}: empty lines at the end"
        for number, line in enumerate(lint.read(root, path).split("\n"), 1):
            for complaint in complaints(path, line):
                yield f"{path}:{number}: {complaint}"


SAMPLES = [
    lint.Sample("good", {"a.c": "/*\n * x\n */\nint f(int a,\n\t      int b)\n{\n\treturn 0;\n}\n",
                         "a.py": "def f():\n    return '/proc/self'\n",
                         "a.md": "x" * 200 + "\n"}),
    lint.Sample("spaces", {"a.c": "    int x;\n"}, "spaces where a tab"),
    lint.Sample("space before tab", {"a.h": " \tint x;\n"}, "spaces where a tab"),
    lint.Sample("eight spaces", {"a.c": "\t        int x;\n"}, "eight spaces"),
    lint.Sample("tab in Python", {"a.py": "if x:\n\ty()\n"}, "a tab where"),
    lint.Sample("trailing", {"a.md": "x \n"}, "end of the line"),
    lint.Sample("wide", {"a.c": "\t" + "x" * 93 + "\n"}, "101 columns"),
    lint.Sample("no newline", {"a.c": "int x;"}, "no newline"),
    lint.Sample("empty end", {"a.c": "int x;\n\n"}, "empty lines"),
    lint.Sample("DOS", {"a.c": "int x;\r\n"}, "carriage"),
    lint.Sample("machine", {"a.sh": "cd /%s/main\n" % "work"}, "a path of one machine"),
]

if __name__ == "__main__":
    lint.main(check, SAMPLES)
