#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What libmirror exports, promises and documents is the same.

usage: symbols.py ROOT LIBRARY [PRELOAD] | --self-test

Exported by the library = listed in lib/libmirror.sym = declared in
include/mirror/*.h = described by man/NAME.3.  The library neither prints nor
ends its process.  The preload object exports what it interposes and no more.
"""
import os
import re
import sys

import lint

FORBIDDEN = {
    "abort", "err", "errx", "exit", "fprintf", "fputs", "perror", "printf", "puts", "putchar",
    "quick_exit", "syslog", "vfprintf", "vprintf", "warn", "warnx", "__fprintf_chk",
    "__printf_chk", "__vfprintf_chk", "__syslog_chk",
}
INTERPOSED = re.compile(r"(mmap|mmap64|mremap|munmap|brk|sbrk|shmat|mprotect|malloc_\w+|fork"
                        r"|_Fork|vfork|clone|execv\w*|execl\w*|fexecve)$")


def exported(library):
    status, output = lint.run("nm", "-D", "--defined-only", library)
    if status:
        raise RuntimeError(output)
    names = (line.split() for line in output.splitlines())
    return {n[2].split("@")[0] for n in names if len(n) == 3 and n[1] != "A"}


def needed(library):
    output = lint.run("nm", "-D", "--undefined-only", library)[1]
    return {line.split()[-1].split("@")[0] for line in output.splitlines()}


def listed(root):
    text = re.sub(r"/\*.*?\*/|#[^\n]*", " ", lint.read(root, "lib/libmirror.sym"), flags=re.S)
    names = set()
    for part in re.findall(r"global:(.*?)(?:local:|\})", text, re.S):
        names.update(n.strip() for n in part.split(";") if n.strip())
    return names


def declared(root):
    names = set()
    for path in lint.files(root, ".h", under="include/mirror"):
        if "/uapi/" in path:
            continue
        text = re.sub(r"/\*.*?\*/", " ", lint.read(root, path), flags=re.S)
        text = re.sub(r"^\s*#(?:.*\\\n)*.*$", "", text, flags=re.M)
        # what is inline is in nobody's library, but has its page
        text = re.sub(r"^static inline.*?^\}", "", text, flags=re.S | re.M)
        text = re.sub(r"\{.*?^\}", "", text, flags=re.S | re.M)
        names.update(re.findall(r"\b(mirror_\w+)\s*\(", text))
    return names


def inline(root):
    names = set()
    for path in lint.files(root, ".h", under="include/mirror"):
        text = re.sub(r"/\*.*?\*/", " ", lint.read(root, path), flags=re.S)
        for head in re.findall(r"^static inline([^{]*)\{", text, re.M):
            names.update(re.findall(r"\b(mirror_\w+)\s*\(", head))
    return names


def described(root):
    return {os.path.basename(p)[:-2] for p in lint.files(root, ".3", under="man")}


def differences(kind_a, a, kind_b, b):
    for name in sorted(a - b):
        yield f"{name}: {kind_a}, but not {kind_b}"
    for name in sorted(b - a):
        yield f"{name}: {kind_b}, but not {kind_a}"


def check_sets(root, names, imports):
    symbols = listed(root)
    yield from differences("exported", names, "in lib/libmirror.sym", symbols)
    yield from differences("declared in a header", declared(root), "in lib/libmirror.sym", symbols)
    yield from differences("in lib/libmirror.sym or inline", symbols | inline(root),
                           "in man/*.3", described(root))
    for name in sorted(imports & FORBIDDEN):
        yield f"the library uses {name}()"


def check(root, library, preload=None):
    yield from check_sets(root, exported(library), needed(library))
    if preload:
        for name in sorted(exported(preload)):
            if not INTERPOSED.match(name):
                yield f"the preload object exports {name}"


def check_real(root, source, *args):
    """For samples: builds a library first."""
    library = os.path.join(root, "a.so")
    status, output = lint.run("gcc", "-shared", "-fPIC", "-o", library, os.path.join(root, source))
    if status:
        raise RuntimeError(output)
    yield from check(root, library, *(library if a == "preload" else a for a in args))


TREE = {
    "lib/libmirror.sym": "LIBMIRROR_0 {\nglobal:\n\tmirror_a; /* x */\n\tmirror_b;\n"
                         "local:\n\t*;\n};\n",
    "include/mirror/a.h": "#define mirror_m(x) \\\n\tmirror_n(x)\n/* mirror_z() */\n"
                          "struct s {\n\tvoid (*mirror_f)(int mirror_g());\n};\n"
                          "int mirror_a(void);\nstruct s *mirror_b(struct s *s,\n\tint b);\n",
    "man/mirror_a.3": ".TH\n", "man/mirror_b.3": ".so mirror_a.3\n",
    "good.c": "int mirror_a, mirror_b;\n",
    "hidden.c": "int mirror_a;\n",
    "more.c": "int mirror_a, mirror_b, helper;\n",
    "prints.c": "#include <stdio.h>\nint mirror_a;\nvoid mirror_b(void) { puts(\"\"); }\n",
    "preload.c": "int mirror_a, mirror_b, mmap;\n",
}


def sample(name, source, complaint, changes=None, args=()):
    tree = {k: v for k, v in {**TREE, **(changes or {})}.items() if v is not None}
    return lint.Sample(name, tree, complaint, [source, *args])


SAMPLES = [
    sample("good", "good.c", None),
    sample("not exported", "hidden.c", "mirror_b: in lib/libmirror.sym, but not exported"),
    sample("leaks", "more.c", "helper: exported, but not"),
    sample("not declared", "good.c", "mirror_b: in lib/libmirror.sym, but not declared",
           {"include/mirror/a.h": "int mirror_a(void);\n"}),
    sample("not listed", "good.c", "mirror_c: declared in a header, but not",
           {"include/mirror/c.h": "int mirror_c(void);\n"}),
    sample("not described", "good.c", "mirror_b: in lib/libmirror.sym or inline, but not in man",
           {"man/mirror_b.3": None}),
    sample("inline, not described", "good.c", "mirror_i: in lib/libmirror.sym or inline, but not",
           {"include/mirror/i.h": "static inline int mirror_i(int i)\n{\n\treturn mirror_a();\n"
                                  "}\n"}),
    sample("inline", "good.c", None,
           {"include/mirror/i.h": "static inline int mirror_i(int i)\n{\n\treturn mirror_a();\n"
                                  "}\n", "man/mirror_i.3": ".so mirror_a.3\n"}),
    sample("describes nothing", "good.c", "mirror_c: in man/*.3, but not",
           {"man/mirror_c.3": ""}),
    sample("prints", "prints.c", "uses puts()"),
    sample("preload", "preload.c", "preload object exports mirror_a", None, ["preload"]),
]

if __name__ == "__main__":
    lint.main(check_real if sys.argv[1:] == ["--self-test"] else check, SAMPLES)
