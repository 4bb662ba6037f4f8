#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""mirrord is restarted, killed and stopped while targets change and consumers look.

usage: restart.py BUILD-DIRECTORY [--full]
"""
import contextlib
import os
import statistics
import struct
import sys

import machine
import private
import unit
from unit import SERVICE

QUICK, FULL = 5, 100
WATCHDOG_S = 2
KEPT = 0x4              # MIRROR_INFO_KEPT
STATE_FILE = "/memfd:mirror-state"
VERSION_AT = 4          # the second word of it
DROP_IN = f"/etc/systemd/system/{SERVICE}.d/start.conf"


class Storm(unit.Program):
    """Four targets and four consumers, all at it."""

    def __init__(self, m, *options):
        super().__init__(m, "led-storm", *options)

    def hear(self):
        """Its answer; what else it says, in comments, is passed on."""
        while True:
            line = machine.hear(self.process, 3 * machine.RUN_S)
            if not line.startswith("#"):
                return line
            print(line, flush=True)

    def more(self):
        """All targets change and all consumers look, after what was just done."""
        return self.ask("more") == "more 1"


class Suite(unit.Unit):
    def __init__(self, tap, m, times):
        super().__init__(tap, m)
        self.times = times

    def stored(self):
        return int(self.m.show(SERVICE, "NFileDescriptorStore"))

    @contextlib.contextmanager
    def storm(self, name, *options):
        with Storm(self.m, *options) as storm:
            yield storm
            said = storm.ask("end")
            self.tap.ok(said.startswith("end 1 "), f"{name}: nothing went wrong", said)
            print(f"# {name}: {said}", flush=True)

    def kept(self):
        """One consumer, which may not notice."""
        with self.consumer() as c:
            flags = int(c.ask("info").split()[2])
            self.tap.ok(flags & KEPT, "what the service does outlives it", flags)
            self.equal(c.ask("lookup"), "lookup 0 1", "a lookup is good")
            before = int(c.ask("info").split()[1])
            for how in (self.restart, self.kill):
                how()
                self.equal(c.ask("lookup"), "lookup 0 1", f"and so after a {how.__name__}")
                c.ask("change")
                self.equal(c.ask("lookup"), "lookup 0 1", "and after a change")
                now = int(c.ask("info").split()[1])
                self.tap.ok(now != before, "it is served by another mirrord", before, now)
                before = now
            self.tap.ok(self.stored() > 0, "systemd has kept descriptors", self.stored())
        self.equal(self.ctl_json("status")["counters"]["targets"], 0, "in the end nothing is left")

    def restart(self):
        self.m.must("restart", SERVICE)

    def again_and_again(self, name, how):
        """With one more target, that says how long its longest change took."""
        pauses, going = [], 0
        with self.storm(name) as storm, self.consumer() as c:
            c.ask("storm")
            for _ in range(self.times):
                c.ask("longest")
                how()
                going += storm.more() and c.goes_on()
                pauses.append(int(c.ask("longest").split()[1]) / 1e6)
            self.equal(going, self.times, f"{name}: after each of {self.times} all go on")
            c.ask("calm")
            self.equal(c.ask("lookup"), "lookup 0 1", f"{name}: a lookup is good in the end")
        print(f"# {name}: the longest change took {statistics.median(pauses):.1f} ms in the "
              f"median, {max(pauses):.1f} ms at most", flush=True)

    # ---- what is not kept ----

    def without_store(self):
        """Everybody is told that all is over, by systemctl or by death."""
        self.m.drop_in(SERVICE, "[Service]\nFileDescriptorStoreMax=0\n")
        self.restart()
        with self.storm("without a store", "lose") as storm, self.consumer() as c:
            self.equal(self.stored(), 0, "without a store: nothing is kept")
            self.restart()
            self.equal(c.ask("lookup"), "lookup 32 0", "without a store: a consumer hears EPIPE")
            self.tap.ok(storm.more(), "without a store: the storm begins anew")
            self.kill()
            self.tap.ok(storm.more(), "without a store: and after a SIGKILL")
        self.m.drop_in(SERVICE, "")
        self.restart()

    def other_version(self):
        """A mirrord that cannot read the state begins anew, and everybody hears of it."""
        with self.storm("other version", "lose") as storm, self.consumer() as c:
            with open(self.state_file(), "r+b", buffering=0) as file:
                file.seek(VERSION_AT)
                version, = struct.unpack("=I", file.read(4))
                file.seek(VERSION_AT)
                file.write(struct.pack("=I", version + 1000))
            self.kill()
            self.equal(c.ask("lookup"), "lookup 32 0", "other version: a consumer hears EPIPE")
            self.tap.ok(storm.more(), "other version: the storm begins anew")
            with self.consumer() as d:
                self.kill()
                self.equal(d.ask("lookup"), "lookup 0 1", "other version: then all is kept again")

    def cannot_start(self):
        """One that would never start lets go of all, instead of being tried for ever."""
        missing = f"[Service]\nExecStart=\nExecStart={self.program()}.missing\n"
        for name, path, text in (("wrong settings", self.config_file(), "[limits]\nwrong\n"),
                                 ("no program", DROP_IN, missing)):
            with self.consumer() as c:
                c.ask("storm")
                self.m.write(path, text)
                self.m.must("daemon-reload")
                ran = self.m.systemctl("restart", SERVICE)
                self.tap.ok(ran.returncode != 0, f"{name}: mirrord cannot be started", ran)
                self.tap.ok(c.goes_on(), f"{name}: targets go on")
                self.equal(c.ask("lookup"), "lookup 32 0", f"{name}: a consumer hears EPIPE")
                c.ask("calm")
            os.unlink(self.m.at(path))
            self.m.must("daemon-reload")
            with self.consumer() as c:
                self.equal(c.ask("lookup"), "lookup 0 1", f"{name}: mended, who comes is served")

    def cannot_go_on(self):
        """One that dies each time that it tries to go on with a target begins anew in the end."""
        with self.consumer() as c:
            c.ask("storm")
            # by this call it finds the process again, and now it is killed for it
            self.m.drop_in(SERVICE, "[Service]\nSystemCallFilter=\n"
                           "SystemCallFilter=~pidfd_open\nSystemCallErrorNumber=kill\n")
            before = int(self.m.show(SERVICE, "NRestarts"))
            self.kill()
            died = int(self.m.show(SERVICE, "NRestarts")) - before - 1
            self.tap.ok(died > 1, f"cannot go on: mirrord died {died} times, and serves")
            self.tap.ok(c.goes_on(), "cannot go on: targets go on")
            self.equal(c.ask("lookup"), "lookup 32 0", "cannot go on: a consumer hears EPIPE")
            c.ask("calm")
        self.m.drop_in(SERVICE, "")
        self.restart()
        with self.consumer() as c:
            self.kill()
            self.equal(c.ask("lookup"), "lookup 0 1", "cannot go on: then all is kept again")

    def state_file(self):
        folder = self.m.at(f"/proc/{self.main_pid()}/fd")
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if os.readlink(path).startswith(STATE_FILE):
                return path
        raise RuntimeError(f"mirrord has no {STATE_FILE}")

    # ---- hanging ----

    def watchdog(self):
        """One that stands still is replaced, and nothing is lost."""
        self.m.drop_in(SERVICE, f"[Service]\nWatchdogSec={WATCHDOG_S}\n")
        self.restart()
        with self.storm("watchdog") as storm, self.consumer() as c:
            c.ask("storm")
            pid = self.main_pid()
            self.signal("STOP")
            self.wait_replaced(pid)
            self.tap.ok(storm.more() and c.goes_on(), "watchdog: all go on")
            pause = int(c.ask("longest").split()[1]) / 1e6
            print(f"# watchdog: the longest change took {pause:.0f} ms", flush=True)
            c.ask("calm")
            self.equal(c.ask("lookup"), "lookup 0 1", "watchdog: a lookup is good")
        told = self.m.journal("-u", SERVICE, "--grep=[Ww]atchdog timeout")
        self.tap.ok(told, "watchdog: it was the watchdog", self.m.log())
        self.m.drop_in(SERVICE, "")
        self.restart()


def main():
    tap = private.Tap()
    full = "--full" in sys.argv[2:]
    private.watchdog(600 if full else 170)
    with machine.boot(sys.argv[1]) as m:
        m.must("start", SERVICE)
        suite = Suite(tap, m, FULL if full else QUICK)
        suite.kept()
        suite.again_and_again("restart", suite.restart)
        suite.again_and_again("SIGKILL", suite.kill)
        suite.without_store()
        suite.other_version()
        suite.watchdog()
        suite.cannot_start()
        suite.cannot_go_on()
    tap.end()


if __name__ == "__main__":
    main()
