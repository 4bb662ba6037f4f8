# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernel for the virtual machine, and the first file system it boots from.

The kernel comes from Debian's archive, by apt, which checks the signatures, but with a
list of sources and folders of its own: nothing of the machine is changed.  What is needed
of it is kept in a cache, so only the first run uses the network.
"""
import glob
import lzma
import os
import re
import shutil
import subprocess
import tempfile

SOURCES = """\
deb [signed-by={key}] http://deb.debian.org/debian-security bookworm-security main
deb [signed-by={key}] http://deb.debian.org/debian bookworm-backports main
"""
KEY = "/usr/share/keyrings/debian-archive-keyring.gpg"
PACKAGE = re.compile(r"^(linux-image-6\.12\.[0-9.]+\+deb12(?:\.\d+)?-amd64) ", re.M)
MODULES = ("9pnet_virtio", "9p", "overlay", "autofs4", "cuse")
DOWNLOAD_S = 400


class Unavailable(Exception):
    """There can be no virtual machine here, and why."""


def cache():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "mirrord-vm")


def run(*command, **options):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=DOWNLOAD_S, check=False,
                          **options)
    if done.returncode:
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        raise Unavailable(f"no kernel can be had: {command[0]}: {last}")
    return done.stdout


def apt_options(folder):
    for name in ("lists/partial", "cache/archives/partial"):
        os.makedirs(os.path.join(folder, name))
    sources = os.path.join(folder, "sources.list")
    with open(sources, "w", encoding="utf-8") as file:
        file.write(SOURCES.format(key=KEY))
    options = {
        "Dir::Etc::SourceList": sources, "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": folder, "Dir::State::Lists": folder + "/lists",
        "Dir::State::Status": "/var/lib/dpkg/status", "Dir::Cache": folder + "/cache",
        "APT::Sandbox::User": "", "Acquire::Languages": "none", "Acquire::Retries": "2",
        "Acquire::http::Timeout": "20", "Acquire::AllowInsecureRepositories": "false",
        "APT::Get::AllowUnauthenticated": "false", "APT::Update::Error-Mode": "any",
    }
    return [f"-o{name}={value}" for name, value in options.items()]


def newest(said):
    names = PACKAGE.findall(said)
    if not names:
        raise Unavailable("Debian's archive has no kernel 6.12")
    return max(names, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])


def download(folder):
    """Unpacks the newest kernel into folder/tree; the name of its package."""
    if not shutil.which("apt-get"):
        raise Unavailable("the kernel comes from Debian's archive, and this is no Debian")
    options = apt_options(folder)
    run("apt-get", *options, "-q", "update")
    package = newest(run("apt-cache", *options, "search", "--names-only", "^linux-image-6"))
    run("apt-get", *options, "-q", "download", package, cwd=folder)
    run("dpkg-deb", "-x", glob.glob(folder + "/linux-image-*.deb")[0], folder + "/tree")
    return package


def module_files(tree):
    """{name: path} of all modules."""
    found = {}
    for path in glob.glob(tree + "/**/*.ko*", recursive=True):
        found[os.path.basename(path).split(".ko")[0].replace("-", "_")] = path
    return found


def module(path):
    with (lzma.open(path) if path.endswith(".xz") else open(path, "rb")) as file:
        return file.read()


def with_needed(files, names, order):
    """Adds modules to order, {name: contents}, each after what it depends on."""
    for name in names:
        if name in order or name not in files:
            continue		# not in files: part of the kernel itself
        data = module(files[name])
        needs = re.search(rb"\0depends=([^\0]*)\0", data)
        with_needed(files, needs.group(1).decode().replace("-", "_").split(",") if needs else [],
                    order)
        order[name] = data


def keep(tree, folder):
    """What is needed of a kernel."""
    os.makedirs(folder)
    shutil.copy(glob.glob(tree + "/boot/vmlinuz-*")[0], folder + "/vmlinuz")
    order = {}
    with_needed(module_files(tree), MODULES, order)
    for number, (name, data) in enumerate(order.items()):
        with open(f"{folder}/{number:02}-{name}.ko", "wb") as file:
            file.write(data)


def get(say):
    """The folder of a kernel: vmlinuz, and modules in the order to load them."""
    kept = [path for path in glob.glob(cache() + "/linux-image-*")
            if all(glob.glob(f"{path}/*-{name}.ko") for name in MODULES)]
    if kept:
        return max(kept, key=os.path.getmtime)
    os.makedirs(cache(), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        say("downloading a kernel")
        package = download(folder)
        keep(folder + "/tree", folder + "/kept")
        path = os.path.join(cache(), package)
        shutil.rmtree(path, ignore_errors=True)
        os.rename(folder + "/kept", path)
    return path


def cpio(entries):
    """A file system for the kernel to unpack: {path: contents, or None for a folder}."""
    out = bytearray()
    for number, (path, data) in enumerate([*entries.items(), ("TRAILER!!!", b"")], 1):
        mode = 0o040755 if data is None else 0o100755
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data or b""), 0, 0, 0, 0, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        out += b"\0" * (-len(out) % 4) + (data or b"")
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def initramfs(kernel, files):
    """{path: contents}, and the modules."""
    entries = dict.fromkeys(["guest", "modules", *files])
    entries.update(files)
    for path in sorted(glob.glob(kernel + "/*.ko")):
        with open(path, "rb") as file:
            entries["modules/" + os.path.basename(path)] = file.read()
    return cpio(entries)
