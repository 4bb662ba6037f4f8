#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""systemd has nothing to say about the units, and finds the service well confined.

usage: units.py ROOT | --self-test

"systemd-analyze verify" ends well even if it does not know a key: so whatever it
says is a complaint.  It does without a systemd that runs.
"""
import os
import re
import shutil
import sys
import tempfile

import lint

EXPOSURE = 2.0
NAMES = ("mirrord.service", "mirrord.socket")
PROGRAM = "/bin/true"           # one that is there, in place of one that is not installed yet


def check(root):
    with tempfile.TemporaryDirectory() as scratch:
        paths = []
        for name in NAMES:
            source = os.path.join("systemd", name)
            if not os.path.isfile(os.path.join(root, source)):
                source += ".in"
            paths.append(os.path.join(scratch, name))
            with open(paths[-1], "w", encoding="utf-8") as file:
                file.write(lint.read(root, source).replace("@mirrord@", PROGRAM))
        status, output = lint.run("systemd-analyze", "verify", "--man=no", *paths)
        for line in output.splitlines() or ([f"verify: status {status}"] if status else []):
            yield line.replace(scratch + "/", "")
        output = lint.run("systemd-analyze", "security", "--offline=true", "--no-pager",
                          paths[0])[1]
        found = re.search(r"exposure level for mirrord.service: ([\d.]+)", output)
        if not found:
            yield f"security: {output}"
        elif float(found.group(1)) > EXPOSURE:
            yield f"exposure {found.group(1)}, more than {EXPOSURE}"


def samples():
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    service = lint.read(here, "systemd/mirrord.service.in")
    socket = lint.read(here, "systemd/mirrord.socket")

    def tree(service=service, socket=socket):
        return {"systemd/mirrord.service.in": service, "systemd/mirrord.socket": socket}

    return [
        lint.Sample("good", tree()),
        lint.Sample("unknown key", tree(service.replace("Nice=", "Nicer=")), "Nicer"),
        lint.Sample("bad value", tree(service.replace("Type=notify", "Type=notfy")), "notfy"),
        lint.Sample("no such program", tree(service.replace("=@mirrord@", "=/no/such/mirrord")),
                    "/no/such/mirrord"),
        lint.Sample("bad socket", tree(socket=socket.replace("=/run", "=run")), "run/mirror"),
        lint.Sample("open", tree(re.sub(r"SystemCallFilter=.*\n", "", service)), "exposure"),
    ]


if __name__ == "__main__":
    if not shutil.which("systemd-analyze"):
        print("skip: systemd-analyze is not installed")
        sys.exit(77)
    lint.main(check, samples())
