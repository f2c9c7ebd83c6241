"""What lxcd opens on the host's side before a child walks: mounts that hang nowhere, handed over as
descriptors.

The child's mount namespace has none of the host's paths, so whatever comes from the host is taken
here, in the host's mount namespace, by `open_tree` or `fsmount`, and lives as long as a descriptor
or the container does. Nothing is ever mounted on the host. These calls may block (network file
systems): never on the event loop.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from abc import ABC, abstractmethod
from dataclasses import dataclass

from lxcd.container import guest_fstab
from lxcd.container.mounts import Options, describe_attributes
from lxcd.kernel import libc, mount, process
from lxcd.kernel.fd import Fd


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource(ABC):
    """One descriptor that the Spec names by its index."""

    origin: str
    step: str  # name for messages: what it is for
    optional: bool = False
    idmap: str = ""  # `container`, or the path of a user namespace: ids are mapped by it

    @abstractmethod
    def describe(self) -> str:
        """In words, for `lxcctl plan`."""

    @abstractmethod
    def open(self) -> int:
        """Open it; the caller owns the descriptor. Raises OSError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeTree(Resource):
    """A bind mount of a path of the host."""

    path: str
    recursive: bool = False
    set_: int = 0
    clear: int = 0

    def describe(self) -> str:
        """See Resource."""
        below = " with all below" if self.recursive else ""
        mapped = f", ids mapped by {self.idmap}" if self.idmap else ""
        return f"take {self.path}{below}{describe_attributes(self.set_)}{mapped}"

    def open(self) -> int:
        """See Resource."""
        flags = mount.OPEN_TREE_CLONE | (mount.AT_RECURSIVE if self.recursive else 0)
        fd = mount.open_tree(mount.AT_FDCWD, self.path, flags)
        if self.set_ or self.clear:
            _set(fd, self.set_, self.clear, recursive=self.recursive)
        return fd


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeDirectory(TakeTree):
    """The same, for a root file system: it must be a directory."""

    def open(self) -> int:
        """See Resource."""
        # Not by os.open and fstat: an automount or a network file system is to be reached once.
        fd = TakeTree.open(self)
        try:
            os.close(os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd))
        except OSError as error:
            os.close(fd)
            raise libc.oserror(error.errno or errno.ENOTDIR, "open_tree", self.path) from None
        return fd


@dataclass(frozen=True, slots=True, kw_only=True)
class MountOverlay(Resource):
    """An overlay file system. Its upper and work directory are made where they are missing and
    their parent is not.
    """

    lower: tuple[str, ...]
    upper: str
    work: str
    options: Options = ()
    set_: int = 0

    def describe(self) -> str:
        """See Resource."""
        upper = f" under {self.upper}" if self.upper else ""
        return f"overlay of {' over '.join(self.lower)}{upper}{describe_attributes(self.set_)}"

    def open(self) -> int:
        """See Resource."""
        for path in (self.upper, self.work):
            if path:
                with contextlib.suppress(FileExistsError):
                    _make(path)
        with mount.FsContext("overlay") as context:
            # A colon separates layers; one in a path is escaped
            # (Documentation/filesystems/overlayfs.rst).
            context.string("lowerdir", ":".join(_escape(path) for path in self.lower))
            if self.upper:
                context.string("upperdir", self.upper)
                context.string("workdir", self.work)
            for key, value in self.options:
                if value is None:
                    context.flag(key)
                else:
                    context.string(key, value)
            context.create()
            return context.mount(self.set_)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountDevice(Resource):
    """A file system that needs a device or a server."""

    fstype: str
    source: str
    options: Options = ()
    set_: int = 0

    def describe(self) -> str:
        """See Resource."""
        return f"{self.fstype} of {self.source}{describe_attributes(self.set_)}"

    def open(self) -> int:
        """See Resource."""
        with mount.FsContext(self.fstype) as context:
            context.string("source", self.source)
            if self.set_ & mount.MOUNT_ATTR_RDONLY:
                # Of the superblock too: without it a journal would be replayed onto the device.
                context.flag("ro")
            for key, value in self.options:
                if value is None:
                    context.flag(key)
                else:
                    context.string(key, value)
            context.create()
            return context.mount(self.set_)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountImage(Resource):
    """A root file system in a disk image, or on a block device. What is in it has to be looked at,
    which `lxcd.storage` does.
    """

    path: str
    container: str  # whose it is, for the next one that wants it
    partition: int | None = None  # None: the one that is the root beyond doubt; 0: the whole
    options: Options = ()
    set_: int = 0
    directory: TakeDirectory | None = None  # what it is if a directory is there

    def describe(self) -> str:
        """See Resource."""
        if self.directory is not None and self.partition is None:
            return self.directory.describe()
        what = f"partition {self.partition} of " if self.partition else ""
        mapped = f", ids mapped by {self.idmap}" if self.idmap else ""
        return f"mount {what}the image {self.path}{describe_attributes(self.set_)}{mapped}"

    def open(self) -> int:
        """See Resource."""
        raise libc.oserror(errno.ENOTSUP, "mount", self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitFstab(Resource):
    """What a container can follow of its /etc/fstab, in memory: see `guest_fstab`. `rootfs` is the
    place of the root file system among the descriptors.
    """

    rootfs: int
    devices: tuple[str, ...]

    def describe(self) -> str:
        """See Resource."""
        return "read /etc/fstab of the root file system; leave out swap, / and devices not there"

    def open(self) -> int:
        """See Resource."""
        raise libc.oserror(errno.EBADF, "openat2", "etc/fstab")

    def open_below(self, rootfs: int) -> int:
        """Open it, which here is: read and write. -1 if it is fit as it stands. Raises OSError."""
        # Nothing is opened before it is known to be a file: a device may act on that.
        resolve = mount.RESOLVE_IN_ROOT | mount.RESOLVE_NO_SYMLINKS | mount.RESOLVE_NO_MAGICLINKS
        with Fd(mount.openat2(rootfs, "etc/fstab", os.O_PATH, resolve)) as found:
            if not stat.S_ISREG(os.fstat(found.fileno()).st_mode):
                return -1
            with open(f"/proc/self/fd/{found.fileno()}", "rb") as file:
                text = file.read(guest_fstab.MAXIMUM_BYTES + 1)
        fit = guest_fstab.fitted(text, self.devices)
        if fit is None or len(text) > guest_fstab.MAXIMUM_BYTES:
            return -1
        memfd = os.memfd_create("fstab", os.MFD_CLOEXEC)
        try:
            os.write(memfd, fit)
        except OSError:
            os.close(memfd)
            raise
        return memfd


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeNamespace(Resource):
    """A namespace by its file below /proc or elsewhere."""

    path: str
    kind: int  # CLONE_NEW*: what it has to be

    def describe(self) -> str:
        """See Resource."""
        return f"take the namespace {self.path}"

    def open(self) -> int:
        """See Resource."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = process.namespace_kind(fd)
        except OSError:
            found = 0
        if found != self.kind:
            os.close(fd)
            raise libc.oserror(errno.EINVAL, "ioctl NS_GET_NSTYPE", self.path)
        return fd


@dataclass(frozen=True, slots=True, kw_only=True)
class Given(Resource):
    """A descriptor of the caller's own, which becomes a standard stream. lxcd has it already."""

    stream: str

    def describe(self) -> str:
        """See Resource."""
        return f"the caller's {self.stream}"

    def open(self) -> int:
        """See Resource."""
        raise libc.oserror(errno.EBADF, "dup", self.stream)


def _make(path: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        raise
    except OSError as error:
        raise libc.oserror(error.errno or errno.EIO, "mkdir", path) from None


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _set(fd: int, set_: int, clear: int, *, recursive: bool) -> None:
    try:
        mount.mount_setattr(fd, set_=set_, clear=clear, recursive=recursive)
    except OSError:
        os.close(fd)
        raise
