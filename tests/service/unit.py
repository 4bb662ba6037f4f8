# SPDX-License-Identifier: GPL-2.0-or-later
"""mirrord's units on a machine, and the program that is its consumer."""
import json
import re
import time

import machine

SERVICE, SOCKET = "mirrord.service", "mirrord.socket"


class Unit:
    """A suite of tests of the service."""

    def __init__(self, tap, m):
        self.tap, self.m = tap, m

    def equal(self, got, wanted, name, *why):
        return self.tap.ok(got == wanted, name, f"wanted {wanted}", f"got {got}", *why)

    def states(self, wanted, name):
        """Of the socket and of the service."""
        got = tuple(self.m.show(unit, "ActiveState") for unit in (SOCKET, SERVICE))
        return self.equal(got, wanted, name, self.m.log())

    def ctl(self, *args, **kwargs):
        return self.m.run(self.m.path("tools", "mirrorctl"), *args, **kwargs)

    def ctl_json(self, *args, **kwargs):
        ran = self.ctl(*args, "--json", **kwargs)
        try:
            return json.loads(ran.stdout)
        except ValueError:
            raise RuntimeError(f"mirrorctl: {ran}\n{self.m.log()}") from None

    def consumer(self, **kwargs):
        return Consumer(self.m, **kwargs)

    def program(self):
        return re.search(r"path=(\S+)", self.m.show(SERVICE, "ExecStart")).group(1)

    def config_file(self):
        usage = self.m.run(self.program(), "--help").stdout
        return re.search(r"--config PATH .*\(default (\S+)\)", usage).group(1)

    def main_pid(self):
        return int(self.m.show(SERVICE, "MainPID"))

    def signal(self, name):
        self.m.must("kill", f"--signal={name}", "--kill-whom=main", SERVICE)

    def wait_replaced(self, pid):
        """Until another process than this serves."""
        end = time.monotonic() + machine.RUN_S
        while True:
            now, state = self.m.show(SERVICE, "MainPID", "ActiveState")
            if int(now) not in (0, pid) and state == "active":
                return
            if state == "failed" or time.monotonic() > end:
                raise RuntimeError(f"{SERVICE} is {state}\n{self.m.log()}")

    def kill(self):
        """Ends the main process, and returns when there is another."""
        pid = self.main_pid()
        self.signal("KILL")
        self.wait_replaced(pid)


class Program:
    """One of ours, that does what it is told."""

    def __init__(self, m, name, *args, **kwargs):
        self.process = m.start(m.path("tests", "service", name), *args, **kwargs)
        self.ready = self.hear().split()
        if self.ready[:1] != ["ready"]:
            raise RuntimeError(f"{name}: {self.ready}\n{m.log()}")

    def say(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def hear(self):
        return machine.hear(self.process)

    def ask(self, word):
        self.say(word)
        return self.hear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(machine.RUN_S)


class Consumer(Program):
    def __init__(self, m, **kwargs):
        super().__init__(m, "consumer", **kwargs)

    def changes(self):
        return int(self.ask("changes").split()[1])

    def goes_on(self):
        """Does it make changes, by its storm?"""
        first, end = self.changes(), time.monotonic() + machine.RUN_S
        while time.monotonic() < end:
            if self.changes() > first + 2:
                return True
        return False
