"""Steps that mount something below the new root."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.container import guest_fstab
from lxcd.container.calls import Label, Register
from lxcd.container.spec import Step
from lxcd.container.walk import DEVPTS_PLACE
from lxcd.kernel import mount

if TYPE_CHECKING:
    from lxcd.container.walk import Walk

Options = tuple[tuple[str, str | None], ...]

# A text that was fitted is longer by what stands in front of its lines.
_COVER_BYTES = 16 * guest_fstab.MAXIMUM_BYTES
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

    def compile(self, walk: Walk) -> None:
        """See Step."""
        mounted, absent = walk.sent(self.fd), Label()
        # lxcd could not open it, and it is optional.
        walk.unless_there(mounted, absent)
        with walk.optional(self.optional):
            walk.mount_setattr(mounted, propagation=mount.MS_PRIVATE, recursive=True)
            walk.attach(mounted, self.target, self.create)
            if self.propagation:
                walk.mount_setattr(mounted, propagation=self.propagation, recursive=self.recursive)
        walk.put(absent)


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

    def compile(self, walk: Walk) -> None:
        """See Step."""
        with walk.optional(self.optional):
            mounted = source = walk.target(self.source)
            if not self.move:
                flags = mount.OPEN_TREE_CLONE | mount.AT_EMPTY_PATH
                mounted = walk.open_tree(
                    source, "", flags | (mount.AT_RECURSIVE if self.recursive else 0)
                )
                walk.close(source)
            if self.set_ or self.clear:
                walk.mount_setattr(
                    mounted, set_=self.set_, clear=self.clear, recursive=self.recursive
                )
            walk.attach(mounted, self.target, self.create)
            if self.propagation:
                walk.mount_setattr(mounted, propagation=self.propagation, recursive=self.recursive)
            walk.close(mounted)


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

    def compile(self, walk: Walk) -> None:
        """See Step."""
        with walk.optional(self.optional):
            mounted = walk.fsmount(self.fstype, self.options, self.attributes)
            walk.attach(mounted, self.target, self.create)
            if self.propagation:
                walk.mount_setattr(mounted, propagation=self.propagation)
            walk.close(mounted)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverFstab(Step):
    """Hang what a container can follow of its /etc/fstab over it, read-only. Where all of it can be
    followed there is no descriptor, and nothing is done.
    """

    fd: int

    def describe(self) -> str:
        """See Step."""
        return "cover /etc/fstab where it names swap, / or devices that are not there"

    def compile(self, walk: Walk) -> None:
        """See Step."""
        text, followed = walk.sent(self.fd), Label()
        walk.unless_there(text, followed)
        # Made here, and not by lxcd: the file is to belong to the container's own root.
        options = (("mode", "755"), ("size", str(_COVER_BYTES)), ("nr_inodes", "2"))
        tree = walk.fsmount("tmpfs", options, _HARMLESS)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        file = walk.call("openat", tree, "fstab", flags, 0o600, path="fstab")
        walk.call("fchmod", file, 0o644)
        # All of it, wherever the offset of the other one is.
        walk.call("sendfile", file, text, walk.block(b"\0" * 8), _COVER_BYTES)
        walk.close(file)
        # A mount that hangs nowhere cannot be bound from (before Linux 6.15).
        walk.move_mount(tree, mount.AT_FDCWD, DEVPTS_PLACE)
        copy = _copy(walk, tree, "fstab", mount.MOUNT_ATTR_RDONLY)
        walk.call("umount2", DEVPTS_PLACE, mount.MNT_DETACH, path=DEVPTS_PLACE)
        walk.close(tree)
        walk.attach(copy, "etc/fstab")
        walk.close(copy)
        walk.put(followed)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountProc(Step):
    """`lxc.mount.auto = proc`: with `mixed`, /proc/sys and /proc/sysrq-trigger read-only,
    /proc/sys/net writable.
    """

    mode: str

    def describe(self) -> str:
        """See Step."""
        return f"mount proc ({self.mode}) on /proc"

    def compile(self, walk: Walk) -> None:
        """See Step."""
        proc = walk.fsmount("proc", (), _HARMLESS)
        walk.attach(proc, "proc", "dir")
        copies: list[tuple[str, Register]] = []
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
                copies.append((path, _copy(walk, proc, path, attributes)))
        for path, copy in copies:
            _attach_copy(walk, copy, f"proc/{path}")
        walk.close(proc)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSys(Step):
    """`lxc.mount.auto = sys`: `mixed` is read-only but for /sys/devices/virtual/net."""

    mode: str

    def describe(self) -> str:
        """See Step."""
        return f"mount sysfs ({self.mode}) on /sys"

    def compile(self, walk: Walk) -> None:
        """See Step."""
        sys = walk.fsmount("sysfs", (), _HARMLESS)
        walk.attach(sys, "sys", "dir")
        net = "devices/virtual/net"
        # As for proc: from a mount that hangs somewhere, and that nobody else has seen.
        copy = _copy(walk, sys, net, 0) if self.mode == "mixed" else None
        if self.mode != "rw":
            walk.mount_setattr(sys, set_=mount.MOUNT_ATTR_RDONLY)
        if copy is not None:
            _attach_copy(walk, copy, f"sys/{net}")
        walk.close(sys)


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

    def compile(self, walk: Walk) -> None:
        """See Step."""
        base = "sys/fs/cgroup"
        if all(directory for directory, _, _ in self.hierarchies):
            # Filled before it is hung up, then made read-only: only the child ever sees it empty.
            tree = walk.fsmount("tmpfs", (("mode", "755"), ("size", "64k")), _HARMLESS)
            for directory, options, _ in self.hierarchies:
                walk.call("mkdirat", tree, directory, 0o755, path=directory)
                for controller in (options or "").split(","):
                    # `cpu -> cpu,cpuacct`, as every distribution has them.
                    if controller not in ("", directory) and "=" not in controller:
                        walk.call("symlinkat", directory, tree, controller, path=controller)
            walk.attach(tree, base, "dir")
            walk.mount_setattr(tree, set_=mount.MOUNT_ATTR_RDONLY)
            walk.close(tree)
        for directory, options, writable in self.hierarchies:
            attributes = _HARMLESS | (0 if writable else mount.MOUNT_ATTR_RDONLY)
            if options is None:
                mounted = walk.fsmount("cgroup2", (), attributes)
            else:
                mounted = walk.fsmount("cgroup", _v1_options(options), attributes)
            walk.attach(mounted, f"{base}/{directory}".rstrip("/"), "dir")
            walk.close(mounted)


def _v1_options(options: str) -> Options:
    """`cpu,cpuacct` or `name=systemd` as options of the cgroup file system."""
    found: list[tuple[str, str | None]] = []
    for word in options.split(","):
        key, sign, value = word.partition("=")
        found.append((key, value if sign else None))
    return tuple(found)


def _copy(walk: Walk, tree: Register, path: str, attributes: int) -> Register:
    """A second mount of what lies at `path` in a mount, which hangs nowhere yet; none if there is
    nothing.
    """
    absent = Label()
    copy = walk.open_tree(tree, path, unless=((errno.ENOENT, absent),))
    if attributes:
        walk.mount_setattr(copy, set_=attributes)
    walk.put(absent)
    return copy


def _attach_copy(walk: Walk, copy: Register, target: str) -> None:
    absent = Label()
    walk.unless_there(copy, absent)
    walk.attach(copy, target)
    walk.close(copy)
    walk.put(absent)
