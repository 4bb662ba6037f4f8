#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""mirrorctl show, verify and map, of a target whose memory is known.

usage: ctl.py BUILD-DIRECTORY
"""
import contextlib
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys

import private

PAGE = 4096
PAGES = 16
TIMEOUT = 60
NOBODY = 65534


class Target:
    """ctl-target, which does what it is told."""

    def __init__(self, build, socket, folder):
        self.file = os.path.join(folder, "ctl.data")
        self.process = subprocess.Popen(
            [os.path.join(build, "tests", "scenario", "ctl-target"), socket, self.file],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        words = self.hear().split()
        self.id, self.pid = int(words[0]), self.process.pid
        self.anon, self.shared, self.data, self.shm = (int(w, 16) for w in words[1:])

    def hear(self):
        if not select.select([self.process.stdout], [], [], TIMEOUT)[0]:
            raise TimeoutError("ctl-target says nothing")
        return self.process.stdout.readline()

    def do(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        said = self.hear().strip()
        return None if said == "done" else said or "it has ended"

    def end(self):
        self.process.stdin.close()
        self.process.stdout.close()
        private.stop(self.process)


def span(start, first=0, end=PAGES):
    return f"{start + first * PAGE:x}-{start + end * PAGE:x}"


class Suite:
    def __init__(self, tap, build, folder, where):
        self.tap, self.build, self.folder, self.where = tap, build, folder, where
        self.env = {**os.environ, "MIRROR_SOCKET": where, "LC_ALL": "C.UTF-8", "TERM": "xterm"}
        self.env.pop("COLUMNS", None)
        self.env.pop("NO_COLOR", None)

    def ctl(self, *args, **kwargs):
        return subprocess.run([os.path.join(self.build, "tools", "mirrorctl"),
                               *(str(a) for a in args)], check=False, timeout=TIMEOUT, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, **{"env": self.env, **kwargs})

    def json(self, *args):
        ran = self.ctl(*args, "--json")
        try:
            return ran, json.loads(ran.stdout)
        except ValueError:
            return ran, {}

    def equal(self, got, wanted, name, *why):
        self.tap.ok(got == wanted, name, f"wanted {wanted}", f"got {got}", *why)

    def has(self, ran, status, text, name):
        """Of what went wrong: the status, one line, that says what to do."""
        self.tap.ok(ran.returncode == status and text in ran.stderr and not ran.stdout and
                    ran.stderr.count("\n") == 1 and ran.stderr.startswith("mirrorctl: "), name,
                    ran)

    @contextlib.contextmanager
    def target(self):
        target = Target(self.build, self.where, self.folder)
        try:
            yield target
        finally:
            target.end()

    # ---- show ----

    def show(self):
        with self.target() as t:
            ran, said = self.json("show", "--cached", t.pid)
            self.equal((ran.returncode, said.get("ranges"), said.get("pages")), (0, [], 0),
                       "show --cached before anything was looked at: nothing", ran)
            ran, said = self.json("show", "--cached", "--all", t.pid, span(t.anon))
            self.equal([(r["state"], int(r["start"], 16), r["bytes"]) for r in said["ranges"]],
                       [("unknown", t.anon, PAGES * PAGE)], "with --all: it is not known", ran)

            for start, pages, kind, what in ((t.anon, 12, "anon", "anonymous memory"),
                                             (t.shared, 16, "shared", "a memfd"),
                                             (t.data, 16, "file", "a file"),
                                             (t.shm, 16, "shared", "shared memory")):
                ran, said = self.json("show", t.pid, span(start))
                rows = said.get("ranges", [])
                self.tap.ok(ran.returncode == 0 and said.get("pages") == pages and
                            sum(r["pages"] for r in rows) == pages and
                            {r["kind"] for r in rows} == {kind} and
                            {r["state"] for r in rows} == {"present"} and
                            all(r["rights"][0] == "r" for r in rows),
                            f"show of {what}: {pages} pages of it", ran)
            self.show_forms(t)
            self.show_text(t)

    def show_forms(self, t):
        for text, pages, mapped in (
                (f"0x{t.shared:x}-0x{t.shared + 2 * PAGE:x}", 2, ""),
                (f"{t.shared:x}+8192", 2, ""), (f"{t.shared:x}+8K", 2, ""),
                (f"{t.shared:x}+0x2000", 2, ""), (f"{t.shared + 1:x}+1", 1, ""),
                (t.file, 16, t.file), ("ctl.data", 16, t.file), ("[stack]", None, "[stack]")):
            ran, said = self.json("show", f"#{t.id}", text)
            rows = said.get("ranges", [{}])
            self.tap.ok(ran.returncode == 0 and (pages is None or said["pages"] == pages) and
                        all(mapped in r["mapping"] for r in rows) and rows,
                        f"show of the range {os.path.basename(text)}", ran)

    def show_text(self, t):
        ran = self.ctl("show", f"target:{t.id}", span(t.shared))
        self.tap.ok(ran.returncode == 0 and re.search(
            rf"^target {t.id}, process {t.pid} \(ctl-target\), mirror table of \d+[KM]\n"
            rf"(?s:.*)^{t.shared:012x}-{t.shared + PAGES * PAGE:012x} +64K  present rw- +shared "
            rf"+16 +\d+ +\d+  .*/memfd:ctl-shared \(deleted\)$", ran.stdout, re.M),
            "show, for people", ran)
        self.tap.ok(re.search(r"^1 range, 16 pages present, \d+ written, \d+ huge, 0 swapped; "
                              r"by node: ", ran.stdout, re.M), "show: the sum", ran)
        self.tap.ok(re.search(rf"^ *{t.pid} +\d+ +1 +\d+ +0 +0B  ctl-target$", ran.stdout,
                              re.M) and "\033" not in ran.stdout, "show: the consumers", ran)
        ran, said = self.json("show", "--cached", t.pid)
        mine = [(c["pid"], c["uid"], c["notifiers"], c["lost"], c["device_bytes"], c["command"])
                for c in said["consumers"]]
        self.tap.ok(mine == [(t.pid, os.getuid(), 1, 0, 0, "ctl-target")] and
                    said["table_bytes"] > 0 and said["target"] == t.id,
                    "show --json: target, table and consumers", ran)

    # ---- verify ----

    def verified(self, t, name, *args, status=0, **wanted):
        ran, said = self.json("verify", *args, t.pid)
        got = {k: said.get(k) for k in wanted}
        self.tap.ok(ran.returncode == status and got == wanted, name, f"wanted {wanted}", ran)
        return said

    def verify(self):
        with self.target() as t:
            said = self.verified(t, "verify: all of it", different=0, untold=0, changing=0)
            self.tap.ok(said["compared"] > 60, "verify: it is much", said)
            ran = self.ctl("verify", t.pid, span(t.anon))
            self.tap.ok(ran.returncode == 0 and
                        ran.stdout == "12 pages compared, 0 differences\n", "verify of a range",
                        ran)
            t.do("touch")
            ran = self.ctl("verify", "--cached", t.pid, span(t.anon))
            self.tap.ok(ran.returncode == 0 and "12 pages compared, 0 differences\n4 pages unknown"
                        in ran.stdout, "verify --cached: what is not known is no difference", ran)
            ran = self.ctl("verify", t.pid, span(t.anon))
            self.tap.ok("16 pages compared, 0 differences\n" == ran.stdout, "and then it is known",
                        ran)
            self.verify_mprotect(t)
            for word, left in (("dontneed", 12), ("munmap", 8), ("remap", 0)):
                t.do(word)
                ran, said = self.json("verify", "--cached", t.pid, span(t.anon))
                self.equal((ran.returncode, said.get("compared"), said.get("different"),
                            said.get("untold")), (0, left, 0, 0), f"verify after {word}", ran)

    def verify_mprotect(self, t):
        t.do("mprotect")
        ran, said = self.json("verify", "--cached", t.pid, span(t.anon))
        self.equal((ran.returncode, said.get("untold_by"), said.get("different")),
                   (0, {"mprotect": 4}, 0), "mprotect is untold", ran)
        ran = self.ctl("verify", "--cached", t.pid, span(t.anon))
        self.tap.ok(ran.returncode == 0 and "\n4 pages untold: mprotect is not told here\n" in
                    ran.stdout, "verify says why", ran)
        ran = self.ctl("verify", "--cached", "--strict", t.pid, span(t.anon))
        self.tap.ok(ran.returncode == 1 and "16 pages compared, 4 differences\n" in ran.stdout and
                    re.search(rf"^{t.anon:012x}-{t.anon + 4 * PAGE:012x} +16K  the mapping has "
                              r"other rights: table present rw- anon.*, kernel anon", ran.stdout),
                    "verify --strict: it is a difference", ran)
        ran, said = self.json("verify", "--cached", "--strict", t.pid, span(t.anon))
        self.equal((ran.returncode, [(d["what"], d["untold"], int(d["start"], 16), d["pages"])
                                     for d in said["differences"]]),
                   (1, [("rights", "mprotect", t.anon, 4)]), "and --json tells it", ran)
        ran, said = self.json("verify", t.pid, span(t.anon))
        self.equal((ran.returncode, said.get("untold")), (0, 0),
                   "without --cached mirrord looks again, and knows", ran)
        t.do("unprotect")

    def untold(self):
        with self.target() as t:
            self.json("verify", t.pid)
            for word, start, pages, why in (("copy", t.data, 2, "copy"),
                                            ("punch", t.shared, 3, "file"),
                                            ("shmdt", t.shm, 16, "shm"),
                                            ("guard", t.anon, 2, "guard")):
                error = t.do(word)
                if error:
                    self.tap.skip(f"verify after {word}", error)
                    continue
                ran, said = self.json("verify", "--cached", t.pid, span(start))
                self.equal((ran.returncode, said.get("untold_by"), said.get("different")),
                           (0, {why: pages}, 0), f"{word} is untold", ran)
                ran = self.ctl("verify", "--cached", "--strict", t.pid, span(start))
                self.tap.ok(ran.returncode == 1 and f", {pages} differences" in ran.stdout,
                            f"{word} with --strict", ran)

    def storm(self):
        with self.target() as t:
            t.do("storm")
            bad = []
            for i in range(20):
                ran, said = self.json("verify", t.pid, *([span(t.anon, -100, 100)] if i else []))
                if ran.returncode or said["different"]:
                    bad.append(ran)
            t.do("calm")
            self.tap.ok(not bad, "verify while the target changes", *bad)
            self.verified(t, "and when it is calm again", different=0, changing=0)

    # ---- map ----

    def map(self):
        with self.target() as t:
            ran = self.ctl("map", t.pid)
            rows = [line for line in ran.stdout.splitlines() if re.match(r"[0-9a-f]{12} ", line)]
            self.tap.ok(ran.returncode == 0 and ran.stdout.isascii() and len(rows) > 2 and
                        "\033" not in ran.stdout and
                        all(re.match(r"[0-9a-f]{12} +\d+\w +\d+\w +\d+\w [wW ] \[[ _.:=+*%#-]+\] ",
                                     r) for r in rows), "map, for people", ran)
            for width in (80, 120):
                ran = self.ctl("map", t.pid, env={**self.env, "COLUMNS": str(width)})
                longest = max(len(line) for line in ran.stdout.splitlines()
                              if re.match(r"[0-9a-f]{12} ", line))
                self.tap.ok(width - 20 < longest <= width, f"map {width} columns wide", longest,
                            ran.stdout)
            self.map_json(t)
            self.map_terminal(t)

    def map_json(self, t):
        _, shown = self.json("show", t.pid)
        ran, said = self.json("map", "--cached", t.pid)
        found = [r for r in said["regions"]
                 if int(r["start"], 16) <= t.shared < int(r["end"], 16)]
        self.tap.ok(ran.returncode == 0 and len(found) == 1 and found[0]["watched"] > 0 and
                    sum(r["present"] for r in said["regions"]) == shown["pages"] and
                    sum(r["written"] for r in said["regions"]) == shown["written"],
                    "map --json has the numbers of show", ran, shown)
        self.tap.ok(all(sum(c[k] for c in r["cells"]) == r[k] for r in said["regions"]
                        for k in ("present", "written", "swapped", "anon", "file", "shared",
                                  "mapped")),
                    "map --json: the cells make up the regions", ran)
        self.tap.ok(all(r["anon"] + r["file"] + r["shared"] == r["present"] <= r["mapped"]
                        for r in said["regions"]), "map --json: the kinds make up what is there",
                    ran)

    def map_terminal(self, t):
        text = self.on_terminal("map", str(t.pid), env=self.env)
        self.tap.ok("\033[32m" in text and "\u2588" in text, "map on a terminal: colours, blocks",
                    text)
        text = self.on_terminal("map", str(t.pid), env={**self.env, "NO_COLOR": "1",
                                                        "LC_ALL": "C"})
        self.tap.ok("\033" not in text and text.isascii() and "#" in text,
                    "map on a terminal that wants neither", text)

    def on_terminal(self, *args, env):
        ours, its = pty.openpty()
        text = b""
        with subprocess.Popen([os.path.join(self.build, "tools", "mirrorctl"), *args], env=env,
                              stdin=subprocess.DEVNULL, stdout=its) as process:
            os.close(its)
            with contextlib.suppress(OSError):  # what a terminal says when nobody has it
                while select.select([ours], [], [], TIMEOUT)[0]:
                    more = os.read(ours, 65536)
                    if not more:
                        break
                    text += more
            private.stop(process)
        os.close(ours)
        return text.decode()

    # ---- what goes wrong ----

    def usage(self):
        for args in ((), ("1", "2", "3"), ("--no-such", "1"), ("abc",), ("-5",), ("#0",),
                     ("99999999999",)):
            for verb in ("show", "verify", "map"):
                self.has(self.ctl(verb, *args), 2, f"see 'mirrorctl {verb} --help'",
                         f"{verb} {' '.join(args)}")
        for verb in ("show", "verify", "map"):
            ran = self.ctl(verb, "--help")
            self.tap.ok(ran.returncode == 0 and ran.stdout.startswith(f"Usage: mirrorctl {verb}"),
                        f"{verb} --help", ran)

    def errors(self):
        gone = subprocess.Popen(["true"])
        gone.wait()
        with self.target() as t:
            for verb, status in (("show", 1), ("verify", 2), ("map", 1)):
                self.has(self.ctl(verb, gone.pid), status, "does not exist",
                         f"{verb} of a process that is gone")
                self.has(self.ctl(verb, "#4000000"), status, "there is no target 4000000",
                         f"{verb} of a target that is not there")
                self.has(self.ctl(verb, os.getpid()), status, "is not a target",
                         f"{verb} of a process that is no target")
                self.has(self.ctl(verb, t.pid, env={**self.env, "MIRROR_SOCKET": "/none"}),
                         status, "no mirrord is running", f"{verb} without mirrord")
                self.other_user(verb, t, status)
            for verb in ("show", "verify"):
                for text in ("[no-such]", "5-4", "5+0", "1000-1000", "1000", "+5", "7q-8q",
                             "ffffffffffff0000-ffffffffffff1000", "1+ffffffffffffffff"):
                    self.has(self.ctl(verb, t.pid, text), 2, f"'{text}'", f"{verb} of {text}")
            ran, said = self.json("verify", t.pid, "1000-3000")
            self.equal((ran.returncode, said.get("compared")), (0, 0), "verify of a hole", ran)

    def other_user(self, verb, t, status):
        if os.getuid():
            self.tap.skip(f"{verb} of another user", "only root can become another user")
            return
        copy = os.path.join(self.folder, "copy")
        for parts in (("tools", "mirrorctl"), ("lib", "libmirror.so.0")):
            os.makedirs(os.path.join(copy, *parts[:-1]), exist_ok=True)
            shutil.copy(os.path.join(self.build, *parts), os.path.join(copy, *parts))
        for folder, _, _ in os.walk(copy):
            os.chmod(folder, 0o755)
        os.chmod(self.where, 0o666)
        ran = subprocess.run([os.path.join(copy, "tools", "mirrorctl"), verb, str(t.pid)],
                             check=False, env=self.env, timeout=TIMEOUT, text=True, cwd="/",
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, user=NOBODY, group=NOBODY, extra_groups=[])
        self.has(ran, status, "you may not observe", f"{verb} of another user's process")


def main():
    build = os.path.abspath(sys.argv[1])
    tap = private.Tap()
    private.watchdog(240)
    with private.directory() as folder:
        with private.daemon(os.environ["MIRROR_DAEMON"], folder) as daemon:
            suite = Suite(tap, build, folder, daemon.socket)
            suite.usage()
            suite.errors()
            suite.show()
            suite.verify()
            suite.untold()
            suite.storm()
            suite.map()
    tap.end()


if __name__ == "__main__":
    main()
