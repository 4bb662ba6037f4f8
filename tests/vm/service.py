#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The tests of the service, on this machine itself: the virtual one.

usage: service.py BUILD-DIRECTORY NAME

NAME is that of a test in tests/service, or "cuse": /dev/mirror, as udev makes it.
"""
import contextlib
import importlib
import os
import stat
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[1:1] = [os.path.join(HERE, "..", name) for name in ("service", "scenario")]
# Not this folder: a module is called like this one.
del sys.path[0]
import device           # noqa: E402
import machine          # noqa: E402
import private          # noqa: E402
from unit import SERVICE, SOCKET        # noqa: E402

SLOW = 4
NODE, GROUP = "/dev/mirror", "mirror"
# What is as well seen without a virtual machine, where it takes less time.
FEWER = {"service": {"KILLS": 3}, "restart": {"QUICK": 2}}
LEFT_OUT = {"restart": ("without_store", "other_version", "watchdog")}


class Late:
    """Text that is made only if somebody wants to read it."""

    def __init__(self, make, *args):
        self.make, self.args = make, args

    def __str__(self):
        return self.make(*self.args)


class Here(machine.Machine):
    """The machine that we are on."""

    group = None

    def log(self, *args):
        return Late(super().log, *(args or ("-u", SERVICE)))

    def inside(self, argv, user=None):
        groups = f"--groups={self.group}" if self.group else "--clear-groups"
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", groups, "--"] if user else []
        return [*become, *(str(a) for a in argv)]

    def at(self, path):
        return path


@contextlib.contextmanager
def here(build):
    with private.directory() as folder:
        m = Here(folder, 1)
        if not os.path.exists("/build"):
            os.symlink(build, "/build")
            m.after_install()
        # what another test has left
        m.systemctl("stop", SERVICE, SOCKET)
        try:
            yield m
        finally:
            m.end()
            m.systemctl("stop", SERVICE, SOCKET)


class Cuse(device.Suite):
    """The device as a node: those of its group may use it, and nobody else."""

    def node(self):
        """Kind, rights, owner and group, when udev has seen it."""
        end = time.monotonic() + machine.RUN_S
        while True:
            with contextlib.suppress(FileNotFoundError):
                said = os.stat(NODE)
                group = self.m.run("getent", "group", str(said.st_gid)).stdout.split(":")[0]
                if group == GROUP or time.monotonic() > end:
                    return stat.filemode(said.st_mode), said.st_uid, group
            if time.monotonic() > end:
                return None

    def files(self):
        self.equal(self.node(), ("crw-rw----", 0, GROUP), f"{NODE} is a character device")
        self.tap.ok(not os.path.exists(device.DEVICE), f"there is no {device.DEVICE}")
        self.tap.ok("cuse" in os.path.realpath(f"/sys/class/cuse/{GROUP}"), "it is of CUSE")
        said = self.m.run("dd", f"if={NODE}", "count=0", user=machine.NOBODY)
        self.tap.ok(said.returncode != 0 and "Permission denied" in said.stderr,
                    "a stranger may not open it", said)
        self.m.group = GROUP
        said = self.m.run("dd", f"if={NODE}", "count=0", user=machine.NOBODY)
        self.tap.ok(said.returncode == 0, "one of the group may", said)

    def mounted(self):
        return ["cuse"] if os.path.exists(NODE) else []

    def plain(self, user):
        return device.unit.Program(self.m, "plain", NODE, user=user)

    def stopped(self):
        super().stopped()
        self.equal(self.node(), ("crw-rw----", 0, GROUP), "the new node is the group's as well")


def cuse():
    tap = private.Tap()
    with here(sys.argv[1]) as m:
        suite = Cuse(tap, m)
        m.must("start", SOCKET, SERVICE)
        suite.files()
        suite.by_libmirror()
        suite.blocked_read()
        suite.stopped()
    tap.end()


def main(name):
    bark = private.watchdog
    private.watchdog = lambda seconds: bark(SLOW * seconds)
    machine.boot = here
    machine.RUN_S *= SLOW
    if name == "cuse":
        private.watchdog(110)
        cuse()
        return
    suite = importlib.import_module(name)
    for constant, value in FEWER.get(name, {}).items():
        change(suite, constant, value)
    for method in LEFT_OUT.get(name, ()):
        change(suite.Suite, method, lambda self: None)
    suite.main()


def change(owner, name, value):
    if not hasattr(owner, name):
        sys.exit(f"{owner} has no {name}")
    setattr(owner, name, value)


if __name__ == "__main__":
    main(sys.argv[2])
