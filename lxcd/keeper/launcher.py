"""The launcher: builds the keeper's minimal mount tree, then execs the keeper in it, or has the
trustee do so. Started by lxcd, as root.

The tree holds the interpreter, its libraries and lxcd's package, read-only; a private, writable
/proc and /sys (a user namespace may mount its own only where it sees such ones whole:
mount_too_revealing() in the kernel); the nodes of /dev that containers get; and two empty places to
mount on. So a container that looks at /proc/1/exe or at a map_files link of a process on its way in
finds files that it cannot open for writing (CVE-2019-5736), and no mount of the host is pinned by
the keeper, which lives long.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import sys
import sysconfig

from lxcd.container.devices import NODES
from lxcd.container.walk import DEVPTS_PLACE, ROOTFS_PLACE
from lxcd.keeper import trust
from lxcd.keeper.protocol import JOURNAL_NAME, SOCKET_NAME
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import mount, process

_BACKLOG = 8


def main(arguments: list[str]) -> None:
    """`--runtime-dir DIR --build TEXT`: become the keeper, or do what one of these says.

    --candidate FD   become one that may take the place of the keeper that runs (see `upgrade`)
    --entrusted yes  the keeper is a child of the trustee, which is started if need be
    """
    try:
        _become(dict(zip(arguments[::2], arguments[1::2], strict=True)))
    except OSError as error:
        # One line, which lxcd tells.
        where = f": {error.filename}" if error.filename else ""
        raise SystemExit(f"lxcd-keeper: {error.strerror}{where}") from None


def _become(options: dict[str, str]) -> None:
    runtime_dir = options["--runtime-dir"]
    # Whatever lxcd was started with: containers walk through what is made here.
    os.umask(0o022)
    private = os.open(_private(runtime_dir), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    numbers: dict[str, int] = {}
    stored: dict[str, int] = {}
    if "--candidate" in options:
        # Whatever becomes of the lxcd that wants it; the keeper never becomes this process.
        process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
        numbers["--candidate"] = int(options["--candidate"])
    else:
        stored = {} if "--entrusted" in options else _stored()
        numbers["--journal"] = os.open(JOURNAL_NAME, flags, 0o600, dir_fd=private)
        if "--entrusted" not in options and (notify := _notify()) is not None:
            numbers["--notify"] = notify.detach()
    log = os.open("keeper.log", flags, 0o600, dir_fd=private)
    if "--candidate" not in options:
        # With all else at hand: whoever finds it is answered.
        numbers["--listener"] = _listen(private)
    null = os.open("/dev/null", os.O_RDWR)
    for number, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, number)
    process.unshare(process.CLONE_NEWNS)
    root = mount.open_tree(mount.AT_FDCWD, "/", 0)
    mount.mount_setattr(root, propagation=mount.MS_PRIVATE, recursive=True)
    os.close(root)
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    _enter_tree(_wanted(os.path.realpath(sys.executable), package))
    words = ["--runtime-dir", runtime_dir, "--build", options["--build"]]
    argv = [*trust.command("lxcd.keeper.__main__"), *words]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    if "--entrusted" in options:
        numbers["--namespace"] = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        trust.start_keeper(private, argv, numbers)
        return
    handed = [*numbers.values(), *stored.values()]
    kernel_fd.close_all_but([0, 1, 2, *handed])
    for number in handed:
        os.set_inheritable(number, True)
    for name, number in numbers.items():
        argv += [name, str(number)]
    if stored:
        # Not in argv: one word of it may have 128 KiB, and there may be thousands of them.
        memfd = kernel_fd.sealed_memfd("lxcd-stored", json.dumps(stored).encode())
        os.set_inheritable(memfd, True)
        argv += ["--stored", str(memfd)]
    os.execve(argv[0], argv, environment)


def _private(runtime_dir: str) -> str:
    """The private part of the runtime directory; a service manager may start us before lxcd."""
    private = os.path.join(runtime_dir, "private")
    os.makedirs(runtime_dir, mode=0o711, exist_ok=True)
    os.makedirs(private, mode=0o700, exist_ok=True)
    return private


def _stored() -> dict[str, int]:
    """What a service manager has kept for us, by name: sd_listen_fds_with_names(3)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = int(os.environ.get("LISTEN_FDS", "0"))
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    return dict(zip(names, range(3, 3 + count), strict=False))


def _notify() -> socket.socket | None:
    """The service manager's socket, which the keeper's mount tree does not have: sd_notify(3)."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return None
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    notify.connect("\0" + path[1:] if path.startswith("@") else path)
    return notify


def _listen(private: int) -> int:
    """The keeper's socket in the private directory, unless a keeper lives there already."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as other,
    ):
        other.connect(f"/proc/self/fd/{private}/{SOCKET_NAME}")
        raise SystemExit("lxcd-keeper: there is a keeper for this runtime directory")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SOCKET_NAME, dir_fd=private)
    old = os.umask(0o177)
    # By descriptor: a path of any length fits sockaddr_un's 108 bytes.
    try:
        listener.bind(f"/proc/self/fd/{private}/{SOCKET_NAME}")
    except OSError as error:
        raise OSError(error.errno, error.strerror, SOCKET_NAME) from None
    os.umask(old)
    listener.listen(_BACKLOG)
    return listener.detach()


def _wanted(interpreter: str, package: str) -> list[str]:
    """What of the host the keeper needs to read: files of the interpreter, shared libraries, our
    package.
    """
    wanted = {interpreter, package, os.path.realpath(sysconfig.get_path("stdlib"))}
    wanted.add(os.path.realpath(sysconfig.get_path("platstdlib")))
    with open("/proc/self/maps", encoding="utf-8") as file:
        for line in file:
            path = line.split(maxsplit=5)[5].strip() if line.count(" ") > 5 else ""  # noqa: PLR2004
            if path.startswith("/") and ".so" in os.path.basename(path):
                wanted.add(path)
    # The loader and libraries are asked for by these names, links as they may be.
    for path in (
        "/lib",
        "/lib64",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/etc/ld.so.cache",
    ):
        if os.path.exists(path):
            wanted.add(path)
    kept: list[str] = []
    for path in sorted(wanted):
        if not any(path.startswith(f"{above}/") for above in kept):
            kept.append(path)
    return kept


def _enter_tree(wanted: list[str]) -> None:
    """Build the tree on a tmpfs and make it the root of this mount namespace."""
    tree = mount.fsmount("tmpfs", (("mode", "755"), ("size", "4m")), mount.MOUNT_ATTR_NOSUID)
    binds = [(mount.open_tree(mount.AT_FDCWD, path), path) for path in wanted]
    nodes = [
        (mount.open_tree(mount.AT_FDCWD, f"/dev/{name}"), name, major, minor)
        for name, major, minor in NODES
    ]
    proc = mount.fsmount(
        "proc", (), mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC
    )
    sys_ = mount.fsmount(
        "sysfs", (), mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC
    )
    # Hung over /tmp, /run or whatever directory every host has, only to be pivoted into at once.
    mount.move_mount(tree, mount.AT_FDCWD, "/proc")
    os.fchdir(tree)
    for place in ("proc", "sys", "dev", ROOTFS_PLACE.strip("/"), DEVPTS_PLACE.strip("/")):
        os.mkdir(place, 0o755)
    for fd, path in binds:
        is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        _place(path.lstrip("/"), is_directory=is_directory)
        mount.mount_setattr(
            fd, set_=mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NODEV, recursive=True
        )
        mount.move_mount(fd, tree, path.lstrip("/"))
        os.close(fd)
    for fd, name, major, minor in nodes:
        found = os.fstat(fd)
        if not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.makedev(major, minor):
            raise SystemExit(f"/dev/{name} of this host is not the device {major}:{minor}")
        _place(f"dev/{name}", is_directory=False)
        mount.move_mount(fd, tree, f"dev/{name}")
        os.close(fd)
    mount.move_mount(proc, tree, "proc")
    mount.move_mount(sys_, tree, "sys")
    mount.pivot_root(".", ".")
    mount.umount2(".")
    os.chdir("/")
    for number in (proc, sys_):
        os.close(number)
    mount.mount_setattr(tree, set_=mount.MOUNT_ATTR_RDONLY)
    os.close(tree)


def _place(path: str, *, is_directory: bool) -> None:
    os.makedirs(path if is_directory else os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
    if not is_directory and not os.path.exists(path):
        os.mknod(path, stat.S_IFREG | 0o644)


if __name__ == "__main__":
    main(sys.argv[1:])
