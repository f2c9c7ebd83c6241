"""Wrappers of system calls against the real kernel, each in a child of its own."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import struct
from pathlib import Path

import pytest

from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import features, identity, libc, mount, process, procfs, tty
from tests.kernel.forked import in_child

NAMESPACES = [
    ("mnt", process.CLONE_NEWNS),
    ("pid", process.CLONE_NEWPID),
    ("uts", process.CLONE_NEWUTS),
    ("ipc", process.CLONE_NEWIPC),
    ("net", process.CLONE_NEWNET),
    ("user", process.CLONE_NEWUSER),
    ("cgroup", process.CLONE_NEWCGROUP),
]


@pytest.mark.parametrize(("name", "flag"), NAMESPACES)
def test_clone3(name: str, flag: int) -> None:
    def act() -> list[int]:
        reader, writer = os.pipe()
        pid, pidfd = process.clone3(flag)
        if pid == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(7)
        inode = procfs.namespace_id(pid, name)
        seen = process.pidfd_pid(pidfd)
        os.close(writer)
        done = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        assert done is not None
        info = process.pidfd_get_info(pidfd)
        with pytest.raises(ProcessLookupError):
            process.pidfd_pid(pidfd)
        cloexec = fcntl.fcntl(pidfd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        return [inode, pid - seen, done.si_status, info.status or -1, cloexec]

    inode, difference, status, told, cloexec = in_child(act)
    assert inode != procfs.namespace_id("self", name)
    assert (difference, status, told, cloexec) == (0, 7, 7 << 8, 1)


def test_clone3_says_what_failed() -> None:
    with pytest.raises(OSError, match="Invalid") as caught:
        process.clone3(0xFF)
    assert libc.syscall_of(caught.value) == "clone3"


def test_a_running_process_has_no_status() -> None:
    with kernel_fd.Fd(os.pidfd_open(os.getpid())) as pidfd:
        assert process.pidfd_get_info(pidfd.fileno()) == process.PidfdInfo(os.getpid(), None)


@pytest.mark.parametrize(
    ("path", "resolve", "number"),
    [
        ("link", mount.RESOLVE_NO_SYMLINKS, errno.ELOOP),
        ("link/file", mount.RESOLVE_NO_SYMLINKS, errno.ELOOP),
        ("../x", mount.RESOLVE_BENEATH, errno.EXDEV),
        ("/etc", mount.RESOLVE_BENEATH, errno.EXDEV),
        ("out", mount.RESOLVE_BENEATH, errno.EXDEV),
        ("out", mount.RESOLVE_IN_ROOT, errno.ENOENT),
        ("magic", mount.RESOLVE_NO_MAGICLINKS, errno.ELOOP),
    ],
)
def test_openat2_refuses(tmp_path: Path, path: str, resolve: int, number: int) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("directory")
    (tmp_path / "out").symlink_to("/proc/1/nonexistent/../../etc")
    (tmp_path / "magic").symlink_to("/proc/self/root")
    with kernel_fd.Fd(os.open(tmp_path, os.O_PATH)) as root:
        with pytest.raises(OSError, match=r".") as caught:
            os.close(mount.openat2(root.fileno(), path, os.O_PATH, resolve))
    assert caught.value.errno == number
    assert (libc.syscall_of(caught.value), caught.value.filename) == ("openat2", path)


def test_mounts_by_descriptors(tmp_path: Path) -> None:
    def act() -> list[str]:
        said = []
        tree = mount.fsmount("tmpfs", (("size", "64k"), ("mode", "700")), mount.MOUNT_ATTR_NOSUID)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=tree))
        mount.move_mount(tree, mount.AT_FDCWD, str(tmp_path))
        mount.mount_setattr(tree, set_=mount.MOUNT_ATTR_RDONLY)
        try:
            (tmp_path / "more").write_text("")
        except OSError as error:
            said.append(errno.errorcode[error.errno or 0])
        mount.mount_setattr(tree, clear=mount.MOUNT_ATTR_RDONLY)
        (tmp_path / "more").write_text("")
        copy = mount.open_tree(tree, "file")
        mount.mount_setattr(copy, set_=mount.MOUNT_ATTR_RDONLY)
        mount.move_mount(copy, tree, "more")
        said += [",".join(m.options) for m in procfs.mounts() if m.target == f"{tmp_path}/more"]
        mount.umount2(f"{tmp_path}/more")
        mount.umount2(str(tmp_path))
        return [*said, *os.listdir(tmp_path)]

    assert in_child(act, process.CLONE_NEWNS) == ["EROFS", "ro,nosuid,relatime"]


def test_what_a_file_system_says_is_in_the_error() -> None:
    def act() -> list[str]:
        said = []
        for options in ((("size", "lots"),), (("nonsense", None),)):
            try:
                mount.fsmount("tmpfs", options)
            except OSError as error:
                said.append(f"{libc.syscall_of(error)} {error.filename}")
        try:
            mount.FsContext("no-such-fs")
        except OSError as error:
            said.append(f"{libc.syscall_of(error)} {error.filename}")
        return said

    first, second, third = in_child(act, process.CLONE_NEWNS)
    assert first.startswith("fsconfig tmpfs: ")
    assert "nonsense" in second
    assert third == "fsopen no-such-fs"


def test_an_idmapped_mount(tmp_path: Path) -> None:
    def act() -> list[int]:
        reader, writer = os.pipe()
        pid, pidfd = process.clone3(process.CLONE_NEWUSER)
        if pid == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        identity.write_id_maps(pid, ((0, 5000, 10),), ((0, 6000, 10),))
        tree = mount.fsmount("tmpfs")
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=tree))
        mount.move_mount(tree, mount.AT_FDCWD, str(tmp_path))
        copy = mount.open_tree(tree, ".")
        with kernel_fd.Fd(os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)) as userns:
            mount.mount_setattr(copy, userns_fd=userns.fileno())
        mount.move_mount(copy, mount.AT_FDCWD, str(tmp_path))
        found = (tmp_path / "file").stat()
        os.close(writer)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        return [found.st_uid, found.st_gid]

    assert in_child(act, process.CLONE_NEWNS) == [5000, 6000]


def test_write_id_maps_says_what_failed() -> None:
    def act() -> list[str]:
        reader, writer = os.pipe()
        pid, _ = process.clone3(process.CLONE_NEWUSER)
        if pid == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        said = []
        for uids, who in ((((0, 0, 1), (0, 5, 1)), pid), (((0, 0, 1),), 2**22 + 1)):
            try:
                identity.write_id_maps(who, uids, ((0, 0, 1),))
            except OSError as error:
                path = str(error.filename).replace(str(who), "PID")
                said.append(f"{libc.syscall_of(error)} {path} {error.errno}")
        os.close(writer)
        os.waitpid(pid, 0)
        return said

    assert in_child(act) == [
        f"write /proc/PID/uid_map {errno.EINVAL}",
        f"open /proc/PID/uid_map {errno.ENOENT}",
    ]


def test_pivot_root(tmp_path: Path) -> None:
    def act() -> list[str]:
        tree = mount.fsmount("tmpfs")
        os.mkdir("inside", dir_fd=tree)
        mount.move_mount(tree, mount.AT_FDCWD, str(tmp_path))
        os.fchdir(tree)
        mount.pivot_root(".", ".")
        mount.umount2(".")
        os.chdir("/")
        return os.listdir("/")

    assert in_child(act, process.CLONE_NEWNS) == ["inside"]


def test_terminals() -> None:
    def act() -> list[str]:
        devpts = mount.fsmount("devpts", (("ptmxmode", "0666"), ("max", "2")))
        mount.move_mount(devpts, mount.AT_FDCWD, "/mnt")
        said = []
        masters = [os.open("/mnt/ptmx", os.O_RDWR | os.O_NOCTTY) for _ in range(2)]
        fcntl.ioctl(masters[1], tty.TIOCSPTLCK, struct.pack("i", 0))
        slave = tty.open_peer(masters[1])
        said.append(str(os.isatty(slave)))
        tty.set_window_size(masters[1], 33, 77)
        said.append(str(os.get_terminal_size(slave)))
        os.write(slave, b"x")
        said.append(os.read(masters[1], 10).decode())
        said += [
            str(bool(fcntl.fcntl(number, fcntl.F_GETFD) & fcntl.FD_CLOEXEC))
            for number in (slave, *masters)
        ]
        return said

    assert in_child(act, process.CLONE_NEWNS) == [
        *("True", "os.terminal_size(columns=77, lines=33)", "x"),
        *("True", "True", "True"),
    ]


def test_capabilities() -> None:
    def act() -> list[list[str]]:
        last = identity.last_capability()
        kept = frozenset({identity.capability_number("chown"), 1})
        identity.drop_bounding(kept, last)
        first = procfs.read("self", "status").decode()
        identity.limit_permitted(kept)
        second = procfs.read("self", "status").decode()
        return [
            [line.split()[1] for line in text.splitlines() if line.startswith("Cap")]
            for text in (first, second)
        ]

    (inherited, permitted, effective, bounding, ambient), limited = in_child(act)
    assert (inherited, bounding, ambient) == (f"{0:016x}", f"{3:016x}", f"{0:016x}")
    assert permitted == effective != f"{3:016x}"
    assert limited == [f"{n:016x}" for n in (0, 3, 3, 3, 0)]


def test_close_all_but() -> None:
    def act() -> list[int]:
        first = os.open("/dev/null", os.O_RDONLY)
        high = fcntl.fcntl(first, fcntl.F_DUPFD, 500)
        keep = [0, high]
        # What the answer goes through must stay as well: the one pipe that is open for writing.
        for name in os.listdir("/proc/self/fd"):
            try:
                if fcntl.fcntl(int(name), fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
                    keep.append(int(name))
            except OSError:
                continue
        kernel_fd.close_all_but(keep)
        left = set()
        for number in range(600):
            try:
                os.fstat(number)
            except OSError:
                continue
            left.add(number)
        return [len(left - set(keep)), int(high in left), int(first in left)]

    assert in_child(act) == [0, 1, 0]


@pytest.mark.parametrize("count", [0, 1, 253])
def test_descriptors_travel(count: int) -> None:
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, two, kernel_fd.Fd(os.open("/dev/null", os.O_RDONLY)) as null:
        kernel_fd.send(one, b"text", [null.fileno()] * count)
        data, fds = kernel_fd.receive(two, 100)
        assert (data, len(fds)) == (b"text", count)
        assert all(not os.get_inheritable(number) for number in fds)
        kernel_fd.close_all(fds)
        with pytest.raises(OSError, match="too long"):
            kernel_fd.send(one, b"text", [null.fileno()] * 254)


def test_a_message_that_does_not_fit_leaves_no_descriptor() -> None:
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, two, kernel_fd.Fd(os.open("/dev/null", os.O_RDONLY)) as null:
        before = os.listdir("/proc/self/fd")
        kernel_fd.send(one, b"text", [null.fileno()] * 5)
        with pytest.raises(OSError, match="too long") as caught:
            kernel_fd.receive(two, 3)
        assert caught.value.errno == errno.EMSGSIZE
        assert os.listdir("/proc/self/fd") == before


def test_a_sealed_memfd() -> None:
    with kernel_fd.Fd(kernel_fd.sealed_memfd("test", b"data")) as memfd:
        number = memfd.fileno()
        for act in (
            lambda: os.pwrite(number, b"x", 0),
            lambda: os.ftruncate(number, 0),
            lambda: os.ftruncate(number, 100),
            lambda: fcntl.fcntl(number, kernel_fd.F_ADD_SEALS, 0x10),
        ):
            with pytest.raises(PermissionError):
                act()
        assert kernel_fd.read_all(number, 4) == b"data"
        with pytest.raises(OSError, match="too large"):
            kernel_fd.read_all(number, 3)


def test_an_owned_descriptor_is_closed_once() -> None:
    owned = kernel_fd.Fd(os.open("/dev/null", os.O_RDONLY))
    number = owned.fileno()
    assert owned.take() == number
    assert owned.closed
    with pytest.raises(ValueError, match="taken"):
        owned.fileno()
    owned.close()
    os.close(number)


def test_signalfd() -> None:
    def act() -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        number = process.signalfd([signal.SIGUSR1])
        os.kill(os.getpid(), signal.SIGUSR1)
        return int.from_bytes(os.read(number, 128)[:4], "little")

    assert in_child(act) == signal.SIGUSR1


def test_this_kernel_has_what_is_required() -> None:
    found = features.probe()
    assert features.missing(found) == ()
    assert len({(feature.group, feature.name) for feature in found}) == len(found)
