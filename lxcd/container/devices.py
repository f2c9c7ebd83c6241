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
    history_bytes: int = 0  # of what each shows, that is kept in memory; 0: what the keeper thinks

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
        walk.hand_streams(streams, self.history_bytes)


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


# In place of the number of a descriptor.
NULL, PIPE = -1, -2


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPipes(Step):
    """Standard streams that are no terminal. Each is a descriptor that somebody has given,
    /dev/null (NULL), or a pipe whose other end the keeper holds (PIPE).

    The pipes become `uid`'s, who may then open /dev/stdout again; without it they stay root's.
    """

    stdin: int = NULL
    stdout: int = PIPE
    stderr: int = PIPE
    uid: int = -1
    gid: int = -1
    waits: bool = True  # what is written waits for its readers

    @property
    def streams(self) -> tuple[str, ...]:
        """See Step."""
        return tuple(name for name, what in self._named() if what == PIPE)

    def _named(self) -> tuple[tuple[str, int], ...]:
        return ("stdin", self.stdin), ("stdout", self.stdout), ("stderr", self.stderr)

    def describe(self) -> str:
        """See Step."""
        known = {NULL: "/dev/null", PIPE: "a pipe"}
        words = (f"{name} is {known.get(what, 'given')}" for name, what in self._named())
        return f"standard streams: {', '.join(words)}"

    def apply(self, walk: Walk) -> None:
        """See Step."""
        ours: dict[str, int] = {}
        walk.stdio = []
        walk.controlling = False
        for name, what in self._named():
            if what == PIPE:
                ends = os.pipe2(os.O_CLOEXEC)
                theirs, ours[name] = ends if name == "stdin" else reversed(ends)
                if self.uid >= 0:
                    os.fchown(theirs, self.uid, self.gid)
            elif what == NULL:
                theirs = walk.null()
            else:
                theirs = walk.fds[what]
            walk.stdio.append(theirs)
        if ours:
            walk.hand_streams(ours, waits=self.waits)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTerminal(Step):
    """A terminal for a command that has joined a container: a pty of the container's own devpts, so
    that ttyname(3) and `ps` inside know it.

    /dev/pts is whatever the container has made of it: nothing but a ptmx is opened there.
    """

    rows: int
    columns: int
    uid: int

    @property
    def streams(self) -> tuple[str, ...]:
        """See Step."""
        return ("terminal",)

    def describe(self) -> str:
        """See Step."""
        return f"a terminal of {self.rows} rows and {self.columns} columns from /dev/pts"

    def apply(self, walk: Walk) -> None:
        """See Step."""
        directory = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            devpts = os.open("/dev/pts", directory)
        except OSError as error:
            raise libc.oserror(error.errno or errno.EIO, "open", "/dev/pts") from None
        try:
            master = tty.open_master(devpts)
        finally:
            os.close(devpts)
        tty.set_window_size(master, self.rows, self.columns)
        slave = tty.open_peer(master)
        os.fchown(slave, self.uid, -1)
        os.fchmod(slave, 0o620)
        walk.stdio = [slave]
        walk.controlling = True
        walk.hand_streams({"terminal": master})


@dataclass(frozen=True, slots=True, kw_only=True)
class NoTerminal(Step):
    """`lxc.console.path = none`: the standard streams are /dev/null."""

    def describe(self) -> str:
        """See Step."""
        return "no console: standard streams are /dev/null"

    def apply(self, walk: Walk) -> None:
        """See Step."""
        walk.stdio = [walk.null()]
        walk.controlling = False
