#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""README.md lists the packages of deps, its C program compiles, its links exist.

usage: readme.py ROOT | --self-test
"""
import os
import re
import tempfile

import lint


def packages(root):
    """{section: {package}} of deps."""
    found, section = {}, None
    for line in lint.read(root, "deps").splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("["):
            section = line.strip("[]")
            found[section] = set()
        elif line:
            found[section].add(line)
    return found


def installed(text):
    """What each apt-get install of the README names, in order."""
    text = text.replace("\\\n", " ")
    return [set(words.split()) for words in re.findall(r"apt-get install (.*)", text)]


def check_packages(root, text):
    wanted, listed = packages(root), installed(text)
    for name in wanted:
        both = set.union(*(w for n, w in wanted.items() if n != name), set()) & wanted[name]
        for package in sorted(both):
            yield f"deps: {package} is there twice"
    everything = set().union(*wanted.values())
    for package in sorted(everything - set().union(*listed)):
        yield f"README.md does not list {package}"
    for package in sorted(set().union(*listed) - everything):
        yield f"README.md lists {package}, which is not in deps"
    if listed and listed[0] != wanted["build"]:
        yield "README.md: the first apt-get install is not the section [build] of deps"


def check_code(root, text):
    for number, code in enumerate(re.findall(r"```c\n(.*?)```", text, re.S), 1):
        with tempfile.TemporaryDirectory() as scratch:
            path = os.path.join(scratch, "a.c")
            with open(path, "w", encoding="utf-8") as file:
                file.write(code)
            status, output = lint.run("gcc", "-std=c11", "-D_DEFAULT_SOURCE", "-Wall", "-Wextra",
                                      "-Werror", "-fsyntax-only", f"-I{root}/include", path)
        if status:
            yield f"README.md: C program {number} does not compile: {output}"


def check_links(root, path, text):
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        if not os.path.exists(os.path.join(root, link)):
            yield f"{path}: {link} is not there"


def check(root):
    text = lint.read(root, "README.md")
    yield from check_packages(root, text)
    yield from check_code(os.path.abspath(root), text)
    for path in ("README.md", "CONTRIBUTING.md", "NEWS.md"):
        if os.path.isfile(os.path.join(root, path)):
            yield from check_links(root, path, lint.read(root, path))


DEPS = "[build]\nmeson # why\ngcc\n[test]\nspin\n"
TEXT = "\tapt-get install meson gcc\n\tapt-get install \\\n\t    spin\n"

SAMPLES = [
    lint.Sample("good", {"deps": DEPS, "README.md": TEXT + "[deps](deps)\n```c\nint x;\n```\n"}),
    lint.Sample("not listed", {"deps": DEPS + "valgrind\n", "README.md": TEXT},
                "does not list valgrind"),
    lint.Sample("not needed", {"deps": DEPS, "README.md": TEXT.replace("spin", "spin nano")},
                "lists nano"),
    lint.Sample("not all to build", {"deps": DEPS, "README.md": "apt-get install spin meson gcc\n"},
                "[build]"),
    lint.Sample("twice", {"deps": DEPS + "gcc\n", "README.md": TEXT}, "gcc is there twice"),
    lint.Sample("bad code", {"deps": DEPS, "README.md": TEXT + "```c\nint x\n```\n"}, "compile"),
    lint.Sample("dead link", {"deps": DEPS, "README.md": TEXT + "[a](b.md)\n"}, "b.md is not"),
]

if __name__ == "__main__":
    lint.main(check, SAMPLES)
