# SPDX-License-Identifier: GPL-2.0-or-later
"""A daemon of one's own, and results in TAP, for tests written in Python."""
import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

READY_S = 20
STOP_S = 20


class Tap:
    def __init__(self):
        self.n = self.failed = 0

    def ok(self, good, name, *why):
        self.n += 1
        self.failed += not good
        print(f"{'ok' if good else 'not ok'} {self.n} - {name}", flush=True)
        if not good:
            for line in "\n".join(str(w) for w in why).splitlines():
                print(f"# {line}", flush=True)
        return good

    def skip(self, name, reason):
        self.n += 1
        print(f"ok {self.n} - {name} # SKIP {reason}", flush=True)

    def end(self):
        print(f"1..{self.n}", flush=True)
        sys.exit(1 if self.failed else 0)


def watchdog(seconds):
    """The whole test ends by then; whatever it waits for is killed with it."""
    def bark(*_):
        raise TimeoutError(f"not done in {seconds} s")
    signal.signal(signal.SIGALRM, bark)
    signal.alarm(seconds)


@contextlib.contextmanager
def directory():
    # Short, as paths of sockets are; open to others, as some tests become nobody.
    path = tempfile.mkdtemp(prefix="mirror-test-", dir="/tmp")
    try:
        os.chmod(path, 0o755)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def stop(process):
    """Ends a process, by force if need be.  Returns its status, or None then."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


@contextlib.contextmanager
def daemon(path, folder, *args):
    """Starts the daemon and waits until it says that it serves."""
    where = os.path.join(folder, "control")
    notify = os.path.join(folder, "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(notify)
        sock.settimeout(READY_S)
        process = subprocess.Popen([path, "--socket", where, *args],
                                   env={**os.environ, "NOTIFY_SOCKET": notify},
                                   stdin=subprocess.DEVNULL)
        try:
            while process.poll() is None:
                if select.select([sock], [], [], 0.05)[0] and b"READY=1" in sock.recv(4096):
                    break
            if process.poll() is not None:
                raise RuntimeError(f"{path} ended with {process.returncode}")
            process.socket = where
            yield process
        finally:
            stop(process)
            os.unlink(notify)


def connect(where):
    """A client that does nothing: it keeps a daemon with --exit-idle alive."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(READY_S)
    sock.connect(where)
    return sock
