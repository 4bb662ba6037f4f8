#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Every file includes only headers of the layers that layers.rules allows it.

usage: layers.py ROOT [RULES] | --self-test
"""
import os
import re

import lint

INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')
SUFFIXES = (".c", ".h", ".cc", ".cpp", ".hpp")


class Rules:
    def __init__(self, path):
        self.bases, self.allowed, self.forbid, self.only = [], {}, {}, {}
        self.generated = set()
        with open(path, encoding="utf-8") as file:
            for line in file:
                self.parse(line.split("#")[0].strip())

    def parse(self, line):
        if line.startswith("-I "):
            self.bases.append(line[3:].strip())
        elif line:
            head, _, rest = line.partition(":")
            words = set(rest.split())
            if head == "generated":
                self.generated = words
            elif head.startswith("forbid "):
                self.forbid[head.split()[1]] = words
            elif head.startswith("only "):
                self.only[head.split()[1]] = words
            else:
                self.allowed[head.strip()] = words

    def layer(self, path):
        hits = [f for f in self.allowed if path.startswith(f + "/")]
        return max(hits, key=len) if hits else None


def resolve(root, rules, path, name):
    for base in [os.path.dirname(path), ""] + rules.bases:
        target = os.path.normpath(os.path.join(base, name))
        if os.path.isfile(os.path.join(root, target)):
            return target
    return None


def complaint(root, rules, path, quote, name):
    mine = rules.layer(path)
    target = resolve(root, rules, path, name)
    if target is None:
        header = f"<{name}>"
        if name in rules.generated:
            return None
        if quote == '"' or name.startswith("mirror/"):
            return f"{name} is not in the tree"
        if header in rules.forbid.get(mine, ()):
            return f"{mine} must not include {header}"
        if mine in rules.only and header not in rules.only[mine]:
            return f"{mine} may include {' '.join(sorted(rules.only[mine]))}, not {header}"
        return None
    theirs = rules.layer(target)
    if theirs is None:
        return f"{target} belongs to no layer"
    if theirs != mine and theirs not in rules.allowed[mine]:
        return f"{mine} must not include {theirs}: {name}"
    return None


def check(root, rules_path=None):
    rules = Rules(rules_path or os.path.join(os.path.dirname(__file__), "layers.rules"))
    for path in lint.files(root, *SUFFIXES):
        if rules.layer(path) is None:
            yield f"{path}: no layer for this folder in layers.rules"
            continue
        for number, line in enumerate(lint.read(root, path).splitlines(), 1):
            match = INCLUDE.match(line)
            if match:
                text = complaint(root, rules, path, *match.groups())
                if text:
                    yield f"{path}:{number}: {text}"


TREE = {
    "include/mirror/uapi/event.h": "#include <linux/types.h>\n",
    "include/mirror/mirror.h": "#include <stddef.h>\n#include <mirror/uapi/event.h>\n",
    "common/fd.h": "#include <unistd.h>\n",
    "lib/ctx.c": '#include <mirror/mirror.h>\n#include "fd.h"\n#include "config.h"\n',
    "daemon/core/table.h": '#include "fd.h"\n',
    "daemon/io/ring.h": '#include "core/table.h"\n',
    "daemon/loop/loop.h": '#include "fd.h"\n',
    "daemon/manager.h": '#include "io/ring.h"\n',
}


def sample(path, text, wanted):
    return lint.Sample(f"{path} {text.strip()}", {**TREE, path: text}, wanted)


SAMPLES = [
    lint.Sample("good tree", TREE),
    sample("daemon/source/uffd.c", '#include "loop/loop.h"\n', None),
    sample("daemon/core/a.c", '#include "io/ring.h"\n', "daemon/core must not include daemon/io"),
    sample("daemon/source/a.c", '#include "../io/ring.h"\n', "must not include daemon/io"),
    sample("daemon/sys/a.c", '# include "io/ring.h"\n', "must not include daemon/io"),
    sample("daemon/loop/a.c", '#include "core/table.h"\n', "must not include daemon/core"),
    sample("daemon/io/a.c", '#include "manager.h"\n', "daemon/io must not include daemon:"),
    sample("daemon/core/b.c", "#include <unistd.h>\n", "must not include <unistd.h>"),
    sample("daemon/a.c", "#include <mirror/mirror.h>\n", "must not include include/mirror"),
    sample("common/a.c", "#include <mirror/mirror.h>\n", "must not include include/mirror"),
    sample("lib/a.c", '#include "core/table.h"\n', "lib must not include daemon/core"),
    sample("tools/a.c", '#include "common/fd.h"\n', "tools must not include common"),
    sample("examples/a.c", '#include "../lib/private.h"\n', "not in the tree"),
    sample("include/mirror/uapi/a.h", "#include <stdint.h>\n", "not <stdint.h>"),
    sample("include/mirror/a.h", "#include <stdio.h>\n", "not <stdio.h>"),
    sample("include/mirror/uapi/b.h", "#include <mirror/mirror.h>\n", "must not include"),
    sample("elsewhere/a.c", "#include <stdio.h>\n", "no layer"),
]

if __name__ == "__main__":
    lint.main(check, SAMPLES)
