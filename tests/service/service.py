#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""mirrord as a service: what systemctl starts, stops, restarts and says of it.

usage: service.py BUILD-DIRECTORY
"""
import os
import re
import sys
import time

import machine
import private
import unit
from unit import SERVICE, SOCKET

STOP_MS = 5000          # so that a hang is told from slowness, of the machine's too
KILLS = 20


class Suite(unit.Unit):
    def stop_all(self):
        self.m.must("stop", SERVICE, SOCKET)

    # ---- start and stop ----

    def activation(self):
        self.states(("inactive", "inactive"), "at first nothing runs")
        ran = self.ctl("status")
        self.tap.ok(ran.returncode != 0, "and there is nobody to ask", ran)
        self.m.must("start", SOCKET)
        self.states(("active", "inactive"), "the socket alone")
        ran = self.ctl("status")
        self.tap.ok(ran.returncode == 0, "who connects is served", ran, self.m.log())
        self.states(("active", "active"), "and so has started the service")
        self.m.must("stop", SERVICE)
        self.states(("active", "inactive"), "stopped, the socket stays")
        with self.consumer() as c:
            self.equal(c.ask("lookup"), "lookup 0 1", "the next consumer starts it again")
            self.states(("active", "active"), "which runs")

    def start_and_stop(self):
        self.stop_all()
        self.states(("inactive", "inactive"), "both stopped")
        self.m.must("start", SERVICE)
        self.states(("active", "active"), "the service needs its socket")
        first = self.main_pid()
        self.m.must("restart", SERVICE)
        self.states(("active", "active"), "restarted")
        self.tap.ok(self.main_pid() not in (0, first), "it is another process", first)
        self.equal(self.m.show(SERVICE, "Result", "NRestarts"), ["success", "0"],
                   "and none was forced")
        self.equal(self.ctl("status").returncode, 0, "it serves")

    def status(self):
        with self.consumer():
            self.until(lambda: "1 target, 1 client" in self.m.show(SERVICE, "StatusText"),
                       "the status counts the target")
            text = self.m.systemctl("status", SERVICE)
            self.tap.ok(text.returncode == 0 and "Active: active (running)" in text.stdout and
                        re.search(r'^ +Status: "1 target, 1 client', text.stdout, re.M),
                        "systemctl status says so", text)
        self.until(lambda: "0 targets, 0 clients" in self.m.show(SERVICE, "StatusText"),
                   "and that it is gone")

    def until(self, is_true, name):
        """What is to become true becomes true."""
        end = time.monotonic() + machine.RUN_S
        while not is_true():
            if time.monotonic() > end:
                self.tap.ok(False, name, self.m.show(SERVICE, "StatusText"), self.m.log())
                return
        self.tap.ok(True, name)

    # ---- settings ----

    def limit(self):
        return self.ctl_json("status", user=machine.NOBODY)["limits"]["targets"]

    def told(self, text):
        return [e["MESSAGE"] for e in self.m.journal("-u", SERVICE) if text in e["MESSAGE"]]

    def reload(self):
        """The file is read again; when it is wrong, all stays as it was."""
        path, built_in, pid = self.config_file(), self.limit(), self.main_pid()
        with self.consumer() as c:
            self.m.write(path, "[limits]\ntargets = 7\n[limits nobody]\ntargets = 1\n")
            self.m.must("reload", SERVICE)
            self.until(lambda: self.limit() == 1, "reload: there are new limits")
            self.equal(self.ctl_json("status")["limits"]["targets"], 7,
                       "reload: others for others")
            self.enforced()

            self.m.write(path, "[limits]\ntargets = many\n")
            self.m.must("reload", SERVICE)
            self.until(lambda: self.told("the settings stay as they were"),
                       "reload of a broken file: it is logged")
            self.equal(len(self.told(f"{path}:2: ")), 1, "with the line")
            self.equal(self.limit(), 1, "and the old limits stay")

            os.unlink(self.m.at(path))
            self.m.must("reload", SERVICE)
            self.until(lambda: self.limit() == built_in, "reload without a file: as built in")
            self.equal(c.ask("lookup"), "lookup 0 1", "no consumer noticed")
        self.equal(self.main_pid(), pid, "it is the same process")
        self.equal(self.m.show(SERVICE, "ActiveState"), "active", "which runs")

    def enforced(self):
        with self.consumer(user=machine.NOBODY):
            second = self.m.run(self.m.path("tests", "service", "consumer"), user=machine.NOBODY)
            self.tap.ok(second.returncode == 1 and "Disk quota exceeded" in second.stderr,
                        "one too many is refused", second)
        found = [e for e in self.m.journal("-u", SERVICE, "MIRROR_EVENT=refused")]
        self.tap.ok(found and all(e["MIRROR_UID"] == machine.NOBODY and
                                  e["SYSLOG_IDENTIFIER"] == "mirrord" for e in found),
                    "which the journal has, with its fields", found, self.m.log())

    # ---- what consumers see ----

    def stop_is_told(self):
        """A consumer that sleeps in mirror_wait() hears at once that it is over."""
        self.m.must("start", SERVICE)
        with self.consumer() as waiter, self.consumer() as other:
            waiter.ask("storm")
            waiter.say("wait")
            begun = time.monotonic_ns()
            self.m.must("stop", SERVICE)
            words = waiter.hear().split()
            self.equal(words[:2], ["over", "32"], "a consumer that waits hears EPIPE", words)
            took = (int(words[-1]) - begun) / 1e6
            self.tap.ok(took < STOP_MS, f"{took:.0f} ms after 'systemctl stop' began", took)
            self.equal(other.ask("lookup"), "lookup 32 0", "no lookup is good")
            self.equal(other.ask("events").split()[2:], ["1"], "the other had an OVERFLOW")
            self.equal(waiter.ask("events").split()[2:], ["1"], "and so had the first")
            self.tap.ok(waiter.goes_on(), "the target goes on")
            waiter.ask("calm")
        self.states(("active", "inactive"), "the service is stopped")

    # ---- being killed ----

    def kills(self):
        """There is no start limit: it comes again however often it goes."""
        self.m.must("start", SERVICE)
        before = int(self.m.show(SERVICE, "NRestarts"))
        for _ in range(KILLS):
            self.kill()
        self.equal(int(self.m.show(SERVICE, "NRestarts")) - before, KILLS,
                   f"killed {KILLS} times in a row, and started as often")
        self.states(("active", "active"), "it is still there")


def main():
    tap = private.Tap()
    private.watchdog(110)
    with machine.boot(sys.argv[1]) as m:
        suite = Suite(tap, m)
        suite.activation()
        suite.start_and_stop()
        suite.status()
        suite.reload()
        suite.stop_is_told()
        suite.kills()
    tap.end()


if __name__ == "__main__":
    main()
