"""Steps for /dev: device nodes, terminals, the console, and where the standard streams go."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.container.mounts import attach
from lxcd.container.spec import Step
from lxcd.container.walk import DEVPTS_PLACE
from lxcd.kernel import libc, mount, tty

if TYPE_CHECKING:
    from lxcd.container.walk import Walk

# Name, major, minor: Documentation/admin-guide/devices.txt.
NODES = (
    ("full", 1, 7),
    ("null", 1, 3),
    ("random", 1, 8),
    ("tty", 5, 0),
    ("urandom", 1, 9),
    ("zero", 1, 5),
)
_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
)
_ROWS, _COLUMNS = 24, 80


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeDev(Step):
    """A /dev of the container's own: a tmpfs, filled through its own descriptor before anybody sees
    it.

    Whatever the root file system has at /dev, a directory or a trap, nothing is made in it
    (CVE-2026-47766). In a user namespace mknod(2) is not allowed: there the keeper's own nodes are
    bound over empty files.
    """

    size_bytes: int
    bind: bool

    def describe(self) -> str:
        """See Step."""
        how = "bound from the host" if self.bind else "made"
        return f"mount tmpfs on /dev; null, zero, full, random, urandom, tty {how}"

    def apply(self, walk: Walk) -> None:
        """See Step."""
        options = (("mode", "755"), ("size", str(self.size_bytes)), ("nr_inodes", "4096"))
        dev = mount.fsmount("tmpfs", options, mount.MOUNT_ATTR_NOSUID)
        walk.dev = dev
        for name, major, minor in NODES:
            if self.bind:
                os.mknod(name, stat.S_IFREG | 0o666, dir_fd=dev)
                continue
            try:
                os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=dev)
            except OSError as error:
                raise libc.oserror(error.errno or errno.EPERM, "mknodat", name) from None
            os.chmod(name, 0o666, dir_fd=dev)  # noqa: S103 - as on every host
        for name, where in _LINKS:
            os.symlink(where, name, dir_fd=dev)
        for name in ("pts", "shm", "mqueue"):
            os.mkdir(name, 0o755, dir_fd=dev)
        attach(walk, dev, "dev", "dir")
        if self.bind:
            for name, major, minor in NODES:
                _bind_node(walk, name, os.makedev(major, minor))


def _bind_node(walk: Walk, name: str, device: int) -> None:
    node = mount.open_tree(mount.AT_FDCWD, f"/dev/{name}")
    try:
        found = os.fstat(node)
        if not stat.S_ISCHR(found.st_mode) or found.st_rdev != device:
            raise libc.oserror(errno.ENODEV, "fstat", f"/dev/{name}")
        mount.move_mount(node, walk.dev, name)
    finally:
        os.close(node)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountDevpts(Step):
    """Pseudo-terminals of the container's own: devpts(5). /dev/ptmx is those, too.

    With `visible` false they are nowhere in the container (its /dev/pts is the host's, by its own
    configuration): only its console and ttys come from there.
    """

    max: int
    gid: int
    visible: bool = True

    def describe(self) -> str:
        """See Step."""
        if not self.visible:
            return "devpts for the console, not visible inside"
        return f"mount devpts (at most {self.max} ptys) on /dev/pts; /dev/ptmx is its ptmx"

    def apply(self, walk: Walk) -> None:
        """See Step."""
        options = (("mode", "0620"), ("ptmxmode", "0666"), ("max", str(self.max)))
        attributes = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NOEXEC
        try:
            fd = mount.fsmount("devpts", (*options, ("gid", str(self.gid))), attributes)
        except OSError as error:
            # Group `tty` may not be mapped into the user namespace.
            if error.errno != errno.EINVAL:
                raise
            fd = mount.fsmount("devpts", options, attributes)
        walk.devpts = fd
        if not self.visible:
            # Hung where only the child's old root has it: a mount that hangs nowhere cannot be
            # bound from.
            mount.move_mount(fd, mount.AT_FDCWD, DEVPTS_PLACE)
            return
        attach(walk, fd, "dev/pts", "dir")
        if walk.dev >= 0:
            os.symlink("pts/ptmx", "ptmx", dir_fd=walk.dev)
        elif walk.exists("dev/ptmx"):
            # The host's /dev: its files stay, ours lies over them in this mount namespace only.
            ptmx = mount.open_tree(fd, "ptmx")
            try:
                attach(walk, ptmx, "dev/ptmx")
            finally:
                os.close(ptmx)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTerminals(Step):
    """The console and the ttys: ptys whose masters the keeper drains, whose slaves lie over
    /dev/console, /dev/ttyN.

    With `directory` (`lxc.tty.dir`) they lie below /dev/DIRECTORY and /dev/ttyN are links to them.
    """

    console: bool
    ttys: int
    directory: str

    @property
    def streams(self) -> tuple[str, ...]:
        """See Step."""
        ttys = (f"tty{number}" for number in range(1, self.ttys + 1))
        return (*(["console"] if self.console else []), *ttys)

    def describe(self) -> str:
        """See Step."""
        words = ["/dev/console"] if self.console else []
        if self.ttys:
            place = f"/dev/{self.directory}/tty" if self.directory else "/dev/tty"
            words.append(f"{place}1" + (f" to {place}{self.ttys}" if self.ttys > 1 else ""))
        return f"open terminals: {', '.join(words)}"

    def apply(self, walk: Walk) -> None:
        """See Step."""
        streams: dict[str, int] = {}
        numbers: list[str] = []
        for name in self.streams:
            master = tty.open_master(walk.devpts)
            streams[name] = master
            tty.set_window_size(master, _ROWS, _COLUMNS)
            slave = tty.open_peer(master)
            # As on a real machine: the console is root's alone, a getty hands a tty to its user.
            os.fchmod(slave, 0o600 if name == "console" else 0o620)
            _place(walk, slave, name, self.directory)
            if name == "console":
                walk.stdio = [slave]
                walk.controlling = True
            else:
                numbers.append(f"pts/{tty.pty_number(master)}")
                os.close(slave)
        if numbers:
            walk.environment["container_ttys"] = " ".join(numbers)
        walk.hand_streams(streams)


def _place(walk: Walk, slave: int, name: str, directory: str) -> None:
    """Hang a slave over /dev/NAME; /dev/DIRECTORY/NAME as well, or instead for a tty."""
    places = [f"dev/{name}"]
    create = "file" if walk.dev >= 0 else ""
    if directory and walk.dev >= 0:
        places = [f"dev/{directory}/{name}"]
        if name == "console":
            places.append("dev/console")
        else:
            os.symlink(f"{directory}/{name}", name, dir_fd=walk.dev)
    for place in places:
        if not create and not walk.exists(place):
            # In a /dev that is not ours nothing is made; the terminal is there, only its name is
            # not.
            continue
        bound = mount.open_tree(slave, "", mount.OPEN_TREE_CLONE | mount.AT_EMPTY_PATH)
        try:
            attach(walk, bound, place, create)
        finally:
            os.close(bound)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPipes(Step):
    """Standard output and error become pipes that the keeper drains; standard input is `stdin`, or
    /dev/null.
    """

    stdin: int = -1

    @property
    def streams(self) -> tuple[str, ...]:
        """See Step."""
        return ("stdout", "stderr")

    def describe(self) -> str:
        """See Step."""
        given = "a pipe" if self.stdin >= 0 else "/dev/null"
        return f"standard input from {given}, standard output and error to pipes"

    def apply(self, walk: Walk) -> None:
        """See Step."""
        out, out_end = os.pipe2(os.O_CLOEXEC)
        err, err_end = os.pipe2(os.O_CLOEXEC)
        given = (
            walk.fds[self.stdin]
            if self.stdin >= 0
            else os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        )
        # The container's own user may open /dev/stdout again; a pipe belongs to who made it.
        walk.stdio = [given, out_end, err_end]
        walk.controlling = False
        walk.hand_streams({"stdout": out, "stderr": err})


@dataclass(frozen=True, slots=True, kw_only=True)
class NoTerminal(Step):
    """`lxc.console.path = none`: the standard streams are /dev/null."""

    def describe(self) -> str:
        """See Step."""
        return "no console: standard streams are /dev/null"

    def apply(self, walk: Walk) -> None:
        """See Step."""
        walk.stdio = [os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)]
        walk.controlling = False
