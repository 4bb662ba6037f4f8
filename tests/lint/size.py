#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""No C file is longer than 600 lines and no function longer than 80.

usage: size.py ROOT | --self-test

A function starts at a line that is '{' and ends at the next that starts with '}'.
"""
import re

import lint

FILE_MAX = 600
FUNCTION_MAX = 80
NAME = re.compile(r"(\w+)\s*\(")


def check(root):
    for path in lint.files(root, ".c", ".h"):
        lines = lint.read(root, path).splitlines()
        if len(lines) > FILE_MAX:
            yield f"{path}: {len(lines)} lines, more than {FILE_MAX}"
        start, name = None, "?"
        for number, line in enumerate(lines, 1):
            if line == "{":
                start = number
            elif line.startswith("}") and start is not None:
                if number - start - 1 > FUNCTION_MAX:
                    yield (f"{path}:{start}: {name}() has {number - start - 1} lines, "
                           f"more than {FUNCTION_MAX}")
                start = None
            elif start is None and line[:1].isalpha() and NAME.search(line):
                name = NAME.search(line).group(1)


SAMPLES = [
    lint.Sample("good", {"a.c": "int f(void)\n{\n" + "\tx();\n" * 80 + "}\n" * 1}),
    lint.Sample("long file", {"a.h": "int x;\n" * 601}, "601 lines"),
    lint.Sample("long function", {"a.c": "int f(int a,\n      int b)\n{\n" + "\tx();\n" * 81
                                  + "}\n"}, "f() has 81 lines"),
]

if __name__ == "__main__":
    lint.main(check, SAMPLES)
