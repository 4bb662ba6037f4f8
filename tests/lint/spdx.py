#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Every source file says its licence, the right one, in its first two lines.

usage: spdx.py ROOT | --self-test

What a program that uses libmirror contains is LGPL: the headers, the library,
and common/, which is linked into it.
"""
import os
import re

import lint

# By folder, longest first.
LICENCES = [
    ("include/mirror/uapi/", "LGPL-2.1-or-later WITH Linux-syscall-note"),
    ("include/", "LGPL-2.1-or-later"),
    ("lib/", "LGPL-2.1-or-later"),
    ("common/", "LGPL-2.1-or-later"),
    ("", "GPL-2.0-or-later"),
]
SOURCES = (".c", ".h", ".cc", ".cpp", ".py", ".sh", ".pml", ".sym", ".build")
PROGRAMS = ("check", "demo", ".ci/run", "bench/run")
TAG = re.compile(r"SPDX-License-Identifier:\s*(.*?)\s*(\*/|-->)?\s*$", re.M)


def check(root):
    used = set()
    for path in lint.files(root):
        if not path.endswith(SOURCES) and path not in PROGRAMS:
            continue
        wanted = next(l for folder, l in LICENCES if path.startswith(folder))
        head = "\n".join(lint.read(root, path).splitlines()[:2])
        match = TAG.search(head)
        if not match:
            yield f"{path}: no SPDX-License-Identifier in the first two lines"
        elif match.group(1) != wanted and not path.endswith("meson.build"):
            yield f"{path}: {match.group(1)}, but it must be {wanted}"
        used.update(wanted.split(" WITH "))
    for name in sorted(used):
        if not os.path.isfile(os.path.join(root, "LICENSES", name + ".txt")):
            yield f"LICENSES/{name}.txt is missing"


TEXTS = {f"LICENSES/{name}.txt": "" for name in
         ("LGPL-2.1-or-later", "GPL-2.0-or-later", "Linux-syscall-note")}
LGPL = "/* SPDX-License-Identifier: LGPL-2.1-or-later */\n"
GPL = "/* SPDX-License-Identifier: GPL-2.0-or-later */\n"
NOTE = "/* SPDX-License-Identifier: LGPL-2.1-or-later WITH Linux-syscall-note */\n"

SAMPLES = [
    lint.Sample("good", {**TEXTS, "include/mirror/uapi/a.h": NOTE, "include/mirror/a.h": LGPL,
                         "lib/a.c": LGPL, "common/a.c": LGPL, "daemon/a.c": GPL,
                         "tools/a.py": "#!/usr/bin/python3\n# " + GPL[3:-4] + "\n"}),
    lint.Sample("no tag", {**TEXTS, "daemon/a.c": "int x;\n"}, "no SPDX"),
    lint.Sample("tag too late", {**TEXTS, "daemon/a.c": "\n\n" + GPL}, "no SPDX"),
    lint.Sample("build file", {**TEXTS, "lib/meson.build": "x = 1\n"}, "no SPDX"),
    lint.Sample("GPL in the library", {**TEXTS, "lib/a.c": GPL}, "must be LGPL"),
    lint.Sample("GPL in common", {**TEXTS, "common/a.c": GPL}, "must be LGPL"),
    lint.Sample("uapi without the note", {**TEXTS, "include/mirror/uapi/a.h": LGPL}, "WITH"),
    lint.Sample("LGPL in the daemon", {**TEXTS, "daemon/a.c": LGPL}, "must be GPL"),
    lint.Sample("text missing", {"daemon/a.c": GPL}, "GPL-2.0-or-later.txt is missing"),
]

if __name__ == "__main__":
    lint.main(check, SAMPLES)
