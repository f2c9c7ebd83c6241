"""Steps that mount something below the new root."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.container.spec import Step
from lxcd.container.walk import DEVPTS_PLACE
from lxcd.kernel import mount

if TYPE_CHECKING:
    from collections.abc import Callable

    from lxcd.container.walk import Walk

Options = tuple[tuple[str, str | None], ...]

_HARMLESS = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC


def describe_attributes(attributes: int) -> str:
    """Mount attributes as fstab(5) words, with a leading blank if there are any."""
    words = [
        word
        for word, bit in (
            ("ro", mount.MOUNT_ATTR_RDONLY),
            ("nosuid", mount.MOUNT_ATTR_NOSUID),
            ("nodev", mount.MOUNT_ATTR_NODEV),
            ("noexec", mount.MOUNT_ATTR_NOEXEC),
            ("noatime", mount.MOUNT_ATTR_NOATIME),
            ("nodiratime", mount.MOUNT_ATTR_NODIRATIME),
            ("nosymfollow", mount.MOUNT_ATTR_NOSYMFOLLOW),
        )
        if attributes & bit
    ]
    return f" ({', '.join(words)})" if words else ""


def attach(walk: Walk, fd: int, target: str, create: str = "") -> None:
    """Hang the mount `fd` over `target`."""
    place = walk.target(target, create)
    try:
        mount.move_mount(fd, place)
    finally:
        os.close(place)


def unless_optional(optional: bool, act: Callable[[], None]) -> None:  # noqa: FBT001
    """Do it; for an optional mount entry a failure of the kernel is no failure (LXC's
    `optional`).
    """
    try:
        act()
    except OSError:
        if not optional:
            raise


@dataclass(frozen=True, slots=True, kw_only=True)
class MountTree(Step):
    """Hang a mount that lxcd opened on the host's side over a place in the container."""

    fd: int
    source: str
    target: str
    create: str = ""
    optional: bool = False
    propagation: int = 0
    recursive: bool = False

    def describe(self) -> str:
        """See Step."""
        return f"mount {self.source} on /{self.target}"

    def apply(self, walk: Walk) -> None:
        """See Step."""
        # -1: lxcd could not open it, and it is optional.
        if walk.fds[self.fd] >= 0:
            unless_optional(self.optional, lambda: self._mount(walk))

    def _mount(self, walk: Walk) -> None:
        fd = walk.fds[self.fd]
        mount.mount_setattr(fd, propagation=mount.MS_PRIVATE, recursive=True)
        attach(walk, fd, self.target, self.create)
        if self.propagation:
            mount.mount_setattr(fd, propagation=self.propagation, recursive=self.recursive)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountBeneath(Step):
    """Bind a place of the container over another one: `relative` mount entries."""

    source: str
    target: str
    create: str = ""
    optional: bool = False
    set_: int = 0
    clear: int = 0
    recursive: bool = False
    move: bool = False
    propagation: int = 0

    def describe(self) -> str:
        """See Step."""
        verb = "move" if self.move else "bind"
        return f"{verb} /{self.source} on /{self.target}{describe_attributes(self.set_)}"

    def apply(self, walk: Walk) -> None:
        """See Step."""
        unless_optional(self.optional, lambda: self._mount(walk))

    def _mount(self, walk: Walk) -> None:
        source = walk.target(self.source)
        try:
            fd = source
            if not self.move:
                flags = mount.OPEN_TREE_CLONE | mount.AT_EMPTY_PATH
                fd = mount.open_tree(
                    source, "", flags | (mount.AT_RECURSIVE if self.recursive else 0)
                )
            try:
                if self.set_ or self.clear:
                    mount.mount_setattr(
                        fd, set_=self.set_, clear=self.clear, recursive=self.recursive
                    )
                attach(walk, fd, self.target, self.create)
                if self.propagation:
                    mount.mount_setattr(fd, propagation=self.propagation, recursive=self.recursive)
            finally:
                if fd != source:
                    os.close(fd)
        finally:
            os.close(source)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountFilesystem(Step):
    """Mount a file system that has no device: tmpfs, mqueue, proc … of the child's own
    namespaces.
    """

    fstype: str
    options: Options
    attributes: int
    target: str
    create: str = ""
    optional: bool = False
    propagation: int = 0

    def describe(self) -> str:
        """See Step."""
        words = ",".join(key if value is None else f"{key}={value}" for key, value in self.options)
        return (
            f"mount {self.fstype}{f' [{words}]' if words else ''} on /{self.target}"
            f"{describe_attributes(self.attributes)}"
        )

    def apply(self, walk: Walk) -> None:
        """See Step."""
        unless_optional(self.optional, lambda: self._mount(walk))

    def _mount(self, walk: Walk) -> None:
        fd = mount.fsmount(self.fstype, self.options, self.attributes)
        try:
            attach(walk, fd, self.target, self.create)
            if self.propagation:
                mount.mount_setattr(fd, propagation=self.propagation)
        finally:
            os.close(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverFstab(Step):
    """Hang what a container can follow of its /etc/fstab over it, read-only. Where all of it can be
    followed there is no descriptor, and nothing is done.
    """

    fd: int

    def describe(self) -> str:
        """See Step."""
        return "cover /etc/fstab where it names swap, / or devices that are not there"

    def apply(self, walk: Walk) -> None:
        """See Step."""
        text = walk.fds[self.fd]
        if text < 0:
            return
        size = os.fstat(text).st_size
        # Made here, and not by lxcd: the file is to belong to the container's own root.
        options = (("mode", "755"), ("size", str(size)), ("nr_inodes", "2"))
        tree = mount.fsmount("tmpfs", options, _HARMLESS)
        try:
            _fill(tree, text, size)
            # A mount that hangs nowhere cannot be bound from (before Linux 6.15).
            mount.move_mount(tree, mount.AT_FDCWD, DEVPTS_PLACE)
            try:
                copy = _copy(tree, "fstab", mount.MOUNT_ATTR_RDONLY)
            finally:
                mount.umount2(DEVPTS_PLACE)
        finally:
            os.close(tree)
        attach(walk, copy, "etc/fstab")
        os.close(copy)


def _fill(tree: int, text: int, size: int) -> None:
    file = os.open("fstab", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, dir_fd=tree)
    try:
        os.fchmod(file, 0o644)
        offset = 0
        while offset < size:
            offset += os.sendfile(file, text, offset, size - offset)
    finally:
        os.close(file)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountProc(Step):
    """`lxc.mount.auto = proc`: with `mixed`, /proc/sys and /proc/sysrq-trigger read-only,
    /proc/sys/net writable.
    """

    mode: str

    def describe(self) -> str:
        """See Step."""
        return f"mount proc ({self.mode}) on /proc"

    def apply(self, walk: Walk) -> None:
        """See Step."""
        proc = mount.fsmount("proc", (), _HARMLESS)
        try:
            attach(walk, proc, "proc", "dir")
            copies: list[tuple[str, int]] = []
            if self.mode == "mixed":
                # All taken before one is hung up, and from a mount that only this process has seen:
                # nothing can lie over these places yet (I3). Not before it hangs somewhere itself:
                # then there is nothing to be bound from, before Linux 6.15.
                for path, attributes in (
                    ("sys", mount.MOUNT_ATTR_RDONLY),
                    ("sys/net", 0),
                    ("sysrq-trigger", mount.MOUNT_ATTR_RDONLY),
                ):
                    # sys/net is not there for every user namespace's owner of the network.
                    with contextlib.suppress(FileNotFoundError):
                        copies.append((path, _copy(proc, path, attributes)))
            for path, copy in copies:
                attach(walk, copy, f"proc/{path}")
                os.close(copy)
        finally:
            os.close(proc)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSys(Step):
    """`lxc.mount.auto = sys`: `mixed` is read-only but for /sys/devices/virtual/net."""

    mode: str

    def describe(self) -> str:
        """See Step."""
        return f"mount sysfs ({self.mode}) on /sys"

    def apply(self, walk: Walk) -> None:
        """See Step."""
        sys = mount.fsmount("sysfs", (), _HARMLESS)
        net = "devices/virtual/net"
        try:
            attach(walk, sys, "sys", "dir")
            copy = -1
            if self.mode == "mixed":
                # As for proc: from a mount that hangs somewhere, and that nobody else has seen.
                with contextlib.suppress(FileNotFoundError):
                    copy = _copy(sys, net, 0)
            if self.mode != "rw":
                mount.mount_setattr(sys, set_=mount.MOUNT_ATTR_RDONLY)
            if copy >= 0:
                attach(walk, copy, f"sys/{net}")
                os.close(copy)
        finally:
            os.close(sys)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountCgroups(Step):
    """`lxc.mount.auto = cgroup`: the trees of this host as its cgroup namespace shows them.

    `hierarchies` holds, for version 1, (directory below /sys/fs/cgroup, mount options, writable);
    for version 2 the options are `None`: alone it is mounted on /sys/fs/cgroup itself, beside
    version 1 on its directory.
    """

    hierarchies: tuple[tuple[str, str | None, bool], ...]

    def describe(self) -> str:
        """See Step."""
        words = [
            f"{directory or 'cgroup2'} {'rw' if rw else 'ro'}"
            for directory, _, rw in self.hierarchies
        ]
        return f"mount cgroups on /sys/fs/cgroup: {', '.join(words)}"

    def apply(self, walk: Walk) -> None:
        """See Step."""
        base = "sys/fs/cgroup"
        if all(directory for directory, _, _ in self.hierarchies):
            # Filled before it is hung up, then made read-only: only the child ever sees it empty.
            tree = mount.fsmount("tmpfs", (("mode", "755"), ("size", "64k")), _HARMLESS)
            try:
                for directory, options, _ in self.hierarchies:
                    os.mkdir(directory, 0o755, dir_fd=tree)
                    for controller in (options or "").split(","):
                        # `cpu -> cpu,cpuacct`, as every distribution has them.
                        if controller not in ("", directory) and "=" not in controller:
                            os.symlink(directory, controller, dir_fd=tree)
                attach(walk, tree, base, "dir")
                mount.mount_setattr(tree, set_=mount.MOUNT_ATTR_RDONLY)
            finally:
                os.close(tree)
        for directory, options, writable in self.hierarchies:
            attributes = _HARMLESS | (0 if writable else mount.MOUNT_ATTR_RDONLY)
            if options is None:
                fd = mount.fsmount("cgroup2", (), attributes)
            else:
                fd = mount.fsmount("cgroup", _v1_options(options), attributes)
            try:
                attach(walk, fd, f"{base}/{directory}".rstrip("/"), "dir")
            finally:
                os.close(fd)


def _v1_options(options: str) -> Options:
    """`cpu,cpuacct` or `name=systemd` as options of the cgroup file system."""
    found: list[tuple[str, str | None]] = []
    for word in options.split(","):
        key, sign, value = word.partition("=")
        found.append((key, value if sign else None))
    return tuple(found)


def _copy(tree: int, path: str, attributes: int) -> int:
    """A second mount of what lies at `path` in a mount, which hangs nowhere yet."""
    fd = mount.open_tree(tree, path)
    if attributes:
        mount.mount_setattr(fd, set_=attributes)
    return fd
