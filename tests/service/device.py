#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The device file of the service, where the kernel has no CUSE.

usage: device.py BUILD-DIRECTORY
"""
import os
import stat
import sys

import machine
import private
import unit
from unit import SERVICE, SOCKET

DEVICE, CUSE_DEVICE, CONTROL = "/run/mirror/device", "/dev/mirror", "/run/mirror/control"
UNMAP = 1               # MIRROR_EVENT_UNMAP


class Suite(unit.Unit):
    def files(self):
        """Who may do what to which file."""
        for path, wanted in (("/run/mirror", "drwxr-xr-x"), (CONTROL, "srw-rw-rw-"),
                             (DEVICE, "-rw-rw-rw-")):
            there = os.path.exists(self.m.at(path))
            got = stat.filemode(os.stat(self.m.at(path)).st_mode) if there else None
            self.equal(got, wanted, f"{path} is {wanted}")
        self.tap.ok("fuse.mirror" in self.mounted(), "the device is a file system of its own",
                    self.m.run("cat", "/proc/self/mounts").stdout)

    def mounted(self):
        """What kinds of file systems lie over the device."""
        text = self.m.run("cat", "/proc/self/mounts").stdout
        return [line.split()[2] for line in text.splitlines() if line.split()[1] == DEVICE]

    def by_libmirror(self):
        """libmirror connects by it, also where there is no socket."""
        hidden = CONTROL + ".hidden"
        os.rename(self.m.at(CONTROL), self.m.at(hidden))
        try:
            for user in ("0", machine.NOBODY):
                with self.consumer(user=user) as c:
                    self.equal(c.ask("lookup"), "lookup 0 1",
                               f"libmirror of user {user} finds the device")
                    self.restart()
                    self.equal(c.ask("lookup"), "lookup 0 1", "and goes on after a restart")
        finally:
            os.rename(self.m.at(hidden), self.m.at(CONTROL))

    def restart(self):
        self.m.must("restart", SERVICE)

    def blocked_read(self):
        """read(2) sleeps through any end of mirrord's, and gets its event."""
        for user in ("0", machine.NOBODY):
            with self.plain(user) as p:
                self.one_event(p, f"user {user}: read() returns what was changed")
                before = p.ask("info")
                for how in (self.restart, self.kill, self.restart):
                    self.equal(p.ask("asleep"), "asleep", f"read() sleeps, {how.__name__}")
                    how()
                    self.equal(p.ask("asleep"), "asleep", "and sleeps on")
                    self.one_event(p, "and returns what was changed then")
                    now = p.ask("info")
                    self.tap.ok(now.endswith(" 0") and now != before,
                                "an ioctl is served by another mirrord", before, now)
                    before = now
                self.equal(len(self.mounted()), 1, "it is mounted once")

    def one_event(self, p, name):
        p.ask("change")
        self.equal(p.ask("event"), f"event {UNMAP} 0", name)

    def plain(self, user):
        return unit.Program(self.m, "plain", DEVICE, user=user)

    def stopped(self):
        """Who is blocked hears of the end."""
        with self.plain("0") as p:
            p.ask("asleep")
            self.m.must("stop", SERVICE)
            said = p.ask("event").split()
            self.tap.ok(said[:2] == ["event", "0"] and said[2] != "0",
                        f"stopped: read() fails, errno {said[-1]}", said)
            self.equal(p.ask("change"), "done", "stopped: the target goes on")
            self.tap.ok(p.ask("info").split()[2] != "0", "stopped: an ioctl fails too")
        ran = self.m.run("cat", DEVICE)
        self.tap.ok(ran.returncode != 0, "stopped: nobody can open it", ran)
        with self.consumer() as c:
            self.equal(c.ask("lookup"), "lookup 0 1",
                       "stopped: libmirror goes by the socket, which starts it again")
        self.equal(len(self.mounted()), 1, "it is mounted once")
        with self.plain("0") as p:
            self.one_event(p, "started again: read() returns what was changed")


def main():
    tap = private.Tap()
    private.watchdog(110)
    if os.path.exists("/dev/cuse"):
        machine.skip_all(f"the kernel has CUSE, so the device is {CUSE_DEVICE}")
    if not os.path.exists("/dev/fuse"):
        machine.skip_all("the kernel has no FUSE")
    with machine.boot(sys.argv[1]) as m:
        suite = Suite(tap, m)
        m.must("start", SOCKET, SERVICE)
        suite.files()
        suite.by_libmirror()
        suite.blocked_read()
        suite.stopped()
    tap.end()


if __name__ == "__main__":
    main()
