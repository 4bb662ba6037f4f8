#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Every header compiles alone.

usage: headers.py ROOT | --self-test

Public headers as strict C11 and as C++17, with gcc and with clang; internal
ones as this project compiles them.  A compiler that is not there is left out,
gcc is always there.
"""
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor

import lint

STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wundef", "-Werror", "-fsyntax-only"]
PUBLIC = [
    ["gcc", "-std=c11", "-pedantic-errors", "-Wstrict-prototypes"],
    ["clang", "-std=c11", "-pedantic-errors", "-Wstrict-prototypes"],
    ["g++", "-x", "c++", "-std=c++17", "-pedantic-errors"],
    ["clang++", "-x", "c++", "-std=c++17", "-pedantic-errors"],
]
LOOSE = ["-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-fsyntax-only",
         "-Wno-unused-parameter", "-Wno-unused-function"]
INTERNAL = [["gcc"] + LOOSE, ["clang"] + LOOSE]
FOLDERS = ["include", "common", "daemon", "lib", "tests/fault", "tests/stress", "."]


def compile_alone(root, scratch, path, command):
    """Complaint or None.  The header is included twice: its guard must work."""
    source = os.path.join(scratch, path.replace("/", "_") + ".c")
    name = os.path.join(root, path)
    with open(source, "w", encoding="utf-8") as file:
        file.write(f'#include "{name}"\n#include "{name}"\ntypedef int nothing_else;\n')
    folders = ["include"] if path.startswith("include/") else FOLDERS
    status, output = lint.run(*command, *(f"-I{root}/{f}" for f in folders), source)
    if status:
        error = next((line for line in output.splitlines() if "error" in line), output)
        return f"{path}: {' '.join(command[:3])}: {error}"
    return None


def check(root):
    root = os.path.abspath(root)
    jobs = []
    for path in lint.files(root, ".h"):
        public = path.startswith("include/")
        jobs += [(path, c + STRICT if public else c) for c in (PUBLIC if public else INTERNAL)
                 if shutil.which(c[0])]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
        def work(index):
            folder = os.path.join(scratch, str(index))
            os.mkdir(folder)
            return compile_alone(root, folder, *jobs[index])
        yield from (c for c in pool.map(work, range(len(jobs))) if c)


GUARD = "#ifndef A_H\n#define A_H\n%s\n#endif\n"

SAMPLES = [
    lint.Sample("good", {"include/mirror/a.h": GUARD % "#include <stdint.h>\nuint32_t f(void);",
                         "common/b.h": "#pragma once\n#include <stdint.h>\nuint64_t g();\n",
                         "lib/c.h": '#pragma once\n#include "b.h"\n'}),
    lint.Sample("needs another header", {"include/mirror/a.h": GUARD % "uint32_t f(void);"},
                "uint32_t"),
    lint.Sample("internal, needs another", {"daemon/core/a.h": "#pragma once\nuint32_t f(void);\n"},
                "uint32_t"),
    lint.Sample("no guard", {"lib/a.h": "struct a { int b; };\n"}, "redefinition"),
    lint.Sample("GNU C only", {"include/mirror/a.h": GUARD % "struct a { int n; int v[0]; };"},
                "gcc -std=c11"),
    lint.Sample("C only", {"include/mirror/a.h": GUARD % "int f(int new);"}, "++"),
]

if __name__ == "__main__":
    lint.main(check, SAMPLES)
