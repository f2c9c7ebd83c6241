"""What this kernel offers, found out by trying: what `lxc-checkconfig` reads from a config file
that may be missing or of another kernel.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.kernel import bpf, libc, mount, process, procfs
from lxcd.kernel import fd as kernel_fd

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing that a kernel may have or lack."""

    group: str
    name: str
    available: bool
    required: bool
    needed_by: str
    detail: str = ""


def probe() -> tuple[Feature, ...]:
    """Look at everything. Opens and closes things, changes nothing."""
    found = [
        *(_namespace(name, title) for name, title in _NAMESPACES),
        *_system_calls(),
        *_filesystems(),
        *_cgroups(),
        *_security(),
    ]
    return tuple(found)


def missing(features: tuple[Feature, ...]) -> tuple[Feature, ...]:
    """Those that lxcd cannot do without and that are not there."""
    return tuple(feature for feature in features if feature.required and not feature.available)


_NAMESPACES = (
    ("mnt", "Mount namespace"),
    ("pid", "Pid namespace"),
    ("uts", "Utsname namespace"),
    ("ipc", "Ipc namespace"),
    ("net", "Network namespace"),
    ("user", "User namespace"),
    ("cgroup", "Cgroup namespace"),
    ("time", "Time namespace"),
)
_NEEDED_BY = {
    "user": "unprivileged containers (lxc.idmap)",
    "cgroup": "lxc.mount.auto = cgroup, systemd inside",
    "time": "lxc.time.offset",
}


def _namespace(name: str, title: str) -> Feature:
    available = os.path.exists(f"/proc/self/ns/{name}")
    detail = ""
    if name == "user" and available:
        with (
            contextlib.suppress(OSError, ValueError),
            open("/proc/sys/user/max_user_namespaces", encoding="ascii") as file,
        ):
            number = int(file.read())
            available, detail = number > 0, f"at most {number}"
    required = name not in _NEEDED_BY
    return Feature(
        "Namespaces", title, available, required, _NEEDED_BY.get(name, "every container"), detail
    )


def _answers(call: Callable[[], object]) -> tuple[bool, str]:
    """Whether a system call is there: anything but ENOSYS is an answer."""
    try:
        call()
    except OSError as error:
        number = error.errno or 0
        return number not in (errno.ENOSYS, errno.EOPNOTSUPP), "" if number else str(error)
    return True, ""


def _system_calls() -> list[Feature]:
    def opened_tree() -> None:
        os.close(mount.open_tree(mount.AT_FDCWD, "/", 0))

    def pidfd_info() -> None:
        with kernel_fd.Fd(os.pidfd_open(os.getpid())) as pidfd:
            process.pidfd_get_info(pidfd.fileno())

    calls: list[tuple[str, str, Callable[[], object], bool, str]] = [
        # clone3 with a size of 0 is EINVAL where it exists.
        (
            "Processes",
            "clone3",
            lambda: libc.check(libc.syscall(libc.SYS_CLONE3, None, 0), "clone3"),
            True,
            "every start",
        ),
        (
            "Processes",
            "pidfd",
            lambda: os.close(os.pidfd_open(os.getpid())),
            True,
            "every container",
        ),
        (
            "Processes",
            "close_range",
            lambda: kernel_fd.close_range(2**31, 2**31),
            True,
            "every start",
        ),
        ("Mounts", "New mount API", opened_tree, True, "every start"),
        (
            "Mounts",
            "mount_setattr",
            lambda: mount.mount_setattr(-1),
            True,
            "read-only and idmapped mounts",
        ),
        (
            "Mounts",
            "openat2",
            lambda: mount.openat2(-1, "", 0, mount.RESOLVE_IN_ROOT),
            True,
            "every start",
        ),
    ]
    found: list[Feature] = []
    for group, name, call, required, needed_by in calls:
        available, detail = _answers(call)
        found.append(Feature(group, name, available, required, needed_by, detail))
    try:
        pidfd_info()
        available = True
    except OSError:
        available = False
    found.append(
        Feature(
            "Processes",
            "PIDFD_GET_INFO",
            available,
            False,
            "exit status when the keeper is lost",
            "Linux 6.15",
        )
    )
    return found


def _filesystems() -> list[Feature]:
    known = procfs.filesystems()
    wanted = (
        ("overlay", "Overlay", "lxc.rootfs.path = overlay:…"),
        ("tmpfs", "Tmpfs", "/dev of every container"),
        ("devpts", "Multiple /dev/pts instances", "terminals of every container"),
        ("mqueue", "POSIX message queues", "/dev/mqueue"),
        ("fuse", "FUSE", "FUSE inside containers"),
        ("binfmt_misc", "Binfmt misc", "containers of another architecture"),
    )
    return [
        Feature("Mounts", title, name in known, name in ("tmpfs", "devpts"), needed_by)
        for name, title, needed_by in wanted
    ]


def _cgroups() -> list[Feature]:
    versions = {found.fstype for found in procfs.mounts() if found.fstype.startswith("cgroup")}
    controllers: set[str] = set()
    with contextlib.suppress(OSError), open("/proc/cgroups", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if not line.startswith("#") and words[3] == "1":
                controllers.add(words[0])
    with (
        contextlib.suppress(OSError),
        open("/sys/fs/cgroup/cgroup.controllers", encoding="ascii") as file,
    ):
        controllers |= set(file.read().split())
    if "cgroup2" in versions:
        controllers.add("cpuacct")
    wanted = (
        ("memory", "Cgroup memory controller", "memory limits, out-of-memory exits told as such"),
        ("cpu", "Cgroup sched", "cpu limits"),
        # Version 2 counts it without a controller.
        ("cpuacct", "Cgroup cpu account", "cpu time of containers"),
        ("cpuset", "Cgroup cpuset", "cpu pinning"),
        ("pids", "Cgroup pids", "limits on processes"),
        ("devices", "Cgroup device", "lxc.cgroup.devices on version 1"),
        ("freezer", "Freezer", "freeze and thaw on version 1"),
    )
    found = [
        Feature(
            "Control groups",
            "Cgroup",
            bool(versions),
            True,
            "every container",
            " ".join(sorted(versions)),
        )
    ]
    for name, title, needed_by in wanted:
        found.append(Feature("Control groups", title, name in controllers, False, needed_by))
    needed_by = "lxc.cgroup2.devices on version 2"
    found.append(Feature("Control groups", "Device programs", _programs(), False, needed_by))
    return found


def _programs() -> bool:
    """Whether the kernel takes one that always says yes: `r0 = 1; exit`."""
    code = bytes((0xB7, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0))
    try:
        os.close(bpf.load_device_program(code, "lxcd_probe"))
    except OSError:
        return False
    return True


def _security() -> list[Feature]:
    modules = ""
    with contextlib.suppress(OSError), open("/sys/kernel/security/lsm", encoding="ascii") as file:
        modules = file.read().strip()
    apparmor = os.path.isdir("/sys/module/apparmor")
    selinux = os.path.isdir("/sys/fs/selinux")
    seccomp = False
    with contextlib.suppress(OSError):
        seccomp = b"Seccomp:" in procfs.read("self", "status")
    return [
        Feature("Security", "Seccomp", seccomp, False, "lxc.seccomp.profile"),
        Feature("Security", "AppArmor", apparmor, False, "lxc.apparmor.profile", modules),
        Feature("Security", "SELinux", selinux, False, "lxc.selinux.context", modules),
        Feature("Security", "File capabilities", True, False, "capabilities of programs inside"),
        Feature("Misc", "Veth pair device", _driver("veth"), False, "lxc.net.N.type = veth"),
        Feature("Misc", "Macvlan", _driver("macvlan"), False, "lxc.net.N.type = macvlan"),
        Feature("Misc", "Vlan", _driver("8021q"), False, "lxc.net.N.type = vlan"),
        Feature(
            "Misc",
            "Checkpoint restore",
            os.path.exists("/proc/self/map_files"),
            False,
            "checkpoints",
        ),
    ]


def _driver(name: str) -> bool:
    """Built in or loaded; a module that could be loaded counts when modules.builtin or .dep names
    it.
    """
    if os.path.isdir(f"/sys/module/{name}"):
        return True
    release = os.uname().release
    for listing in ("modules.builtin", "modules.dep"):
        with (
            contextlib.suppress(OSError),
            open(f"/lib/modules/{release}/{listing}", encoding="utf-8") as file,
        ):
            if any(f"/{name}.ko" in line for line in file):
                return True
    return _in_kernel_config(name)


_OPTIONS = {"veth": "CONFIG_VETH", "macvlan": "CONFIG_MACVLAN", "8021q": "CONFIG_VLAN_8021Q"}


def _in_kernel_config(name: str) -> bool:
    import gzip  # noqa: PLC0415 - only here, and rarely

    wanted = _OPTIONS.get(name, "")
    with contextlib.suppress(OSError), gzip.open("/proc/config.gz", "rt") as file:
        return any(line.startswith((f"{wanted}=y", f"{wanted}=m")) for line in file)
    return False
