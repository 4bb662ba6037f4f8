# SPDX-License-Identifier: GPL-2.0-or-later
"""Which programs run in the virtual machine, and with what."""
import json
import os

HERE = os.path.dirname(os.path.abspath(__file__))
# Without hardware help everything takes many times longer.
SLOW = {"CK_TIMEOUT_MULTIPLIER": "6"}
TIMEOUT_S = 300
GUEST = "/run/mirror-vm/"
CUSE = {"MIRROR_TEST_TRANSPORT": "cuse"}
SERVICE = ("cuse", "service", "restart")
# Of tests/api, those with threads that never sleep: on processors that are simulated in turn
# that takes long, and minutes if the machine is busy.
SPINS = ("device-storm", "lookup", "regcache", "regcache-calls")


def tests(build, suite):
    """What meson knows of the tests of a suite: their names, commands and environments."""
    with open(build + "/meson-info/intro-tests.json", encoding="utf-8") as file:
        for test in json.load(file):
            if f"mirrord:{suite}" in test["suite"] and "mirrord:slow" not in test["suite"]:
                yield test["name"], test["cmd"], test["env"]


def program(title, cmd, *envs):
    env = {name: value for e in (SLOW, *envs) for name, value in e.items()}
    return {"title": title, "cmd": cmd, "env": env, "timeout": TIMEOUT_S}


def usual(build):
    yield program("memory", [build + "/tests/vm/test-vm-memory"],
                  {"MIRRORD": build + "/daemon/mirrord"})
    for name in SERVICE:
        yield program(f"systemd {name}",
                      ["/usr/bin/python3", "-B", HERE + "/service.py", build, name])
    for name, cmd, env in tests(build, "device"):
        yield program(f"cuse {name}", cmd, env, CUSE)
    for name, cmd, env in tests(build, "api"):
        if name not in SPINS:
            yield program(f"cuse {name}", cmd, env, CUSE)


def others(build):
    """What runs only if it is asked for."""
    for name, cmd, env in tests(build, "api"):
        if name in SPINS:
            yield program(f"cuse {name}", cmd, env, CUSE)
    for name, cmd, env in tests(build, "api"):
        yield program(f"socket {name}", cmd, env)


def programs(build, names):
    """The usual ones, or all that have one of these names; the path of a script is one too."""
    scripts = [name for name in names if os.path.isfile(name)]
    names = [name for name in names if name not in scripts]
    chosen = [program(os.path.basename(path), [GUEST + os.path.basename(path)])
              for path in scripts]
    if names:
        chosen += [p for p in [*usual(build), *others(build)]
                   if any(name in p["title"] for name in names)]
    elif not scripts:
        chosen = list(usual(build))
    return chosen, scripts
