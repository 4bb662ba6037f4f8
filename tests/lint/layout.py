#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The wire ABI is what layout.c says, with every compiler, in 64 and in 32 bit.

usage: layout.py ROOT | --print ROOT | --self-test

layout.c asserts the size of every struct, the offset of every member and the
value of every constant of include/mirror/uapi/.  This script compiles it in all
ways and looks for structs, members and constants that it does not mention.
--print says what it would have to contain for the headers as they are now;
what was released does not change.
"""
import os
import re
import shutil
import sys
import tempfile

import lint

UAPI = "include/mirror/uapi"
MULTIARCH = "/usr/include/x86_64-linux-gnu"	# linux/types.h needs asm/types.h
WAYS = [
    ["gcc", "-std=c11"], ["gcc", "-std=c11", "-m32"],
    ["clang", "-std=c11"], ["clang", "-std=c11", "-m32"],
    ["g++", "-x", "c++", "-std=c++17"], ["clang++", "-x", "c++", "-std=c++17", "-m32"],
]
STRICT = ["-Wall", "-Wextra", "-Wpadded", "-Werror", "-fsyntax-only"]


def without_comments(text):
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.S)


def members(body, prefix=""):
    """Names of members, with a.b.c for those of nested structs and unions."""
    while body.strip():
        nested = re.match(r"\s*(?:struct|union)\s*\{", body)
        if nested:
            depth, at = 1, nested.end()
            while depth:
                depth += {"{": 1, "}": -1}.get(body[at], 0)
                at += 1
            name = re.match(r"\s*(\w+)\s*;", body[at:])
            yield prefix + name.group(1)
            yield from members(body[nested.end():at - 1], prefix + name.group(1) + ".")
            body = body[at + name.end():]
        else:
            simple = re.match(r"\s*[\w\s]+?\b(\w+)\s*(\[\w+\])?\s*;", body)
            if not simple:
                raise ValueError(f"cannot read a struct near: {body.strip()[:60]}")
            yield prefix + simple.group(1)
            body = body[simple.end():]


def wire(root):
    """What must be locked: {struct: [member]}, [constant]."""
    structs, constants = {}, []
    for path in lint.files(root, ".h", under=UAPI):
        text = without_comments(lint.read(root, path)).replace("\\\n", " ")
        for match in re.finditer(r"^struct (\w+) \{(.*?)^\};", text, re.S | re.M):
            structs[match.group(1)] = list(members(match.group(2)))
        for match in re.finditer(r"^enum \w+ \{(.*?)^\};", text, re.S | re.M):
            constants += re.findall(r"(\w+)\s*=", match.group(1))
        constants += re.findall(r"^#\s*define[ \t]+(MIRROR_\w+)[ \t]+\S", text, re.M)
    return structs, constants


def mentioned(text):
    text = without_comments(text)
    return (set(re.findall(r"\bSIZE\((\w+),", text)),
            set(re.findall(r"\bOFFSET\((\w+), ([\w.]+),", text)),
            set(re.findall(r"\bVALUE\((\w+),", text)))


def check(root, layout=None):
    root = os.path.abspath(root)
    layout = layout or os.path.join(os.path.dirname(os.path.abspath(__file__)), "layout.c")
    with open(layout, encoding="utf-8") as file:
        sizes, offsets, values = mentioned(file.read())
    structs, constants = wire(root)
    for name, names in structs.items():
        if name not in sizes:
            yield f"layout.c does not lock the size of struct {name}"
        for member in names:
            if (name, member) not in offsets:
                yield f"layout.c does not lock {name}.{member}"
    for name in constants:
        if name not in values:
            yield f"layout.c does not lock {name}"
    for way in WAYS:
        if shutil.which(way[0]):
            status, output = lint.run(*way, *STRICT, f"-I{root}/include", f"-I{MULTIARCH}", layout)
            if status:
                errors = [line for line in output.splitlines() if "error:" in line]
                yield f"{' '.join(way)}: " + "\n    ".join(errors or [output])


def print_layout(root):
    structs, constants = wire(root)
    source = '#include <stddef.h>\n#include <stdio.h>\n'
    for path in lint.files(root, ".h", under=UAPI):
        source += f'#include "{os.path.abspath(os.path.join(root, path))}"\n'
    source += "int main(void)\n{\n"
    for name, names in structs.items():
        source += f'printf("\\nSIZE({name}, %zu);\\n", sizeof(struct {name}));\n'
        for m in names:
            source += f'printf("OFFSET({name}, {m}, %zu);\\n", offsetof(struct {name}, {m}));\n'
    source += 'printf("\\n");\n'
    for name in constants:
        source += f'printf("VALUE({name}, 0x%llx);\\n", (unsigned long long)({name}));\n'
    source += "}\n"
    with tempfile.TemporaryDirectory() as scratch:
        with open(scratch + "/a.c", "w", encoding="utf-8") as file:
            file.write(source)
        status, output = lint.run("gcc", f"-I{root}/include", scratch + "/a.c",
                                  "-o", scratch + "/a")
        print(output if status else lint.run(scratch + "/a")[1], end="")


HEADER = "#include <linux/types.h>\n#define MIRROR_A 0x3\nstruct a {\n\t__u32 b;\n%s};\n"
LOCK = """#include <stddef.h>
#include "%s/a.h"
#ifdef __cplusplus
#define _Static_assert static_assert
#endif
#define VALUE(_n, _v) _Static_assert((_n) == (_v), #_n)
#define SIZE(_s, _n) _Static_assert(sizeof(struct _s) == (_n), #_s)
#define OFFSET(_s, _m, _n) _Static_assert(offsetof(struct _s, _m) == (_n), #_s)
""" % ("mirror/uapi")


def sample(name, header, lock, complaint):
    tree = {UAPI + "/a.h": HEADER % header, "layout.c": LOCK + lock}
    return lint.Sample(name, tree, complaint, ["@ROOT@/layout.c"])


GOOD = "VALUE(MIRROR_A, 3);\nSIZE(a, 8);\nOFFSET(a, b, 0);\nOFFSET(a, c, 4);\n"

SAMPLES = [
    sample("good", "\t__u32 c;\n", GOOD, None),
    sample("moved", "\t__u32 c;\n", GOOD.replace("c, 4", "c, 0"), "gcc -std=c11:"),
    sample("other value", "\t__u32 c;\n", GOOD.replace("A, 3", "A, 4"), "gcc"),
    sample("grown", "\t__u32 c;\n\t__u32 d[2];\n", GOOD, "does not lock a.d"),
    sample("nested", "\tunion { struct { __u32 e; } d; } c;\n", GOOD, "does not lock a.c.d.e"),
    sample("padded", "\t__u64 c;\n", GOOD.replace("c, 4", "c, 8").replace("a, 8", "a, 16"),
           "padding"),
    sample("32 bit", "\t__u32 d;\n\tlong c;\n",
           GOOD.replace("c, 4", "c, 8").replace("a, 8", "a, 16") + "OFFSET(a, d, 4);\n", "-m32"),
    sample("constant", "\t__u32 c;\n", GOOD.replace("VALUE", "// "), "does not lock MIRROR_A"),
    sample("size", "\t__u32 c;\n", GOOD.replace("SIZE", "// "), "the size of struct a"),
]

if __name__ == "__main__":
    if sys.argv[1:2] == ["--print"]:
        print_layout(sys.argv[2])
    else:
        lint.main(check, SAMPLES)
