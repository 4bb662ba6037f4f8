#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots systemd as PID 1 of namespaces of its own, on a copy-on-write root.

usage: boot.py FOLDER TREE BUILD

TREE, which "meson install" made, lies over the root of this machine; BUILD is seen as
/build.  What is written goes to memory, but for FOLDER, which lies where it is and
vanishes at the end.  Only few units of the machine are there.

Says "pid N" of PID 1, or "skip REASON" where namespaces or mounts cannot be had.
All is over, and everything gone, when standard input ends or PID 1 does.
"""
import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import uuid

CLONE = {"mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000,
         "pid": 0x20000000, "net": 0x40000000}
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_MOVE = 0x1, 0x20, 0x1000, 0x2000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)

UNIT_DIR, OWN_UNIT_DIR = "usr/lib/systemd/system", "etc/systemd/system"
LOCAL_UNIT_DIR = "usr/local/lib/systemd/system"
# a machine on which this is all that happens at boot
UNITS = ("basic.target", "multi-user.target", "shutdown.target", "sockets.target",
         "sysinit.target", "systemd-journald-dev-log.socket", "systemd-journald.service",
         "systemd-journald.socket", "umount.target")
WANTED = {"sysinit.target.wants": ("systemd-journald.service",),
          "sockets.target.wants": ("systemd-journald.socket", "systemd-journald-dev-log.socket")}
HIDDEN = ("usr/lib/systemd/system-generators", "etc/systemd/system-generators",
          LOCAL_UNIT_DIR, "root", "home")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "fuse", "cuse", "userfaultfd")
GONE_S = 10


class Unable(Exception):
    """This machine does not let us."""


def call(name, *args):
    if getattr(LIBC, name)(*args) < 0:
        error = os.strerror(ctypes.get_errno())
        shown = " ".join([name, *(a.decode() for a in args if isinstance(a, bytes))])
        raise Unable(f"{shown}: {error}")


def unshare(*names):
    call("unshare", sum(CLONE[name] for name in names))


def mount(source, target, kind=None, flags=0, data=None):
    def text(value):
        return value.encode() if value is not None else None

    if not os.path.exists(target):
        os.makedirs(target)
    call("mount", text(source), text(target), text(kind), ctypes.c_ulong(flags), text(data))


def bind(source, target, read_only=False):
    if not os.path.isdir(source):
        with open(target, "a", encoding="utf-8"):
            pass
    mount(source, target, None, MS_BIND)
    if read_only:
        mount(None, target, None, MS_BIND | MS_REMOUNT | MS_RDONLY)


def usr_merge(tree):
    """What was installed below /lib belongs where that link leads."""
    for name in ("bin", "lib", "sbin"):
        path = os.path.join(tree, name)
        if os.path.islink("/" + name) and os.path.isdir(path):
            shutil.copytree(path, os.path.join(tree, "usr", name), dirs_exist_ok=True)
            shutil.rmtree(path)


def make_root(folder, tree):
    usr_merge(tree)
    where = os.path.join(folder, "machine")
    mount("mirror-test", where, "tmpfs")
    paths = {name: os.path.join(where, name) for name in ("upper", "work", "root", "cgroup")}
    for path in paths.values():
        os.mkdir(path)
    shutil.copytree(tree, paths["upper"], symlinks=True, dirs_exist_ok=True)
    mount("mirror-test", paths["root"], "overlay",
          data=f"lowerdir=/,upperdir={paths['upper']},workdir={paths['work']}")
    mount("mirror-test", paths["cgroup"], "cgroup2")
    return paths["root"], paths["cgroup"]


def make_units(root, tree):
    """The machine's own units make way for the few we know, and for those of TREE."""
    kept = {}
    for name in UNITS:
        with open(os.path.join(root, UNIT_DIR, name), encoding="utf-8") as file:
            kept[name] = file.read()
    for name in (UNIT_DIR, OWN_UNIT_DIR, *HIDDEN):
        mount("mirror-test", os.path.join(root, name), "tmpfs", data="mode=755")
    for ours in (UNIT_DIR, LOCAL_UNIT_DIR):
        if os.path.isdir(os.path.join(tree, ours)):
            shutil.copytree(os.path.join(tree, ours), os.path.join(root, UNIT_DIR),
                            dirs_exist_ok=True)
    for name, text in kept.items():
        with open(os.path.join(root, UNIT_DIR, name), "w", encoding="utf-8") as file:
            file.write(text)
    for wants, names in WANTED.items():
        os.makedirs(os.path.join(root, UNIT_DIR, wants), exist_ok=True)
        for name in names:
            os.symlink("../" + name, os.path.join(root, UNIT_DIR, wants, name))


def make_devices(dev):
    mount("mirror-test", dev, "tmpfs", data="mode=755")
    for name in DEVICES:
        if os.path.exists("/dev/" + name):
            bind("/dev/" + name, os.path.join(dev, name))
    mount("mirror-test", os.path.join(dev, "shm"), "tmpfs", data="mode=1777")
    mount("mirror-test", os.path.join(dev, "pts"), "devpts",
          data="newinstance,ptmxmode=0666,mode=620")
    os.symlink("pts/ptmx", os.path.join(dev, "ptmx"))
    os.symlink("/proc/self/fd", os.path.join(dev, "fd"))


def make_machine(root, folder, tree, build):
    """As a machine with systemd looks to it; what belongs to all is not to be written."""
    mount("proc", os.path.join(root, "proc"), "proc")
    bind(os.path.join(root, "proc/sys"), os.path.join(root, "proc/sys"), read_only=True)
    mount("sysfs", os.path.join(root, "sys"), "sysfs", MS_RDONLY)
    mount("cgroup2", os.path.join(root, "sys/fs/cgroup"), "cgroup2")
    make_devices(os.path.join(root, "dev"))
    mount("mirror-test", os.path.join(root, "run"), "tmpfs", data="mode=755")
    mount("mirror-test", os.path.join(root, "tmp"), "tmpfs", data="mode=1777")
    make_units(root, tree)
    with open(os.path.join(root, "etc/machine-id"), "w", encoding="utf-8") as file:
        file.write(uuid.uuid4().hex + "\n")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(root, ".dockerenv"))
    bind(folder, root + folder)
    bind(build, os.path.join(root, "build"), read_only=True)
    # a library that was just installed is found
    subprocess.run(["ldconfig", "-r", root], stdin=subprocess.DEVNULL, check=False, timeout=30)


def go_in(root):
    """As switch_root does; we may be in a chroot, which would stay one."""
    where = os.open(root, os.O_PATH)
    space = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    call("setns", space, CLONE["mount"])
    os.fchdir(where)
    call("mount", b".", b"/", None, ctypes.c_ulong(MS_MOVE), None)
    os.chroot(".")
    os.chdir("/")


def become_systemd(said, cgroup, folder, tree, build, root):
    """PID 1 of its namespace, until it is systemd.  SAID is a pipe for what goes wrong."""
    try:
        with open(os.path.join(cgroup, "cgroup.procs"), "w", encoding="ascii") as file:
            file.write("0")
        unshare("mount", "cgroup")
        make_machine(root, folder, tree, build)
        log = os.open(os.path.join(folder, "boot.log"), os.O_WRONLY | os.O_CREAT, 0o644)
        nothing = os.open("/dev/null", os.O_RDWR)
        go_in(root)
        for fd, to in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(fd, to)
        os.execve("/usr/lib/systemd/systemd",
                  ["systemd", "--system", "--unit=multi-user.target", "--show-status=0"],
                  {"container": "mirror-test", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                   "NOTIFY_SOCKET": os.path.join(folder, "booted")})
    except BaseException as error:          # the end of this process, whatever it is
        able = not isinstance(error, Unable)
        os.write(said, (f"{type(error).__name__}: " * able + str(error)).encode())
        os._exit(1 if able else 77)


def own_cgroup(top):
    """A group below ours, for nobody but PID 1 and its services."""
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        here = [line.split(":", 2)[2] for line in file.read().splitlines() if line[:3] == "0::"]
    if not here:
        raise Unable("this process is in no group of cgroup2")
    path = os.path.join(top, here[0].strip("/"))
    path = os.path.join(path if os.path.isdir(path) else top, f"mirror-test-{os.getpid()}")
    try:
        os.mkdir(path)
    except OSError as error:
        raise Unable(f"mkdir {path}: {error.strerror}") from error
    return path


def remove_cgroup(path):
    """Those who were in it have died, but some may not have left."""
    end = time.monotonic() + GONE_S
    while os.path.isdir(path):
        for folder, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        if time.monotonic() > end:
            print(f"cannot remove {path}", file=sys.stderr)
            break
        time.sleep(0.01)


def start(root, cgroup, folder, tree, build):
    """Returns PID 1, which has become systemd."""
    unshare("uts", "ipc", "net", "pid")
    heard, said = os.pipe()                 # closed by execve()
    pid = os.fork()
    if pid == 0:
        os.close(heard)
        call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        become_systemd(said, cgroup, folder, tree, build, root)
    os.close(said)
    with os.fdopen(heard, encoding="utf-8") as pipe:
        error = pipe.read()
    if error:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        raise Unable(error) if status == 77 else RuntimeError(error)
    return pid


def main():
    folder, tree, build = map(os.path.realpath, sys.argv[1:])
    # who ends us closes our standard input; what kills their group must not kill us
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    cgroup = None
    try:
        unshare("mount")
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        root, top = make_root(folder, tree)
        cgroup = own_cgroup(top)
        pid = start(root, cgroup, folder, tree, build)
        pidfd = os.pidfd_open(pid)
        print(f"pid {pid}", flush=True)
        select.select([sys.stdin, pidfd], [], [])
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
    except Unable as error:
        print(f"skip {error}", flush=True)
    finally:
        if cgroup:
            remove_cgroup(cgroup)
        # those who started us may have been killed; nothing is removed through a mount
        if LIBC.umount2(os.path.join(folder, "machine").encode(), MNT_DETACH) == 0:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
