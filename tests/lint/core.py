#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's core does no I/O and reads no clock.

usage: core.py ROOT | --self-test

layers.py looks at includes; this looks at the result.  It compiles daemon/core
and lists what it calls outside itself: that must be memory, strings and what
common/ offers without I/O.
"""
import os
import re
import tempfile

import lint

FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-O1", "-w", "-fno-stack-protector", "-c"]
PURE = re.compile(r"(malloc|calloc|realloc|reallocarray|aligned_alloc|free"
                  r"|mem(cpy|move|set|cmp|chr)|str\w+|qsort\w*|bsearch|abort|__assert_fail"
                  r"|v?snprintf|__(mem|str)\w+_chk|_GLOBAL_OFFSET_TABLE_)$")
IMPURE_COMMON = ("memfd", "pagescan", "procfs", "proto", "uffd", "shm")


def symbols(output, kinds):
    for line in output.splitlines():
        words = line.split()
        if len(words) >= 2 and words[-2] in kinds:
            yield words[-1]


def check(root):
    root = os.path.abspath(root)
    pure = [p for p in lint.files(root, ".c", under="common")
            if os.path.basename(p)[:-2] not in IMPURE_COMMON]
    defined, wanted = set(), {}
    with tempfile.TemporaryDirectory() as scratch:
        for path in list(lint.files(root, ".c", under="daemon/core")) + pure:
            target = os.path.join(scratch, "a.o")
            folders = (f"-I{root}/{f}" for f in ("include", "common", "daemon", ""))
            status, output = lint.run("gcc", *FLAGS, *folders, "-o", target,
                                      os.path.join(root, path))
            if status:
                yield f"{path}: does not compile: {output.strip()}"
                continue
            output = lint.run("nm", target)[1]
            defined.update(symbols(output, "TDBRVW"))
            for name in symbols(output, "U"):
                wanted.setdefault(name, path)
    for name in sorted(set(wanted) - defined):
        if not PURE.match(name):
            yield f"{wanted[name]}: calls {name}()"


COMMON = "#include <unistd.h>\nstatic inline int fd_close(int fd) { return close(fd); }\n"

SAMPLES = [
    lint.Sample("good", {"common/base.h": COMMON, "common/tree.c": "int tree(void) { return 1; }\n",
                         "daemon/core/a.c": '#include "base.h"\nint tree(void);\n'
                                            "int a(void) { return tree(); }\n"}),
    lint.Sample("clock", {"daemon/core/a.c": "#include <time.h>\n"
                                             "long a(void) { return time(0); }\n"},
                "calls time()"),
    lint.Sample("through common", {"common/base.h": COMMON, "daemon/core/a.c":
                                   '#include "base.h"\nint a(void) { return fd_close(0); }\n'},
                "calls close()"),
    lint.Sample("impure helper", {"common/memfd.c": "int memfd(void) { return 0; }\n",
                                  "daemon/core/a.c": "int memfd(void);\n"
                                                     "int a(void) { return memfd(); }\n"},
                "calls memfd()"),
]

if __name__ == "__main__":
    lint.main(check, SAMPLES)
