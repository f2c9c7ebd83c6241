"""Steps for /dev: device nodes, terminals, the console, and where the standard streams go."""

from __future__ import annotations

import errno
import os
import stat
import struct
import termios
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.container.calls import Data, Label, Register
from lxcd.container.spec import Step
from lxcd.container.walk import DEVPTS_PLACE
from lxcd.kernel import mount, tty

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
_FORMAT = 0o170000  # S_IFMT
_STATFS_BYTES = 120


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

    def compile(self, walk: Walk) -> None:
        """See Step."""
        options = (("mode", "755"), ("size", str(self.size_bytes)), ("nr_inodes", "4096"))
        walk.dev = dev = walk.fsmount("tmpfs", options, mount.MOUNT_ATTR_NOSUID)
        for name, major, minor in NODES:
            if self.bind:
                walk.call("mknodat", dev, name, stat.S_IFREG | 0o666, 0, path=name)
                continue
            mode, device = stat.S_IFCHR | 0o666, encoded(major, minor)
            walk.call("mknodat", dev, name, mode, device, path=name)
            walk.call("fchmodat", dev, name, 0o666, path=name)
        for name, where in _LINKS:
            walk.call("symlinkat", where, dev, name, path=name)
        for name in ("pts", "shm", "mqueue"):
            walk.call("mkdirat", dev, name, 0o755, path=name)
        walk.attach(dev, "dev", "dir")
        if self.bind:
            for name, major, minor in NODES:
                _bind_node(walk, name, major, minor)


def encoded(major: int, minor: int) -> int:
    """As mknod(2) takes it: new_decode_dev() in the kernel."""
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def _bind_node(walk: Walk, name: str, major: int, minor: int) -> None:
    path = f"/dev/{name}"
    node = walk.open_tree(mount.AT_FDCWD, path)
    found = walk.statx(node, path)
    walk.call("test", found.mode, 2, _FORMAT, stat.S_IFCHR, errno.ENODEV, path=path)
    walk.call("test", found.device, 8, -1, major | minor << 32, errno.ENODEV, path=path)
    assert walk.dev is not None
    walk.move_mount(node, walk.dev, name)
    walk.close(node)


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

    def compile(self, walk: Walk) -> None:
        """See Step."""
        options = (("mode", "0620"), ("ptmxmode", "0666"), ("max", str(self.max)))
        attributes = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NOEXEC
        unmapped, made = Label(), Label()
        # Group `tty` may not be mapped into the user namespace.
        walk.devpts = devpts = walk.fsmount(
            "devpts",
            (*options, ("gid", str(self.gid))),
            attributes,
            unless=((errno.EINVAL, unmapped),),
        )
        walk.go(made)
        walk.put(unmapped)
        walk.call("set", walk.fsmount("devpts", options, attributes), into=devpts)
        walk.put(made)
        if not self.visible:
            # Hung where only the child's old root has it: a mount that hangs nowhere cannot be
            # bound from.
            walk.move_mount(devpts, mount.AT_FDCWD, DEVPTS_PLACE)
            return
        walk.attach(devpts, "dev/pts", "dir")
        if walk.dev is not None:
            walk.call("symlinkat", "pts/ptmx", walk.dev, "ptmx", path="ptmx")
            return
        # The host's /dev: its files stay, ours lies over them in this mount namespace only.
        absent = Label()
        walk.if_exists("dev/ptmx", absent)
        ptmx = walk.open_tree(devpts, "ptmx")
        walk.attach(ptmx, "dev/ptmx")
        walk.close(ptmx)
        walk.put(absent)


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

    def compile(self, walk: Walk) -> None:
        """See Step."""
        streams: dict[str, Register] = {}
        for name in self.streams:
            streams[name] = master = _open_master(walk, walk.devpts, _ROWS, _COLUMNS)
            slave = _open_peer(walk, master)
            # As on a real machine: the console is root's alone, a getty hands a tty to its user.
            walk.call("fchmod", slave, 0o600 if name == "console" else 0o620)
            _place(walk, slave, name, self.directory)
            if name == "console":
                walk.stdio = [slave]
                walk.controlling = True
            else:
                walk.close(slave)
        if self.ttys:
            # In a devpts that has just been made the first is 0.
            names = enumerate(self.streams)
            numbers = [f"pts/{number}" for number, name in names if name != "console"]
            walk.environment["container_ttys"] = " ".join(numbers)
        walk.hand_streams(streams, self.history_bytes)


def _open_master(walk: Walk, devpts: Register, rows: int, columns: int) -> Register:
    """A new pty in the devpts that `devpts` is the root of: its master, unlocked. Nothing that is
    mounted over its ptmx is opened. ENOSPC when the instance's `max=` or kernel.pty.max is reached.
    """
    resolve = mount.RESOLVE_BENEATH | mount.RESOLVE_NO_SYMLINKS | mount.RESOLVE_NO_XDEV
    how = walk.constant(struct.pack("=3Q", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, 0, resolve))
    master = walk.call("openat2", devpts, "ptmx", how, 24, path="ptmx", named="open")
    unlocked = walk.constant(struct.pack("=i", 0))
    walk.call("ioctl", master, tty.TIOCSPTLCK, unlocked, named="ioctl TIOCSPTLCK")
    size = walk.constant(struct.pack("=HHHH", rows, columns, 0, 0))
    walk.call("ioctl", master, termios.TIOCSWINSZ, size, named="ioctl TIOCSWINSZ")
    return master


def _open_peer(walk: Walk, master: Register) -> Register:
    """TIOCGPTPEER: the slave of this very master, whatever has been mounted over its path since
    (CVE-2025-52565).
    """
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    return walk.call("ioctl", master, tty.TIOCGPTPEER, flags, named="ioctl TIOCGPTPEER")


def _place(walk: Walk, slave: Register, name: str, directory: str) -> None:
    """Hang a slave over /dev/NAME; /dev/DIRECTORY/NAME as well, or instead for a tty."""
    places = [f"dev/{name}"]
    if directory and walk.dev is not None:
        places = [f"dev/{directory}/{name}"]
        if name == "console":
            places.append("dev/console")
        else:
            walk.call("symlinkat", f"{directory}/{name}", walk.dev, name, path=name)
    for place in places:
        absent = Label()
        if walk.dev is None:
            # In a /dev that is not ours nothing is made; the terminal is there, only its name is
            # not.
            walk.if_exists(place, absent)
        bound = walk.open_tree(slave, "", mount.OPEN_TREE_CLONE | mount.AT_EMPTY_PATH)
        walk.attach(bound, place, "file" if walk.dev is not None else "")
        walk.close(bound)
        walk.put(absent)


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

    def compile(self, walk: Walk) -> None:
        """See Step."""
        ours: dict[str, Register] = {}
        walk.stdio = []
        walk.controlling = False
        for name, what in self._named():
            if what == PIPE:
                ends = walk.block(b"\0" * 8)
                walk.call("pipe2", ends, os.O_CLOEXEC)
                reads = walk.call("load", ends)
                writes = walk.call("load", Data(ends + 4))
                theirs, ours[name] = (reads, writes) if name == "stdin" else (writes, reads)
                if self.uid >= 0:
                    walk.call("fchown", theirs, self.uid, self.gid)
            elif what == NULL:
                theirs = walk.null()
            else:
                theirs = walk.sent(what)
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

    def compile(self, walk: Walk) -> None:
        """See Step."""
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        devpts = walk.call(
            "openat", mount.AT_FDCWD, "/dev/pts", flags, path="/dev/pts", named="open"
        )
        # If it is no devpts, where nobody can put anything, that is ENODEV.
        found = walk.block(b"\0" * _STATFS_BYTES)
        walk.call("fstatfs", devpts, found, path="ptmx", named="open")
        magic = tty.DEVPTS_SUPER_MAGIC
        walk.call("test", found, 8, -1, magic, errno.ENODEV, path="ptmx", named="open")
        master = _open_master(walk, devpts, self.rows, self.columns)
        walk.close(devpts)
        slave = _open_peer(walk, master)
        walk.call("fchown", slave, self.uid, -1)
        walk.call("fchmod", slave, 0o620)
        walk.stdio = [slave]
        walk.controlling = True
        walk.hand_streams({"terminal": master})


@dataclass(frozen=True, slots=True, kw_only=True)
class NoTerminal(Step):
    """`lxc.console.path = none`: the standard streams are /dev/null."""

    def describe(self) -> str:
        """See Step."""
        return "no console: standard streams are /dev/null"

    def compile(self, walk: Walk) -> None:
        """See Step."""
        walk.stdio = [walk.null()]
        walk.controlling = False
