#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The installed tree is complete, and strangers can build against it.

usage: install.py BUILD | --self-test

Installs into an empty DESTDIR and compiles, links and runs one C and one C++
program there, with nothing but what pkg-config says.
"""
import os
import sys
import tempfile

import lint

PROGRAM = """
#include <mirror/mirror.h>
#include <string.h>

int main(void)
{
    struct mirror_ctx *ctx = NULL;
    const char *name = mirror_event_type_to_string(MIRROR_EVENT_UNMAP);

    mirror_ctx_unref(ctx);
    return name && strcmp(name, "unmap") == 0 ? 0 : 1;
}
"""
COMPILERS = [["gcc", "-std=c11", "-x", "c"], ["g++", "-std=c++17", "-x", "c++"]]
WANTED = ["/mirrord", "/bin/mirrorctl", "/libmirror.so", "/libmirror.so.0", "/libmirror-preload.so",
          "/pkgconfig/libmirror.pc", "/include/mirror/mirror.h", "/include/mirror/uapi/event.h",
          "/man/man1/mirrorctl.1", "/man/man3/mirror_open.3", "/man/man5/mirrord.conf.5",
          "/mirrord.service", "/mirrord.socket", "/rules.d/60-mirror.rules",
          "/sysusers.d/mirrord.conf", "/tmpfiles.d/mirrord.conf"]


def find(tree, name):
    for folder, _, names in os.walk(tree):
        for file in names:
            path = os.path.join(folder, file)
            if path.endswith(name):
                return path
    return None


def use(tree):
    """Complaints about building against the tree and running the result."""
    pc = find(tree, "/libmirror.pc")
    if not pc:
        yield "libmirror.pc is not installed"
        return
    env = dict(os.environ, PKG_CONFIG_PATH=os.path.dirname(pc), PKG_CONFIG_SYSROOT_DIR=tree)
    status, flags = lint.run("pkg-config", "--cflags", "--libs", "libmirror", env=env)
    if status:
        yield f"pkg-config: {flags}"
        return
    library = find(tree, "/libmirror.so")
    folder = os.path.dirname(library) if library else tree
    with tempfile.TemporaryDirectory() as scratch:
        source, program = os.path.join(scratch, "a"), os.path.join(scratch, "program")
        with open(source, "w", encoding="utf-8") as file:
            file.write(PROGRAM)
        for compiler in COMPILERS:
            status, output = lint.run(*compiler, "-Wall", "-Wextra", "-Werror", source, "-x",
                                      "none", "-o", program, *flags.split())
            if status:
                yield f"{compiler[0]}: {output}"
                continue
            env = dict(os.environ, LD_LIBRARY_PATH=folder)
            status, output = lint.run(program, env=env)
            if status:
                yield f"{compiler[0]}: the program says {status} {output}"


def check(build):
    lint.seen.add(build)
    with tempfile.TemporaryDirectory() as tree:
        # --quiet and --no-rebuild: the tests run while nothing may be built.
        status, output = lint.run("meson", "install", "-C", build, "--no-rebuild", "--quiet",
                                  "--destdir", tree)
        if status:
            yield f"meson install: {output}"
            return
        for name in WANTED:
            if not find(tree, name):
                yield f"{name} is not installed"
        header = find(tree, "/include/mirror/mirror.h")
        for folder, _, names in os.walk(os.path.dirname(header) if header else tree):
            for name in names:
                if header and not name.endswith(".h"):
                    yield f"{folder}/{name} is no header"
        yield from use(tree)


PC = """prefix=/usr
Name: libmirror
Description: a
Version: 0
Cflags: -I${prefix}/include
Libs: -L${prefix}/lib %s
"""
HEADER = """#include <stddef.h>
struct mirror_ctx;
enum { MIRROR_EVENT_UNMAP = 1 };
%s
"""
DECLARATIONS = """
#ifdef __cplusplus
extern "C" {
#endif
const char *mirror_event_type_to_string(unsigned int type);
struct mirror_ctx *mirror_ctx_unref(struct mirror_ctx *ctx);
#ifdef __cplusplus
}
#endif
"""
SOURCE = """
const char *mirror_event_type_to_string(unsigned int type) { (void)type; return "%s"; }
void *mirror_ctx_unref(void *ctx) { return ctx; }
"""


def use_sample(root, name="unmap"):
    """Builds the library of a sample, then checks it as an installed tree."""
    os.makedirs(os.path.join(root, "usr/lib"), exist_ok=True)
    source = os.path.join(root, "usr/lib/a.c")
    with open(source, "w", encoding="utf-8") as file:
        file.write(SOURCE % name)
    lint.run("gcc", "-shared", "-fPIC", "-o", os.path.join(root, "usr/lib/libmirror.so"), source)
    yield from use(root)


def sample(name, complaint, header=DECLARATIONS, libs="-lmirror", args=()):
    return lint.Sample(name, {"usr/lib/pkgconfig/libmirror.pc": PC % libs,
                              "usr/include/mirror/mirror.h": HEADER % header}, complaint, args)


SAMPLES = [
    sample("good", None),
    sample("function not declared", "gcc:", header=""),
    sample("library not named", "undefined reference", libs=""),
    sample("C only", "g++:", header=DECLARATIONS.replace("__cplusplus", "not_defined")),
    sample("wrong answer", "says 1", args=["map"]),
    lint.Sample("no libmirror.pc", {"usr/include/mirror/mirror.h": HEADER % DECLARATIONS},
                "libmirror.pc"),
]

if __name__ == "__main__":
    lint.main(use_sample if sys.argv[1:] == ["--self-test"] else check, SAMPLES)
