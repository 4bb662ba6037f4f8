#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What each operation on memory makes mirrorctl say: exactly that, and nothing else.

usage: scenario.py BUILD-DIRECTORY [OPERATION...]

Runs the program ops under 'mirrorctl run' for each line of the table, and compares
the events between its two marks with those of the line.
"""
import collections
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import private

# An event is EVENT/CAUSE [FIRST,END)PAGES, of the range or, with B, of the other
# place; ">B" is where it moved, ">to" where the kernel said.  A CLEAR is told at its
# start, everything else at one point.  "-" is: nothing may come.
TABLE = """
munmap-whole        anon shmem file : unmap/munmap [0,16)
munmap-head         anon shmem file : unmap/munmap [0,4)
munmap-hole         anon shmem file : unmap/munmap [4,8)
munmap-superset     anon shmem file : unmap/munmap [-4,20)
munmap-two          anon shmem file : unmap/munmap [0,16)
munmap-nothing      anon            : -
fixed-whole         anon shmem file : unmap/map_fixed [0,16)
fixed-hole          anon shmem file : unmap/map_fixed [4,8)
fixed-again         anon shmem file : unmap/map_fixed [0,16) unmap/munmap [0,16)
mmap-new            anon shmem file : -
noreplace           anon            : -
brk-shrink          anon            : unmap/brk [4,16)
brk-grow            anon            : -
mremap-shrink       anon shmem file : unmap/mremap [4,16)
mremap-move         anon shmem file : remap/mremap [0,16)>to unmap/mremap [0,16)
mremap-fixed        anon shmem file : remap/mremap [0,16)>B unmap/mremap [0,16)
mremap-over         anon shmem file : unmap/mremap B[0,16) remap/mremap [0,16)>B \
                                      unmap/mremap [0,16)
mremap-again        anon shmem file : remap/mremap [0,16)>B unmap/mremap [0,16) \
                                      unmap/munmap B[0,16)
mremap-dontunmap    anon shmem file : remap/mremap [0,16)>to
mremap-grow         anon shmem file : -
dontneed-whole      anon shmem file : clear/dontneed [0,16)
dontneed-part       anon shmem file : clear/dontneed [4,8)
dontneed-two        anon shmem file : clear/dontneed [0,8) clear/dontneed [8,16)
dontneed-untouched  anon shmem file : clear/dontneed [0,16)
free                anon            : clear/free [0,16)
remove              shmem           : clear/remove [0,16)
willneed            anon shmem file : -
cold                anon shmem file : -
mprotect            anon shmem file : -
mlock               anon shmem file : -
faults              anon shmem file : -
fork                anon shmem file : fork/fork
fork-unmap          anon shmem file : fork/fork
vfork-exec          anon            : -
exec                anon shmem      : release/exec release/exit
exec-self           anon            : release/exec release/exit
exit                anon shmem file : release/exit
sigkill             anon shmem file : release/exit
threads             anon shmem      : unmap/munmap [0,4) unmap/munmap [4,8) \
                                      unmap/munmap [8,12) unmap/munmap [12,16)
"""
# What a child does, as seen with its parent.
CHILD = {
    "fork": "release/exit",
    "fork-unmap": "unmap/munmap [4,8) unmap/munmap [0,16) release/exit",
}
STATUS = {"sigkill": 128 + signal.SIGKILL}
UNORDERED = {"threads"}
KEYS = {"seq", "time_ns", "target", "pid", "event", "cause", "phase", "start", "end", "source",
        "guarantee"}
EVENT = re.compile(r"(\w+)/(\w+)(?: (B?)\[(-?\d+),(-?\d+)\)(>\w+)?)?")
PAGE = 4096
TIMEOUT = 60
NOBODY = 65534

Line = collections.namedtuple("Line", "op memory wanted")
Ran = collections.namedtuple("Ran", "status said events stderr")


def table():
    for text in TABLE.replace("\\\n", " ").strip().splitlines():
        head, _, wanted = text.partition(":")
        op, *memories = head.split()
        for memory in memories:
            yield Line(op, memory, wanted.strip())


OLDER_CHILD = """
import ctypes, json, os, subprocess, sys, time
plain = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
older = subprocess.Popen(["/bin/sleep", "60"], env=plain)
hold, let_go = os.pipe()
fork = {"x86_64": 57}.get(os.uname().machine)
child = ctypes.CDLL(None).syscall(fork) if fork else os.fork()
if child == 0:
    os.close(let_go)
    os.read(hold, 1)
    os._exit(0)
print("older", older.pid)
print("child", child)
status, end = 1, time.monotonic() + 20
while status and time.monotonic() < end:
    said = subprocess.run([sys.argv[1], "list", "--json"], env=plain, stdout=subprocess.PIPE).stdout
    pids = [json.loads(line)["pid"] for line in said.splitlines()]
    if older.pid in pids:
        break
    status = 0 if child in pids else 1
os.close(let_go)
os.waitpid(child, 0)
older.kill()
older.wait()
sys.exit(status)
"""


def is_but_for_causes(got, wanted):
    """Do they differ only in causes that are unknown?"""
    def bare(text):
        return re.sub("/[a-z_]+", "", text)

    return sorted(map(bare, got)) == sorted(map(bare, wanted)) and all(
        text in wanted or "/unknown" in text for text in got)


def is_sanitizers(start):
    """AddressSanitizer maps over its shadow and its heap at fixed addresses as it goes: these
    changes are real, and reported, but they are not the program's."""
    return "ASAN_OPTIONS" in os.environ and (
        0x7fff8000 <= start < 0x10007fff8000 or 0x600000000000 <= start < 0x640000000000)


class Said:
    """What the program said about itself."""

    def __init__(self, text):
        self.text, self.marks, self.other, self.to = text, [], 0, 0
        self.pid = self.start = None
        for line in text.splitlines():
            word, *rest = line.split()
            if word == "pid" and self.pid is None:
                self.pid = int(rest[0])
            elif word == "range" and self.start is None:
                self.start = int(rest[0], 16)
            elif word == "other" and not self.other:
                self.other = int(rest[0], 16)
            elif word == "to":
                self.to = int(rest[0], 16)
            elif word == "mark":
                self.marks.append(int(rest[0], 16))


def show(event, said):
    """An event in the table's language; addresses that are not in it stay numbers."""
    text = f"{event['event']}/{event['cause']}"
    if event["event"] in ("release", "fork"):
        return text
    start, end = int(event["start"], 16), int(event["end"], 16)
    if said.other - 8 * PAGE <= start < said.other + 64 * PAGE:
        text += f" B[{(start - said.other) // PAGE},{(end - said.other) // PAGE})"
    elif abs(start - said.start) < 4096 * PAGE:
        text += f" [{(start - said.start) // PAGE},{(end - said.start) // PAGE})"
    else:
        text += f" [{start:#x},{end:#x})"
    if "to" in event:
        to = int(event["to"], 16)
        text += ">B" if to == said.other else ">to" if to == said.to else f">{to:#x}"
    return text


def split(wanted):
    return [] if wanted == "-" else [m.group(0) for m in EVENT.finditer(wanted)]


def form_complaints(event):
    """What is wrong with an event, whatever it tells."""
    if not KEYS <= event.keys():
        yield f"keys are missing: {KEYS - event.keys()}"
        return
    release = event["event"] == "release"
    for key, value in (
            ("phase", ("start", "end") if event["event"] == "clear" else ("point",)),
            ("source", ("exit",) if release else ("uffd",)),
            ("guarantee", ("point",) if release else ("ordered",))):
        if event[key] not in value:
            yield f"{key} is {event[key]}: {event}"


class Suite:
    def __init__(self, tap, build, folder, where):
        self.tap, self.build, self.folder, self.where = tap, build, folder, where
        self.n = 0
        self.user = None

    def path(self, *parts):
        return os.path.join(self.build, *parts)

    def become(self):
        if self.user is not None:
            os.setgroups([])
            os.setgid(self.user)
            os.setuid(self.user)

    def run(self, argv, *options):
        """Runs a program under mirrorctl."""
        self.n += 1
        folder = os.path.join(self.folder, "out")
        file = os.path.join(folder, f"{self.n}.json")
        done = subprocess.run(
            [self.path("tools", "mirrorctl"), "run", "--json", "-o", file, *options, "--", *argv],
            env={**os.environ, "MIRROR_SOCKET": self.where}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT,
            preexec_fn=self.become, cwd="/")
        try:
            with open(file, encoding="utf-8") as f:
                events = [json.loads(line) for line in f]
            os.unlink(file)
        except FileNotFoundError:
            events = []
        return Ran(done.returncode, done.stdout, events, done.stderr)

    def ops(self, op, memory, *options, program="ops"):
        return self.run([self.path("tests", "scenario", program), op, memory, self.files()],
                        *options)

    def files(self):
        return os.path.join(self.folder, "out")

    def general(self, ran):
        """What must hold for every run."""
        wrong = [c for e in ran.events for c in form_complaints(e)]
        if [e.get("seq") for e in ran.events] != list(range(1, len(ran.events) + 1)):
            wrong.append("seq has gaps")
        times = [e.get("time_ns", 0) for e in ran.events]
        if any(b < a for a, b in zip(times, times[1:])) and "end" not in str(ran.events):
            wrong.append("time goes backwards")
        ended = set()
        for e in ran.events:
            if e["target"] in ended:
                wrong.append(f"after the last event of its target: {e}")
            if e.get("last"):
                ended.add(e["target"])
                if e["event"] != "release":
                    wrong.append(f"last, but no release: {e}")
        return wrong

    def between(self, ran, said):
        """The events of the program between its marks, or from the first one on."""
        mine, inside, seen = [], False, 0
        target = None
        for e in ran.events:
            if e["pid"] == said.pid and target is None:
                target = e["target"]
            if e["target"] != target:
                continue
            start = int(e["start"], 16)
            if e["event"] == "unmap" and start in said.marks[:2]:
                seen += 1
                inside = start == said.marks[0]
            elif inside and not is_sanitizers(start):
                mine.append(e)
        return mine, seen, target

    def check(self, line, *options, name=None, tries=3):
        """Runs an operation and compares.  A cause is what a look at the target's threads showed,
        and on a busy machine they can be seen running: then it is unknown, which is never wrong.
        It must be known in one of a few runs; everything else in each of them."""
        ran = self.ops(line.op, line.memory, *options)
        said = Said(ran.said)
        name = name or f"{line.op} {line.memory}"
        wrong = []
        if said.start is None or len(said.marks) < 2:
            self.tap.ok(False, name, "the program did not get far:", ran)
            return
        if ran.status != STATUS.get(line.op, 0):
            wrong.append(f"status {ran.status}")
        wrong += self.general(ran)
        mine, _, target = self.between(ran, said)
        got, wanted = [show(e, said) for e in mine], split(line.wanted)
        if line.op in UNORDERED:
            got, wanted = sorted(got), sorted(wanted)
        if line.op == "exec-self":
            got, wrong = self.second_image(ran, said, mine, got, wrong)
        if any(e["pid"] != said.pid for e in mine):
            wrong.append(f"not all of pid {said.pid}")
        if got != wanted and tries > 1 and is_but_for_causes(got, wanted):
            self.check(line, *options, name=name, tries=tries - 1)
            return
        if got != wanted:
            wrong.append(f"wanted {wanted}")
            wrong.append(f"got    {got}")
        if "fork/fork" in wanted:
            wrong += self.child_complaints(line.op, ran, said, mine)
        if [e for e in ran.events if e["target"] == target][-1]["event"] != "release":
            wrong.append("the last event is no release")
        if wrong:
            wrong += ["all:", *ran.events, ran.said, ran.stderr]
        self.tap.ok(not wrong, name, *wrong)

    def second_image(self, ran, said, mine, got, wrong):
        """After an exec the marks and the hole of the second image must be there too."""
        again = Said(ran.said[ran.said.index("pid", 4):])
        mine, seen, _ = self.between(ran, again)
        inside = [show(e, again) for e in mine]
        if seen != 2 or inside != ["unmap/munmap [4,8)"] or again.pid != said.pid:
            wrong = wrong + [f"second image: {seen} marks, {inside}, {again.text}"]
        return [g for g in got if g.startswith("release")], wrong

    def child_complaints(self, op, ran, said, mine):
        child = [e.get("child") for e in mine if e["event"] == "fork"][0]
        events = [e for e in ran.events if e["target"] == child and child]
        # the preload object's own work in a child is not the program's
        got = [show(e, said) for e in events
               if e["event"] == "release" or abs(int(e["start"], 16) - said.start) < 64 * PAGE]
        if got != split(CHILD[op]):
            yield f"child: wanted {split(CHILD[op])}"
            yield f"child: got    {got}"
        for e in events:
            if e["event"] == "release" and e["pid"] in (0, said.pid):
                yield f"child: pid {e['pid']}"

    # ---- what is done once ----

    def ends(self):
        for op, wanted in (("dontneed-two", ["start [0,8)", "end [0,8)", "start [8,16)",
                                             "end [8,16)"]),
                           ("munmap-whole", ["point [0,16)"])):
            ran = self.ops(op, "anon", "--ends")
            said = Said(ran.said)
            got = [f"{e['phase']} {show(e, said).split(' ')[1]}"
                   for e in self.between(ran, said)[0]]
            # one stop of the thread ends both; in which order is nobody's business
            self.tap.ok(sorted(got) == sorted(wanted) and not self.general(ran),
                        f"{op} with --ends", f"wanted {wanted}", f"got {got}")

    def no_follow(self):
        ran = self.ops("exec", "anon", "--no-follow")
        said = Said(ran.said)
        mine = self.between(ran, said)[0]
        got = [(e["event"], e["cause"], e.get("last")) for e in mine]
        self.tap.ok(got == [("release", "exec", True)] and ran.events[-1] == mine[-1],
                    "exec with --no-follow: RELEASE, and nothing after it", got, ran.events)
        ran = self.ops("fork-unmap", "anon", "--no-follow")
        said = Said(ran.said)
        got = [show(e, said) for e in self.between(ran, said)[0]]
        self.tap.ok(got == ["fork/fork"] and len({e["target"] for e in ran.events}) == 1,
                    "fork with --no-follow: FORK, and nothing of the child", got, ran.events)

    def human(self):
        file = os.path.join(self.folder, "out", "human")
        subprocess.run([self.path("tools", "mirrorctl"), "run", "-o", file, "--",
                        self.path("tests", "scenario", "ops"), "munmap-hole", "anon"],
                       env={**os.environ, "MIRROR_SOCKET": self.where}, timeout=TIMEOUT,
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
        with open(file, encoding="utf-8") as f:
            text = f.read()
        self.tap.ok(re.search(r"\d+ +unmap +[0-9a-f]+-[0-9a-f]+ +16K +munmap +uffd ordered\n",
                              text), "without --json: lines for people", text)

    def python(self):
        """A program that nobody wrote for this: a subsequence of its events is known."""
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "maps.py")
        ran = self.run([sys.executable, "-B", script])
        said = Said(ran.said)
        wanted = ["clear/dontneed [0,4)", "unmap/munmap [0,16)", "fork/fork", "release/exit"]
        rest = iter([show(e, said) for e in ran.events if e["pid"] == said.pid])
        self.tap.ok(all(w in rest for w in wanted) and ran.status == 0, "a Python program",
                    *[show(e, said) for e in ran.events], ran.stderr)

    def older_child(self):
        """A process that is not watched is a child of the program before it forks; the fork is a
        bare system call, so that the child does not tell who it is.  It waits until it is found."""
        ran = self.run(["python3", "-c", OLDER_CHILD, self.path("tools", "mirrorctl")])
        pids = re.findall(r"\w+ (\d+)", ran.said)
        mine = [e for e in ran.events if e["event"] == "release" and pids and
                e["pid"] == int(pids[-1])]
        self.tap.ok(ran.status == 0 and len(pids) == 2 and len(mine) == 1,
                    "a fork beside an older child", ran.said, *ran.events, ran.stderr)

    def statuses(self):
        plain = os.path.join(self.folder, "plain")
        with open(plain, "w", encoding="utf-8") as f:
            f.write("no program\n")
        for argv, wanted in ((["/bin/true"], 0), (["/bin/sh", "-c", "exit 3"], 3),
                             (["/bin/sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM),
                             (["/bin/sh", "-c", "kill -KILL $$"], 128 + signal.SIGKILL),
                             (["/no/such/program"], 127), ([plain], 126)):
            ran = self.run(argv)
            self.tap.ok(ran.status == wanted, f"status {wanted} of {' '.join(argv)}", ran)

    def static(self):
        if not os.path.exists(self.path("tests", "scenario", "ops-static")):
            self.tap.skip("a static program", "not built: sanitizers cannot be linked statically")
            return
        ran = self.ops("munmap-whole", "anon", program="ops-static")
        got = [(e["event"], e["cause"]) for e in ran.events]
        self.tap.ok("could not be instrumented" in ran.stderr and ran.status == 0 and
                    got == [("release", "exit")], "a static program: said so, its end is seen",
                    got, ran.stderr, ran.status)
        ran = self.ops("no-such-operation", "anon", program="ops-static")
        self.tap.ok(ran.status == 99, "a static program: its status", ran)

    def public_copy(self):
        """What was built may be in a folder that other users cannot enter."""
        copy = os.path.join(self.folder, "copy")
        for parts in (("daemon", "mirrord"), ("tools", "mirrorctl"), ("lib", "libmirror.so.0"),
                      ("lib", "libmirror-preload.so"), ("tests", "scenario", "ops")):
            os.makedirs(os.path.join(copy, *parts[:-1]), exist_ok=True)
            shutil.copy(os.path.join(self.build, *parts), os.path.join(copy, *parts))
        for folder, _, _ in os.walk(copy):
            os.chmod(folder, 0o755)
        os.environ["MIRROR_DAEMON"] = os.path.join(copy, "daemon", "mirrord")
        return copy

    def embedded(self, user):
        who = f"as user {user}" if user else "as root"
        if user and os.getuid():
            self.tap.skip(f"embedded, {who}", "only root can become another user")
            return
        self.user, build = user, self.build
        if user:
            self.build = self.public_copy()
        for op, memory, wanted in (
                ("munmap-superset", "anon", "unmap/munmap [-4,20)"),
                ("fixed-again", "shmem", "unmap/map_fixed [0,16) unmap/munmap [0,16)"),
                ("dontneed-whole", "file", "clear/dontneed [0,16)"),
                ("mremap-over", "anon", "unmap/mremap B[0,16) remap/mremap [0,16)>B "
                                        "unmap/mremap [0,16)"),
                ("brk-shrink", "anon", "unmap/brk [4,16)"),
                ("exec-self", "anon", "release/exec release/exit"),
                ("sigkill", "anon", "release/exit"),
                ("fork", "anon", "-" if user else "fork/fork")):
            self.check(Line(op, memory, wanted), "--embedded",
                       name=f"{op} {memory}, embedded, {who}")
        self.user, self.build = None, build

    def counters(self):
        done = subprocess.run([self.path("tools", "mirrorctl"), "status", "--json"], check=False,
                              env={**os.environ, "MIRROR_SOCKET": self.where}, timeout=TIMEOUT,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        # the one that asks is a client, and so is ours
        found = {k: v for k, v in flatten(json.loads(done.stdout))
                 if k in ("targets", "clients", "notifiers", "channels", "removes_pending")}
        want = {"targets": 0, "clients": 2, "notifiers": 0, "channels": 0, "removes_pending": 0}
        self.tap.ok(found == want, "nothing is left in the daemon", found, done.stdout)


def flatten(value):
    for k, v in value.items():
        if isinstance(v, dict):
            yield from flatten(v)
        else:
            yield k, v


def main():
    build, only = os.path.abspath(sys.argv[1]), sys.argv[2:]
    tap = private.Tap()
    private.watchdog(600)
    with private.directory() as folder:
        os.mkdir(os.path.join(folder, "out"))
        os.chmod(os.path.join(folder, "out"), 0o1777)
        with private.daemon(os.environ["MIRROR_DAEMON"], folder, "--exit-idle") as daemon:
            keeper = private.connect(daemon.socket)
            suite = Suite(tap, build, folder, daemon.socket)
            for line in table():
                if not only or line.op in only:
                    suite.check(line)
            if not only:
                suite.ends()
                suite.no_follow()
                suite.human()
                suite.python()
                suite.statuses()
                suite.older_child()
                suite.static()
                suite.embedded(None)
                suite.embedded(NOBODY)
                suite.counters()
            keeper.close()
            try:
                status = daemon.wait(private.STOP_S)
            except subprocess.TimeoutExpired:
                status = "still there"
            tap.ok(status == 0, "the daemon ends when nobody is left", status)
    tap.end()


if __name__ == "__main__":
    main()
