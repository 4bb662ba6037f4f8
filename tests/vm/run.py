#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests that need a kernel of their own: in a virtual machine.  Prints TAP.

usage: run.py BUILD-DIRECTORY [--shell | --list | NAME...] | --self-test

Boots Debian's kernel 6.12 in QEMU, without KVM, with two processors and two nodes of
memory.  Its root is that of this machine, which is only read, below a tmpfs, where the
build is installed; systemd is its first process.  It has no network.

NAME is a part of the name of a program of --list, or the path of a script to run instead;
without one, the usual programs run.
--shell gives a shell in there.  What the kernel said is in BUILD-DIRECTORY/meson-logs/vm.log;
a warning, an oops or a stall there is a failed test.
"""
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import guest
import kernel
import stage
import suites

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
# Five minutes are enough for all, but not beside twenty other programs.
BOOT_S = 150
PROGRAMS_S = 900
COMPLAINT = re.compile(
    r"WARNING: |BUG: |BUG at |Oops|Call Trace|general protection fault.*\[#|Kernel panic|"
    r"rcu: INFO: .*stall|rcu.*detected stalls|soft lockup|hard LOCKUP|"
    r"blocked for more than|Unable to handle|KASAN|UBSAN|refcount_t: |list_(add|del) corruption|"
    r"Bad page (state|map)|Bad rss-counter|scheduling while atomic|INFO: task ")
ARGUMENTS = ("console=ttyS0 loglevel=5 panic=-1 oops=panic mitigations=off lsm=landlock,yama,bpf "
             "numa_balancing=disable "
             "rcupdate.rcu_cpu_stall_timeout=120 sysctl.kernel.watchdog_thresh=60 "
             "systemd.unit=mirror-vm.target systemd.show_status=0")


def complaints(log):
    """What of the kernel's log says that something is wrong: before, and on purpose."""
    before, _, after = log.partition(guest.PURPOSE)
    return [[line.strip() for line in text.splitlines() if COMPLAINT.search(line)]
            for text in (before, after)]


def qemu(folder, root, folders, shell):
    """The command: the serial line is the kernel's log, standard output the tests'."""
    program = shutil.which("qemu-system-x86_64")
    if not program or os.uname().machine != "x86_64":
        raise kernel.Unavailable("qemu-system-x86_64 is not installed")
    options = f"{ARGUMENTS} mirror.stage={root} mirror.folders={','.join(folders)}"
    return ["timeout", "--foreground", "--kill-after=5",
            "7200" if shell else str(BOOT_S + PROGRAMS_S + 30), program,
            "-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2,sockets=2", "-m", "3G",
            "-object", "memory-backend-ram,id=m0,size=1536M",
            "-object", "memory-backend-ram,id=m1,size=1536M",
            "-numa", "node,memdev=m0,cpus=0", "-numa", "node,memdev=m1,cpus=1",
            "-kernel", folder["kernel"] + "/vmlinuz", "-initrd", folder["initramfs"],
            "-append", options, "-no-reboot", "-nodefaults", "-display", "none", "-net", "none",
            "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,"
                       "multidevs=remap",
            *(["-serial", "stdio"] if shell else
              ["-serial", "file:" + folder["log"], "-chardev", "file,id=tap,path=/dev/stdout",
               "-device", "virtio-serial-pci",
               "-device", "virtserialport,chardev=tap,name=tap"])]


def read(path):
    with open(path, "rb") as file:
        return file.read()


class Tap:
    """Numbers the tests and counts the failed ones."""

    def __init__(self):
        self.n_tests = self.n_failed = 0

    def line(self, text):
        result = re.match(r"(not ok|ok) - (.*)", text)
        if result:
            self.n_tests += 1
            self.n_failed += result.group(1) != "ok"
            text = f"{result.group(1)} {self.n_tests} - {result.group(2)}"
        print(text, flush=True)

    def test(self, good, title):
        self.line(f"{'ok' if good else 'not ok'} - {title}")


def boot(command, tap, limit):
    """Passes on what the tests say.  False if that did not come to its end."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as child:
        signal.signal(signal.SIGTERM, lambda *_: (child.terminate(), sys.exit(1)))
        end, rest, ended = time.monotonic() + limit, b"", False
        while time.monotonic() < end:
            if not select.select([child.stdout], [], [], max(0, end - time.monotonic()))[0]:
                break
            data = os.read(child.stdout.fileno(), 65536)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                text = line.decode(errors="replace").rstrip("\r")
                ended = ended or text == "# end"
                tap.line(text)
        else:
            ended = False
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
    return ended


def finish(tap, ended, log):
    """The tests of the whole: that it came to its end, and what the kernel said."""
    tap.test(ended, "the virtual machine: runs to its end")
    before, purpose = complaints(log)
    tap.test(not before, "the virtual machine: the kernel does not complain")
    if before or not ended:
        for line in log.splitlines()[-60:]:
            print("#  ", line)
    for line in before[:20]:
        print("# !", line)
    if ended:
        tap.test(purpose, "the virtual machine: if the kernel complained, that would be seen")
    print(f"1..{tap.n_tests}")
    return 1 if tap.n_failed else 0


def main(build, names):
    shell, tap = "--shell" in names, Tap()
    programs, scripts = suites.programs(build, [name for name in names if name[:2] != "--"])
    if "--list" in names:
        for what, some in (("usual", suites.usual(build)), ("other", suites.others(build))):
            print(*(f"{what}  {program['title']}" for program in some), sep="\n")
        return 0
    start = time.monotonic()

    def say(text):
        print(f"# {time.monotonic() - start:3.0f} s  {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="mirror-vm-") as scratch:
        log = build + "/meson-logs/vm.log"
        root = scratch + "/root"
        plan = {"programs": programs, "limit": PROGRAMS_S, "shell": shell}
        files = {"guest/" + os.path.basename(path): read(path)
                 for path in [HERE + "/prepare", HERE + "/guest.py", *scripts]}
        files["init"] = read(build + "/tests/vm/vm-init")
        files["guest/plan.json"] = json.dumps(plan).encode()
        try:
            folder = {"kernel": kernel.get(say), "initramfs": scratch + "/initramfs", "log": log}
            with open(folder["initramfs"], "wb") as file:
                file.write(kernel.initramfs(folder["kernel"], files))
            command = qemu(folder, root, [root, build, ROOT], shell)
        except (kernel.Unavailable, subprocess.TimeoutExpired) as error:
            print(f"1..0 # SKIP {error}")
            return 77
        stage.make(root, build)
        say(f"booting {os.path.basename(folder['kernel'])}")
        if shell:
            return subprocess.run(command, check=False).returncode
        ended = boot(command, tap, BOOT_S + PROGRAMS_S)
        say("stopped")
        return finish(tap, ended, read(log).decode(errors="replace"))


SAMPLES = [
    # the kernel's log, and is it a complaint?
    ("[    1.0] WARNING: CPU: 0 PID: 1 at fs/fuse/dev.c:1 f+0x1/0x2 [fuse]", True),
    ("[    1.0] BUG: kernel NULL pointer dereference, address: 0000000000000000", True),
    ("[    1.0] kernel BUG at mm/memory.c:12!", True),
    ("[    1.0] Oops: 0000 [#1] PREEMPT SMP NOPTI", True),
    ("[    1.0] Call Trace:", True),
    ("[    1.0] general protection fault, maybe for address 0x1: 0000 [#1] SMP", True),
    ("[    1.0] rcu: INFO: rcu_preempt self-detected stall on CPU", True),
    ("[    1.0] watchdog: BUG: soft lockup - CPU#1 stuck for 143s! [a:1]", True),
    ("[    1.0] INFO: task target:12 blocked for more than 120 seconds.", True),
    ("[    1.0] Kernel panic - not syncing: sysrq triggered crash", True),
    ("[    1.0] clocksource: Marking clocksource 'tsc' as unstable", False),
    ("[    1.0] traps: a[1] general protection fault ip:1 sp:2 error:0 in a[3]", False),
    ("[    1.0] warning: `a' uses wireless extensions", False),
]


def self_test():
    failed = guest.self_test()
    for line, wanted in SAMPLES:
        got = [bool(found) for found in complaints(f"{line}\n{guest.PURPOSE}\n")]
        got += [bool(found) for found in complaints(f"{guest.PURPOSE}\n{line}\n")]
        good = got == [wanted, False, False, wanted]
        print("ok" if good else "FAIL", line)
        failed += not good
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--self-test"]:
        sys.exit(self_test())
    if len(sys.argv) < 2 or not os.path.isdir(sys.argv[1]):
        sys.exit(__doc__)
    sys.exit(main(os.path.abspath(sys.argv[1]), sys.argv[2:]))
