"""Real root file systems to start containers from: built once, cached, never written to.

    debian    bookworm as `debootstrap` makes it, with systemd
    sysv      the same with sysvinit; its /etc/inittab as shipped, so getty waits on tty1
    busybox   a handful of links to one static binary, with busybox's own init

Tests use them as the lower directory of an overlay (`overlay()`) or copy them (`copy()`). `python -m tests.system.roots`
builds all that are missing, which `contrib/check` does before it starts pytest.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# Part of every cached root's name: count up whenever what is built changes.
RECIPE = 2

_SUITE = "bookworm"
_COMMON = ["iproute2", "iputils-ping", "procps"]
# systemd-networkd comes with systemd; what it learns of name servers goes to systemd-resolved.
_SYSTEMD = [*_COMMON, "systemd", "systemd-sysv", "systemd-resolved", "dbus"]
# Somebody is to log in from another machine.
_SYSV = [*_COMMON, "sysvinit-core", "openssh-server"]

# Made anew at each boot, or nobody's business: what debootstrap copied from this machine, package lists and logs.
_EMPTY_DIRECTORIES = ["var/cache/apt", "var/lib/apt/lists", "var/log", "tmp", "run"]
_GONE = ["etc/hostname", "var/lib/dbus/machine-id"]
_EMPTY_FILES = ["etc/resolv.conf"]

_INITTAB = """\
# A shell that asks nothing on the console, a login prompt on the first tty if there is one.
::sysinit:/etc/init.d/rcS
console::respawn:-/bin/sh
tty1::respawn:/sbin/getty -L tty1 115200 vt100
::ctrlaltdel:/sbin/reboot
::restart:/sbin/init
"""
_RCS = """\
#!/bin/sh
/bin/mount -a
echo "busybox is up"
"""
_BUSYBOX_FILES = {
    "etc/inittab": _INITTAB,
    "etc/init.d/rcS": _RCS,
    "etc/fstab": "",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/profile": "export PATH=/usr/sbin:/usr/bin:/sbin:/bin PS1='busybox# '\n",
    "etc/resolv.conf": "",
}
_BUSYBOX_DIRECTORIES = [
    *("bin", "sbin", "usr/bin", "usr/sbin", "lib", "lib64", "usr/lib"),
    *("etc/init.d", "root", "home", "mnt", "dev/pts", "dev/shm", "proc", "sys", "run", "var/log"),
]


def cache() -> Path:
    """Where finished roots are kept. Readable by everyone: mapped users must be able to walk to them."""
    path = Path(os.environ.get("LXCD_TEST_CACHE", "/var/cache/lxcd-tests"))
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    return path


def debian() -> Path:
    """Debian with systemd as init."""
    return cached("debian", _debian)


def sysv() -> Path:
    """Debian with sysvinit as init."""
    return cached("sysv", lambda target: debootstrap(target, _SYSV))


def busybox() -> Path:
    """A root of one static binary, after LXC's busybox template."""
    return cached("busybox", _busybox)


def overlay(lower: Path, upper: Path) -> str:
    """The value of `lxc.rootfs.path` for a container which writes to `upper` over the unchanged `lower`."""
    upper.mkdir(parents=True, exist_ok=True)
    return f"overlay:{lower}:{upper}"


def copy(root: Path, target: Path) -> Path:
    """Copy a root with owners, device nodes and extended attributes; shares blocks where the file system can."""
    subprocess.run(["cp", "-a", "--reflink=auto", "--", root, target], check=True)
    return target


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """Return the finished root, after building it if need be. Two builders wait for each other on a lock file."""
    done = cache() / f"{name}-{RECIPE}"
    if done.is_dir():
        return done
    with open(cache() / f"{name}-{RECIPE}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.is_dir():
            return done
        building = cache() / f"{name}-{RECIPE}.building"
        if building.exists():  # somebody was interrupted
            shutil.rmtree(building)
        building.mkdir(mode=0o755)
        build(building)
        building.rename(done)
    return done


def _debian(target: Path) -> None:
    debootstrap(target, _SYSTEMD)
    # As the package has it, which finds another machine's file there.
    (target / "etc/resolv.conf").unlink()
    (target / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")


def debootstrap(target: Path, packages: list[str]) -> None:
    log = target.with_suffix(".log")
    # debootstrap mounts proc and sys in the target. In a mount namespace of its own they end with it, whatever happens.
    command = [
        *("unshare", "--mount", "--propagation", "private", "--"),
        *(
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(packages)}",
            _SUITE,
            str(target),
        ),
    ]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    with open(log, "wb") as output:
        status = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            check=False,
        ).returncode
    if status != 0:
        end = log.read_text(errors="replace")[-4000:]
        message = f"debootstrap ended with status {status}; the end of {log}:\n{end}"
        raise RuntimeError(message)
    log.unlink()
    for name in _EMPTY_DIRECTORIES:
        _empty(target / name)
    for name in _GONE:
        (target / name).unlink(missing_ok=True)
    for name in _EMPTY_FILES:
        (target / name).unlink(missing_ok=True)  # may be a link
        (target / name).touch(mode=0o644)
    if (target / "etc/machine-id").exists():
        (target / "etc/machine-id").write_bytes(b"")  # systemd makes a new one for each boot


def _empty(directory: Path) -> None:
    """Remove the files below a directory, not the directories: services expect theirs to exist."""
    for folder, _, names in os.walk(directory):
        for name in names:
            os.unlink(os.path.join(folder, name))


def _busybox(target: Path) -> None:
    found = shutil.which("busybox")
    if found is None:
        message = "busybox is not installed (Debian: busybox-static)"
        raise RuntimeError(message)
    for name in _BUSYBOX_DIRECTORIES:
        (target / name).mkdir(parents=True, exist_ok=True)
    (target / "tmp").mkdir()
    (target / "tmp").chmod(0o1777)
    for name, text in _BUSYBOX_FILES.items():
        (target / name).write_text(text)
    (target / "etc/shadow").chmod(0o640)
    (target / "etc/init.d/rcS").chmod(0o755)
    shutil.copy(found, target / "bin/busybox")
    applets = subprocess.run([found, "--list-full"], check=True, capture_output=True, text=True)
    for applet in applets.stdout.split():
        link = target / applet
        # Where busybox would put it; `busybox` itself and what a package made a directory stay.
        with suppress(FileExistsError):
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to("/bin/busybox")


def main() -> int:
    """Build what is missing, and say where it is."""
    for build in (busybox, debian, sysv):
        print(build(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
