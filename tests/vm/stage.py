# SPDX-License-Identifier: GPL-2.0-or-later
"""What the root of the virtual machine has and that of the host does not."""
import glob
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
UNITS = "/etc/systemd/system"
# What no test needs, and what takes long or would change something.
NOT_STARTED = """
dev-hugepages.mount dev-mqueue.mount ldconfig.service modprobe@.service
proc-sys-fs-binfmt_misc.automount sys-kernel-config.mount sys-kernel-debug.mount
sys-kernel-tracing.mount systemd-binfmt.service systemd-firstboot.service
systemd-hwdb-update.service systemd-journal-catalog-update.service
systemd-journal-flush.service systemd-machine-id-commit.service systemd-modules-load.service
systemd-pstore.service systemd-random-seed.service systemd-remount-fs.service
systemd-sysctl.service systemd-sysusers.service systemd-timesyncd.service
systemd-tmpfiles-setup-dev.service systemd-tmpfiles-setup.service
systemd-udev-trigger.service systemd-update-done.service systemd-update-utmp.service
timers.target
"""


def mask(folder, names):
    os.makedirs(folder, exist_ok=True)
    for name in names:
        os.symlink("/dev/null", f"{folder}/{name}")


def make(stage, build):
    """Installs the build as it is below stage, and the unit that runs the tests."""
    done = subprocess.run(["meson", "install", "-C", build, "--no-rebuild", "--quiet",
                           "--destdir", stage], stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60,
                          check=False)
    if done.returncode:
        sys.exit(f"meson install failed:\n{done.stdout}")
    mask(stage + UNITS, NOT_STARTED.split())
    mask(stage + "/etc/systemd/system-generators",
         map(os.path.basename, glob.glob("/lib/systemd/system-generators/*")))
    for name in ("mirror-vm.service", "mirror-vm.target"):
        shutil.copy(f"{HERE}/{name}", stage + UNITS)
    with open(stage + "/etc/hostname", "w", encoding="ascii") as file:
        file.write("mirror-vm\n")
