#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The sandbox of the service is tight, and takes nothing from what mirrord can.

usage: sandbox.py BUILD-DIRECTORY
"""
import json
import os
import re
import sys

import machine
import private
import scenario
import unit
from unit import SERVICE, SOCKET

EXPOSURE = 2.0
# Each with what the daemon has to do in or to a process of whatever user it is.
OPERATIONS = {
    "munmap-hole": "read its userfaultfd, look at its threads for the cause",
    "fixed-whole": "the same",
    "mremap-move": "the same",
    "dontneed-part": "trace it for the end",
    "remove": "the same",
    "fork": "go on with its child",
    "exec": "find it again in /proc",
}


class Operations(scenario.Suite):
    """The scenarios, with programs that run inside."""

    def __init__(self, tap, m, user):
        super().__init__(tap, "/build", os.path.join(m.folder, f"scenario-{user}"), None)
        self.m, self.user = m, user
        os.makedirs(self.files(), exist_ok=True)
        os.chown(self.files(), int(user), int(user))

    def run(self, argv, *options):
        file = os.path.join(self.files(), "events")
        done = self.m.run(self.path("tools", "mirrorctl"), "run", "--json", "-o", file, *options,
                          "--", *argv, user=self.user)
        events = []
        if os.path.exists(file):
            with open(file, encoding="utf-8") as f:
                events = [json.loads(line) for line in f]
            os.unlink(file)
        return scenario.Ran(done.returncode, done.stdout, events, done.stderr)


class Suite(unit.Unit):
    # ---- what systemd says ----

    def verify(self):
        ran = self.m.run("systemd-analyze", "verify", "--man=no", SERVICE, SOCKET)
        self.equal((ran.returncode, ran.stdout, ran.stderr), (0, "", ""),
                   "systemd-analyze verify has nothing to say")

    def security(self):
        ran = self.m.run("systemd-analyze", "security", "--no-pager", SERVICE)
        found = re.search(r"exposure level for mirrord.service: ([\d.]+)", ran.stdout)
        level = float(found.group(1)) if found else 99
        self.tap.ok(level <= EXPOSURE, f"systemd-analyze security says {level}",
                    *(line for line in ran.stdout.splitlines() if "\u2713" not in line))

    # ---- what mirrord can ----

    def features(self):
        """As many as without a sandbox."""
        ran = self.m.run("systemd-run", "--unit=free", "--service-type=notify", "--",
                         self.program(), "--socket", "/run/free")
        if not self.tap.ok(ran.returncode == 0, "another mirrord, without a sandbox", ran):
            return
        free = self.ctl_json("status", env={"MIRROR_SOCKET": "/run/free"})
        ours = self.ctl_json("status")
        self.equal((ours["features"], ours["privileged"]), (free["features"], True),
                   "the service can do all that this one can")
        self.tap.ok(ours["pid"] != free["pid"], "they are two", ours, free)
        self.m.must("stop", "free")

    def operations(self):
        lines = [line for line in scenario.table() if line.op in OPERATIONS]
        for user, name in (("0", "root"), (machine.NOBODY, "nobody")):
            suite = Operations(self.tap, self.m, user)
            for line in lines:
                suite.check(line, name=f"{line.op} {line.memory} of {name}")

    def table(self):
        """Filled by mirrord of another user's process, and looked at by a third."""
        file = "/run/nobody/file"
        self.m.run("install", "-d", "-o", machine.NOBODY, os.path.dirname(file))
        target = self.m.start(self.m.path("tests", "scenario", "ctl-target"),
                              "/run/mirror/control", file, user=machine.NOBODY)
        pid = [t["pid"] for t in self.list_after(target)][0]
        said = self.ctl_json("verify", pid)
        self.tap.ok(said["compared"] > 60 and said["different"] == 0,
                    f"a table of {said['compared']} pages is as the kernel says", said)
        target.stdin.write("dontneed\n")
        machine.hear(target)
        said = self.ctl_json("verify", "--cached", pid)
        self.tap.ok(said["compared"] > 60 and said["different"] == 0, "and so after a change",
                    said)
        target.stdin.close()
        target.wait(machine.RUN_S)

    def nothing_forbidden(self):
        """Of all that was done above, no call is one that the filter refuses."""
        self.m.drop_in(SERVICE, "[Service]\nSystemCallErrorNumber=kill\n")
        self.m.must("restart", SERVICE)
        pid = self.main_pid()
        self.operations()
        self.table()
        self.equal((self.main_pid(), self.m.show(SERVICE, "NRestarts")), (pid, "0"),
                   "no call was made that is not allowed", self.m.log())

    def list_after(self, target):
        machine.hear(target)
        text = self.ctl("list", "--json").stdout
        return [json.loads(line) for line in text.splitlines()]


def main():
    tap = private.Tap()
    private.watchdog(110)
    with machine.boot(sys.argv[1]) as m:
        suite = Suite(tap, m)
        suite.verify()
        suite.security()
        m.must("start", SERVICE)
        suite.features()
        suite.operations()
        suite.table()
        suite.nothing_forbidden()
    tap.end()


if __name__ == "__main__":
    main()
