# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine of one's own with a real systemd, for tests of the service.

It is made of namespaces and boots in half a second: see boot.py.  Tests run outside,
and what is to happen inside goes through run() and start().
"""
import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "scenario"))
import private          # noqa: E402

BOOT_S = 60
RUN_S = 60
SYSTEMD = "/usr/lib/systemd/systemd"
NOBODY = "65534"


def skip_all(reason):
    print(f"1..0 # SKIP {reason}", flush=True)
    sys.exit(0)


def check_here():
    """Ends the test where nothing of this can be."""
    if os.geteuid() != 0:
        skip_all("only root can make the namespaces")
    if not os.path.exists(SYSTEMD):
        skip_all("systemd is not installed")
    if not shutil.which("nsenter"):
        skip_all("nsenter is not installed")


def install(build, tree):
    """The build, as it is installed."""
    done = subprocess.run(
        ["meson", "install", "-C", build, "--no-rebuild", "--quiet", "--destdir", tree],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(f"meson install: {done.stdout}")


class Machine:
    def __init__(self, folder, pid):
        self.folder, self.pid = folder, pid
        self.processes = []

    def inside(self, argv, user=None):
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--pid",
                 "--cgroup"]
        if user:
            enter += [f"--setuid={user}", f"--setgid={user}"]
        return [*enter, "--", *(str(a) for a in argv)]

    def env(self, **more):
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "TERM": "dumb",
                "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "", **more}

    def run(self, *argv, user=None, timeout=RUN_S, env=None, **kwargs):
        """Runs a program inside, to its end."""
        return subprocess.run(
            self.inside(argv, user), env=self.env(**(env or {})), text=True, timeout=timeout,
            check=False, cwd="/", **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE,
                                     "stderr": subprocess.PIPE, **kwargs})

    def start(self, *argv, user=None, env=None, **kwargs):
        """Starts one that is told things by its standard input, and ended with the machine."""
        process = subprocess.Popen(
            self.inside(argv, user), env=self.env(**(env or {})), text=True, cwd="/", bufsize=1,
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, **kwargs})
        self.processes.append(process)
        return process

    def after_install(self):
        """What a package would do."""
        for argv in (["systemd-sysusers"], ["systemd-tmpfiles", "--create"]):
            done = self.run(*argv, "mirrord.conf")
            if done.returncode:
                raise RuntimeError(f"{argv[0]}: {done.stderr}")

    def path(self, *parts):
        """Of the build, inside."""
        return os.path.join("/build", *parts)

    def at(self, path):
        """The name, out here, of a path inside."""
        return f"/proc/{self.pid}/root{path}"

    # ---- systemd ----

    def systemctl(self, *args, **kwargs):
        return self.run("systemctl", "--no-pager", *args, **kwargs)

    def must(self, *args, **kwargs):
        """systemctl, where it cannot but work."""
        done = self.systemctl(*args, **kwargs)
        if done.returncode:
            raise RuntimeError(f"systemctl {' '.join(args)}: {done.stderr}\n{self.log()}")
        return done

    def show(self, unit, *names):
        """One property of a unit, or many."""
        text = self.must("show", unit, "--property", ",".join(names)).stdout
        said = dict(line.split("=", 1) for line in text.splitlines())
        got = [said.get(name, "") for name in names]
        return got[0] if len(names) == 1 else got

    def journal(self, *args):
        """Entries of the journal, all that was logged by now."""
        self.run("journalctl", "--sync")
        text = self.run("journalctl", "--no-pager", "--output=json", *args).stdout
        return [json.loads(line) for line in text.splitlines()]

    def log(self, *args):
        """For people."""
        return self.run("journalctl", "--no-pager", "--output=short-precise", "--lines=100",
                        *args).stdout

    def drop_in(self, unit, text, name="test.conf"):
        """Changes a unit; an empty text takes the change back."""
        path = f"/etc/systemd/system/{unit}.d/{name}"
        if text:
            os.makedirs(os.path.dirname(self.at(path)), exist_ok=True)
            self.write(path, text)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.at(path))
        self.must("daemon-reload")

    def write(self, path, text):
        os.makedirs(os.path.dirname(self.at(path)), exist_ok=True)
        with open(self.at(path), "w", encoding="utf-8") as file:
            file.write(text)

    def end(self):
        for process in self.processes:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            process.wait()


def hear(process, timeout=RUN_S):
    """One line of a program, by its descriptor: nothing is left in a buffer unseen."""
    fd, line = process.stdout.fileno(), b""
    while not line.endswith(b"\n"):
        if not select.select([fd], [], [], timeout)[0]:
            raise TimeoutError(f"{process.args} says nothing")
        byte = os.read(fd, 1)
        if not byte:
            break
        line += byte
    return line.decode().strip()


@contextlib.contextmanager
def boot(build):
    """The machine, booted; ends the test with the reason where there can be none."""
    check_here()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))       # with all that is to be undone
    with private.directory() as folder, contextlib.ExitStack() as stack:
        tree = os.path.join(folder, "tree")
        install(build, tree)
        booted = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        booted.bind(os.path.join(folder, "booted"))
        process = subprocess.Popen(
            [sys.executable, "-B", os.path.join(HERE, "boot.py"), folder, tree, build],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        stack.callback(finish, process)
        said = hear(process, BOOT_S)
        if said.startswith("skip "):
            stack.close()
            skip_all(said[len("skip "):])
        if not re.fullmatch(r"pid \d+", said):
            raise RuntimeError("no machine")
        machine = Machine(folder, int(said.split()[1]))
        stack.callback(machine.end)
        wait_booted(machine, booted)
        machine.after_install()
        yield machine


def wait_booted(machine, booted):
    booted.settimeout(BOOT_S)
    try:
        while b"READY=1" not in booted.recv(4096):
            pass
    except TimeoutError:
        with open(os.path.join(machine.folder, "boot.log"), encoding="utf-8") as file:
            raise RuntimeError(f"systemd does not boot: {file.read()}") from None


def finish(process):
    process.stdin.close()
    process.stdout.close()
    process.wait(BOOT_S)
