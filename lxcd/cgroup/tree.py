"""Cgroup trees of the host, and one container's directories in them: cgroups(7).

Calls here touch cgroupfs only; they may wait for the kernel's cgroup lock, so not on the event
loop.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from dataclasses import dataclass

from lxcd.cgroup import killing
from lxcd.errors import FailedPrecondition
from lxcd.kernel import directory, procfs
from lxcd.kernel.fd import Fd, close_all

ROOT = "/sys/fs/cgroup"
_MARK = "trusted.lxcd"
INNER = "inner"  # as in lxc.cgroup.dir.container.inner
_RETRIES = 1000  # LXC's CGROUP_CREATE_RETRY
_PAUSE_SECONDS = 0.002
# Files that go with a delegated directory of version 2: /sys/kernel/cgroup/delegate, cgroups(7).
_DELEGATED_V2 = (
    *("cgroup.procs", "cgroup.threads", "cgroup.subtree_control"),
    *("memory.oom.group", "memory.reclaim"),
)
_DELEGATED_V1 = ("cgroup.procs", "tasks")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted tree."""

    mountpoint: str
    version: int
    options: str  # of version 1: `cpu,cpuacct`, `name=systemd`; empty for version 2
    controllers: frozenset[str] = frozenset()

    @property
    def directory(self) -> str:
        """Its place below /sys/fs/cgroup; empty when it is mounted there itself. One that is
        mounted elsewhere gets a place there for containers.
        """
        if not _below_root(self.mountpoint):
            return self.options or "unified"
        return os.path.relpath(self.mountpoint, ROOT).removeprefix(".")

    @property
    def key(self) -> str:
        """As /proc/PID/cgroup names it."""
        return self.options


@dataclass(frozen=True, slots=True)
class Trees:
    """All trees of the host."""

    hierarchies: tuple[Hierarchy, ...]

    @property
    def layout(self) -> str:
        """`v1`, `hybrid`, `v2`, or `none`."""
        versions = {hierarchy.version for hierarchy in self.hierarchies}
        return {(): "none", (1,): "v1", (2,): "v2"}.get(tuple(sorted(versions)), "hybrid")

    @property
    def unified(self) -> Hierarchy | None:
        """The tree of version 2."""
        return next((tree for tree in self.hierarchies if tree.version == 2), None)  # noqa: PLR2004

    def having(self, controller: str) -> Hierarchy | None:
        """The tree that a controller is in."""
        return next((tree for tree in self.hierarchies if controller in tree.controllers), None)

    def hides_limits(self, tree: Hierarchy) -> bool:
        """Tell whether a container's processes are to sit one level below its limits, as what they
        see of the tree they may have the right to write to.

        In version 1 it sees all controllers read-only; what is written to by hand there
        (`memory.limit_in_bytes`) is the directory of its processes, as it always was.
        """
        limits = bool(tree.controllers) or self.having("devices") is None
        return tree.version == 2 and limits  # noqa: PLR2004


@dataclass(frozen=True, slots=True)
class Payload:
    """One container's directories: hierarchy key -> directory, and what was made, parents first."""

    directories: dict[str, str]  # what limits it, and counts what it uses
    made: tuple[str, ...]
    # Written on each as an extended attribute: another lxcd may get to the same name first.
    mark: str = ""

    def home(self, key: str) -> str:
        """Where its processes begin: there, or below, if that was made as well."""
        own = self.directories[key]
        return max((path for path in self.made if path.startswith(f"{own}/")), key=len, default=own)


def find_trees() -> Trees:
    """Look at what is mounted: below /sys/fs/cgroup, or, a tree that is not there, elsewhere, as
    `mount -t cgroup lxc /lxc/cgroup` of old did it.
    """
    found: dict[tuple[int, str], Hierarchy] = {}
    mounts = [mount for mount in procfs.mounts() if mount.root in ("/", "")]
    # The same tree mounted twice counts once.
    for mount in sorted(mounts, key=lambda mount: not _below_root(mount.target)):
        if mount.fstype == "cgroup2":
            with contextlib.suppress(OSError):
                controllers = _words(f"{mount.target}/cgroup.controllers")
                tree = Hierarchy(mount.target, 2, "", frozenset(controllers))
                found.setdefault((2, ""), tree)
        elif mount.fstype == "cgroup":
            words = [
                word
                for word in mount.super_options
                if word not in ("rw", "ro", "xattr", "noprefix", "clone_children")
                and not word.startswith("release_agent=")
            ]
            options = ",".join(words)
            named = frozenset(word for word in words if not word.startswith("name="))
            found.setdefault((1, options), Hierarchy(mount.target, 1, options, named))
    return Trees(tuple(sorted(found.values(), key=lambda tree: tree.mountpoint)))


def _below_root(mountpoint: str) -> bool:
    return mountpoint == ROOT or mountpoint.startswith(f"{ROOT}/")


def choose(trees: Trees, wanted: str, *, relative: bool) -> list[str]:
    """Names that a container's directory may get, best first; `wanted` may have several components.

    With `relative` they are below lxcd's own cgroups.
    """
    own = procfs.cgroups("self") if relative else {}
    candidates: list[str] = []
    for number in range(_RETRIES):
        name = wanted if number == 0 else f"{wanted}-{number}"
        paths = [_path(tree, name, own) for tree in trees.hierarchies]
        if not any(os.path.lexists(path) for path in paths):
            candidates.append(name)
            break
    if not candidates:
        raise FailedPrecondition(
            f"cgroup {wanted} and {_RETRIES} more like it are taken", "CGROUP_TAKEN"
        )
    return candidates


def plan_payload(trees: Trees, wanted: str, *, relative: bool, inner: str = "") -> Payload:
    """Which directories `make` will make: to be written down before it does.

    `inner`: name of the directory below each in which the container begins; else there is one where
    the container could change its own limits.
    """
    own = procfs.cgroups("self") if relative else {}
    name = choose(trees, wanted, relative=relative)[0]
    directories = {tree.key: _path(tree, name, own) for tree in trees.hierarchies}
    made: list[str] = []
    for tree in trees.hierarchies:
        # That itself is not there was just seen.
        missing = [directories[tree.key]]
        path = os.path.dirname(missing[0])
        while path != tree.mountpoint and not os.path.lexists(path):
            missing.append(path)
            path = os.path.dirname(path)
        made.extend(reversed(missing))
        # Version 1 begins a list of devices only where no directory is below
        # (devcgroup_update_access: EINVAL).
        first = tree.version == 1 and "devices" in tree.controllers
        if (inner and not first) or trees.hides_limits(tree):
            below = directories[tree.key]
            for part in (inner or INNER).split("/"):
                below = f"{below}/{part}"
                made.append(below)
    return Payload(directories, tuple(made), secrets.token_hex(8))


def plan_slot(trees: Trees, name: str) -> Payload:
    """A directory in every tree of version 1, for a child whose container is not known yet."""
    first = Trees(tuple(tree for tree in trees.hierarchies if tree.version == 1))
    return plan_payload(first, name, relative=False)


def claim(trees: Trees, slot: Payload, payload: Payload) -> None:
    """Make a slot's directories the container's, by a rename in version 1; version 2 knows none, so
    there it is made. All or none. Raises OSError; FileExistsError if another was quicker.

    A rename costs 20 µs, a new directory with a process in it five times that.
    """
    renamed: list[tuple[str, str]] = []
    second = Trees(tuple(tree for tree in trees.hierarchies if tree.version == 2))  # noqa: PLR2004
    try:
        for key, old in slot.directories.items():
            new = payload.directories[key]
            os.rename(old, new)
            renamed.append((old, new))
        make(second, payload)
    except OSError:
        for old, new in reversed(renamed):
            with contextlib.suppress(OSError):
                os.rename(new, old)
        raise


def make(trees: Trees, payload: Payload) -> None:
    """Make the directories, all or none. Raises OSError; FileExistsError if another was quicker."""
    done: list[str] = []
    try:
        _make(trees, payload, done)
    except OSError:
        for path in reversed(done):
            with contextlib.suppress(OSError):
                os.rmdir(path)
        raise


def _make(trees: Trees, payload: Payload, done: list[str]) -> None:
    for path in payload.made:
        tree = _tree_of(trees, path)
        if tree is None:
            continue
        if tree.version == 2:  # noqa: PLR2004
            above = os.path.dirname(path)
            _enable_controllers(tree, above, fresh=above in done)
        os.mkdir(path, 0o755)
        done.append(path)
        with contextlib.suppress(OSError):
            os.setxattr(path, _MARK, payload.mark.encode())
        if "cpuset" in tree.controllers and tree.version == 1:
            _inherit_cpuset(path)


def _tree_of(trees: Trees, path: str) -> Hierarchy | None:
    """The tree that a path is in: one may be mounted below another."""
    found = [tree for tree in trees.hierarchies if path.startswith(f"{tree.mountpoint}/")]
    return max(found, key=lambda tree: len(tree.mountpoint), default=None)


def delegate(trees: Trees, payload: Payload, uid: int, gid: int) -> None:
    """Give the container's root what it may manage itself: version 2 and version 1's
    `name=systemd`.

    Not the directory's limits: those stay the host's (cgroups(7), delegation).
    """
    for tree in trees.hierarchies:
        if tree.version == 1 and "name=" not in tree.options:
            continue
        own = payload.home(tree.key)
        os.chown(own, uid, gid)
        for name in _DELEGATED_V2 if tree.version == 2 else _DELEGATED_V1:  # noqa: PLR2004
            with contextlib.suppress(FileNotFoundError):
                os.chown(f"{own}/{name}", uid, gid)


def open_unified(trees: Trees, payload: Payload) -> int:
    """The version 2 directory, for clone3(2) to be born in; -1 without version 2. The caller owns
    it. Raises OSError.
    """
    if trees.unified is None:
        return -1
    path = payload.home(trees.unified.key)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def open_procs(trees: Trees, payload: Payload) -> list[int]:
    """What to write 0 to in version 1 to move oneself, owned by the caller. Raises OSError.

    A process with one thread may as well write to `tasks`: the kernel need not stop all forks and
    exits of the host for it (cgroup_threadgroup_rwsem), which through cgroup.procs takes an RCU
    grace period: 12 ms, and here 0.03 (Linux 5.5).
    """
    procs: list[int] = []
    try:
        for tree in trees.hierarchies:
            if tree.version == 1:
                path = f"{payload.home(tree.key)}/tasks"
                procs.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
    except OSError:
        close_all(procs)
        raise
    return procs


def open_for_join(trees: Trees, payload: Payload, pid: int) -> tuple[int, list[int]]:
    """Both, for a command that joins the container of init `pid`.

    On version 2 init's own cgroup: systemd inside leaves the container's topmost one, and enables
    controllers below, after which no process may sit there ("no internal processes", cgroups(7)).
    """
    procs = open_procs(trees, payload)
    try:
        cgroup = open_unified(trees, payload)
    except OSError:
        close_all(procs)
        raise
    unified = trees.unified
    if unified is not None:
        try:
            inside = procfs.cgroups(pid).get("", "")
        except OSError:
            inside = ""
        own = unified.mountpoint + inside
        top = payload.directories[unified.key]
        if own.startswith(f"{top}/"):
            with contextlib.suppress(OSError):
                inner = os.open(own, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                os.close(cgroup)
                cgroup = inner
    return cgroup, procs


def remove(payload: Payload, deadline_seconds: float = 30.0) -> list[str]:
    """Remove the container's directories with what is below them, and parents that were made for
    them and are empty; which of the container's own are left.

    Processes that still sit there are killed: this is done after init has ended, and whoever is
    left was part of the container.
    """
    end = time.monotonic() + deadline_seconds
    made = set(payload.made)
    left = [
        path for path in payload.directories.values() if path in made and _is_ours(path, payload)
    ]
    while True:
        left = [path for path in left if not _remove_tree(path)]
        rest = end - time.monotonic()
        if not left or rest < 0:
            break
        occupied = {key: path for key, path in payload.directories.items() if path in left}
        killing.kill_all(occupied, rest)
        # They are not in `cgroup.procs` any more, but the directory may be theirs a little longer.
        time.sleep(_PAUSE_SECONDS)
    for path in reversed(payload.made):
        if path not in left and not _is_anothers(path, payload):
            # Nobody's: a crash came between mkdir and mark; if it is empty it may go. A parent
            # (`lxc.cgroup.dir`) may be another container's too by now; then it stays.
            with contextlib.suppress(OSError):
                os.rmdir(path)
    return left


def _is_anothers(path: str, payload: Payload) -> bool:
    """It bears another's mark."""
    try:
        return os.getxattr(path, _MARK) != payload.mark.encode()
    except OSError:
        return False


def _is_ours(path: str, payload: Payload) -> bool:
    """Not if it bears another's mark, or none: then a crash came before it was ours."""
    try:
        return os.getxattr(path, _MARK) == payload.mark.encode()
    except OSError as error:
        return error.errno == errno.ENOTSUP


def _remove_tree(top: str) -> bool:
    """Try once. True: it is gone."""
    above, name = os.path.split(top)
    try:
        with Fd(os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as handle:
            with Fd(os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as tree:
                directory.walk(
                    tree.fileno(),
                    directory.subdirectories,
                    lambda parent, below: os.rmdir(below, dir_fd=parent),
                )
            os.rmdir(name, dir_fd=handle.fileno())
    except FileNotFoundError:
        return not os.path.lexists(top)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY, errno.ESTALE):
            return False
        raise
    return True


def _path(tree: Hierarchy, name: str, own: dict[str, str]) -> str:
    below = own.get(tree.key, "").strip("/")
    return "/".join(part for part in (tree.mountpoint, below, name) if part)


def _enable_controllers(tree: Hierarchy, path: str, *, fresh: bool) -> None:
    """Let children of a version 2 directory have its controllers, as far as that is possible. One
    that is `fresh` was made by us, and nobody sits in it.
    """
    if not tree.controllers:
        return  # as beside version 1 mostly
    with contextlib.suppress(OSError):
        missing = _words(f"{path}/cgroup.controllers")
        if not fresh:
            missing -= _words(f"{path}/cgroup.subtree_control")
        if not missing or not (fresh or _may_divide(path)):
            return
        for controller in missing:
            with (
                contextlib.suppress(OSError),
                open(f"{path}/cgroup.subtree_control", "w", encoding="ascii") as file,
            ):
                file.write(f"+{controller}")


def _may_divide(path: str) -> bool:
    """Where processes sit, the kernel takes those controllers that divide threads, and turns
    whatever is below into a place where no process may be ("domain invalid", cgroups(7)). The root
    has no such rule, and no cgroup.type.
    """
    return not (os.path.exists(f"{path}/cgroup.type") and _words(f"{path}/cgroup.procs"))


def _words(path: str) -> set[str]:
    with open(path, encoding="ascii") as file:
        return set(file.read().split())


def _inherit_cpuset(path: str) -> None:
    """A new cpuset of version 1 is empty, and takes no process before it has cpus and mems:
    cpuset(7).
    """
    above = os.path.dirname(path)
    for name in ("cpuset.cpus", "cpuset.mems"):
        with open(f"{above}/{name}", encoding="ascii") as file:
            value = file.read()
        with open(f"{path}/{name}", "w", encoding="ascii") as file:
            file.write(value)
    with open(f"{path}/cgroup.clone_children", "w", encoding="ascii") as file:
        file.write("1")
