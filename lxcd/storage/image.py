"""A part of a disk image, or a block device, as a mount that hangs nowhere.

The kernel takes no partition tables of files: it is read here, and the part of the file put behind
a loop device that nobody but the mount keeps. So it is gone with the container, whatever becomes of
lxcd.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lxcd.kernel import device as kernel_device
from lxcd.kernel import libc, loop, mount
from lxcd.kernel.fd import Fd
from lxcd.storage import blocks, choice, claim, filesystems, partitions
from lxcd.storage.choice import ImageBusyError, ImageError, Part

if TYPE_CHECKING:
    from lxcd.container.mounts import Options
    from lxcd.container.resources import MountImage
    from lxcd.storage.filesystems import Content

# Others may take the device that is free, as often as there are others.
_TRIES = 1000
# Of the disk whose copy a file is, which the file does not say.
_SECTOR = 512
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
}
_PROTECTED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ETXTBSY)
_EXT = ("ext2", "ext3", "ext4")
# Options that leave a journal alone: ext4(5), xfs(5), btrfs(5). One of each to be told of, and all
# words that there are.
_WITHOUT_REPLAY = {
    "ext3": "noload",
    "ext4": "noload",
    "xfs": "norecovery",
    "btrfs": "rescue=nologreplay",
}
_REPLAYS_NOT = {"noload", "norecovery", "nologreplay"}
_RESCUES = {"nologreplay", "all"}


@dataclass(frozen=True, slots=True)
class _Image:
    """Opened once: what is looked at is what is mounted."""

    fd: int
    path: str
    size_bytes: int
    sector_bytes: int
    protected: str  # why it cannot be written to; empty: it can

    def read(self, offset: int, length: int) -> bytes:
        """As much as there is."""
        if offset >= self.size_bytes:
            # What a table says may be more than pread(2) can be asked for.
            return b""
        found = bytearray()
        while len(found) < length:
            try:
                more = os.pread(self.fd, length - len(found), offset + len(found))
            except OSError as error:
                raise libc.oserror(error.errno or errno.EIO, "pread", self.path) from None
            if not more:
                break
            found += more
        return bytes(found)


def mount_root(wanted: MountImage) -> int:
    """Mount it; the caller owns the descriptor. Where a directory is as good, one is taken.

    Raises:
        ImageBusyError: if somebody has it who may be about to let go.
        ImageError: if what is in it is no root file system, or somebody has it.
        OSError: of the system call that failed.
    """
    # A directory has no partitions: who names one means an image.
    if wanted.directory is not None and wanted.partition is None:
        try:
            return wanted.directory.open()
        except OSError as error:
            if error.errno != errno.ENOTDIR:
                raise
    asked = bool(wanted.set_ & mount.MOUNT_ATTR_RDONLY)
    with _place(wanted.path) as place:
        file, protected = _opened(place.fileno(), wanted.path, read_only=asked)
        with file:
            size = os.lseek(file.fileno(), 0, os.SEEK_END)
            device = stat.S_ISBLK(os.fstat(file.fileno()).st_mode)
            sector = kernel_device.sector_bytes(file.fileno()) if device else _SECTOR
            image = _Image(file.fileno(), wanted.path, size, sector, protected)
            part = _chosen(image, wanted.partition)
            read_only = asked or part.content.name in filesystems.READ_ONLY
            if protected and not read_only:
                raise ImageError(f"{wanted.path} {protected}: say ro in lxc.rootfs.options")
            if device:
                return _of_device(wanted, image, part, read_only=read_only)
            return _looped(wanted, image, part, read_only=read_only)


def _place(path: str) -> Fd:
    try:
        return Fd(os.open(path, os.O_PATH | os.O_CLOEXEC))
    except OSError as error:
        raise libc.oserror(error.errno or 0, "open", path) from None


def _opened(place: int, path: str, *, read_only: bool) -> tuple[Fd, str]:
    """A file to write to if that is possible; else also why it is not. A device only to read: where
    file systems want to be the only writers (bdev_allow_write_mounted=0), it could not be mounted.
    """
    mode = os.fstat(place).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        what = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise ImageError(f"{path} is {what}, not a disk image")
    protected = ""
    if not read_only:
        if stat.S_ISBLK(mode) and mode & 0o222:
            if blocks.is_read_only(os.fstat(place).st_rdev):
                protected = "cannot be written to (a device that is read-only)"
        elif mode & 0o222:
            try:
                return _again(place, path, os.O_RDWR), ""
            except OSError as error:
                if error.errno not in _PROTECTED:
                    raise
                protected = f"cannot be written to ({os.strerror(error.errno)})"
        else:
            # Root could all the same; somebody does not want that.
            protected = f"is write-protected (mode {stat.S_IMODE(mode):04o})"
    return _again(place, path, os.O_RDONLY), protected


def _again(place: int, path: str, flags: int) -> Fd:
    try:
        # The very file that was looked at: a magic link, proc(5).
        return Fd(os.open(f"/proc/self/fd/{place}", flags | os.O_CLOEXEC))
    except OSError as error:
        raise libc.oserror(error.errno or 0, "open", path) from None


def _chosen(image: _Image, wanted: int | None) -> Part:
    whole = filesystems.probe(image.read(0, filesystems.HEAD_BYTES))
    table: partitions.Table | None = None
    try:
        if wanted != 0:
            table = partitions.table_of(image.read, image.size_bytes, image.sector_bytes)
        found = _contents(image, table.partitions if table is not None else ())
        return choice.choose(whole, table, found, wanted, os.uname().machine)
    except partitions.TableError as error:
        found = _contents(image, error.found)
        if whole.root and not wanted and not any(content.name for _, content in found):
            # What looks like a table is left of what was there before.
            return Part(0, 0, 0, whole)
        raise ImageError(f"{image.path} {choice.broken(error, whole, found)}") from None
    except ImageError as error:
        raise ImageError(f"{image.path} {error}") from None


def _contents(image: _Image, found: tuple[partitions.Partition, ...]) -> choice.Found:
    return tuple((one, _content(image, one)) for one in found)


def _content(image: _Image, one: partitions.Partition) -> filesystems.Content:
    length = min(filesystems.HEAD_BYTES, one.size_bytes)
    return filesystems.probe(image.read(one.offset_bytes, length))


def _of_device(wanted: MountImage, image: _Image, part: Part, *, read_only: bool) -> int:
    """Of the whole, or of a partition that the kernel knows: its own mounts of that are the same
    one, and no other program's writing comes between. Else nobody else may have any of the disk.
    """
    claim.refuse_taken(image.fd, image.path, part, wanted.container, read_only=read_only)
    if part.number == 0:
        return _direct(wanted, image, part, read_only=read_only)
    known = blocks.partition(os.fstat(image.fd).st_rdev, part)
    if known is not None:
        opened = kernel_device.open_node(known.name, stat.S_IFBLK, known.number, os.O_RDONLY)
        with Fd(opened) as node:
            own = replace(image, fd=node.fileno(), path=f"/dev/{known.name}")
            whole = Part(0, 0, 0, part.content)
            claim.refuse_taken(own.fd, own.path, whole, wanted.container, read_only=read_only)
            return _direct(wanted, own, whole, read_only=read_only)
    flags = os.O_EXCL | (os.O_RDONLY if read_only else os.O_RDWR)
    try:
        disk = _again(image.fd, wanted.path, flags)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        text = "the kernel does not know the partition, and somebody has the disk, or a part of it"
        raise ImageBusyError(f"{wanted.path} is in use on this host: {text}") from None
    with disk:
        return _looped(wanted, replace(image, fd=disk.fileno()), part, read_only=read_only)


def _direct(wanted: MountImage, image: _Image, whole: Part, *, read_only: bool) -> int:
    """Of the device itself."""
    if read_only:
        _refuse_replay(wanted, image, whole)
    source = kernel_device.path_of(image.path, image.fd)
    return _mounted(wanted, whole, source, read_only=read_only)


def _refuse_replay(wanted: MountImage, image: _Image, whole: Part) -> None:
    """`ro` is about files: the kernel writes a journal back all the same if the device lets it."""
    number, name = os.fstat(image.fd).st_rdev, whole.content.name
    if name not in _WITHOUT_REPLAY or _replays_not(wanted.options):
        return
    if blocks.is_read_only(number) or claim.is_mounted(number):
        # The kernel refuses; or gives what is mounted already, for which it writes nothing back.
        return
    if whole.content.unclean:
        raise _unclean(wanted.path, name)
    if name == "xfs":
        # Whether there is anything in its log is known to who reads the log: on a device that
        # nobody writes to. What else is wrong is found again.
        with contextlib.suppress(OSError):
            os.close(_behind_loop(wanted, image, whole, read_only=True))


def _looped(wanted: MountImage, image: _Image, part: Part, *, read_only: bool) -> int:
    claim.claim(image.fd, image.path, part, wanted.container, read_only=read_only)
    return _behind_loop(wanted, image, part, read_only=read_only)


def _behind_loop(wanted: MountImage, image: _Image, part: Part, *, read_only: bool) -> int:
    with Fd(loop.open_control()) as control:
        number, device = _attached(control.fileno(), wanted, image, part, read_only=read_only)
    with device:
        path = kernel_device.path_of(f"/dev/loop{number}", device.fileno())
        return _mounted(wanted, part, path, read_only=read_only)


def _attached(
    control: int, wanted: MountImage, image: _Image, part: Part, *, read_only: bool
) -> tuple[int, Fd]:
    """A device with the part behind it, opened only to read: see `_opened`."""
    for _ in range(_TRIES):
        number = loop.free_number(control)
        try:
            device = Fd(loop.open_device(number, writable=not read_only))
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.ENOENT):
                continue
            raise
        with device:
            try:
                loop.configure(
                    device.fileno(),
                    image.fd,
                    part.offset_bytes,
                    part.size_bytes,
                    claim.reference(wanted.container),
                    read_only=read_only,
                )
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
            else:
                # Before the other is closed: without a user it would be gone.
                return number, _again(device.fileno(), f"/dev/loop{number}", os.O_RDONLY)
    raise libc.oserror(errno.EBUSY, "ioctl LOOP_CONFIGURE", "others take every loop device first")


def _mounted(wanted: MountImage, part: Part, source: str, *, read_only: bool) -> int:
    name = part.content.name
    try:
        context = mount.FsContext(name)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        if name not in ("ext2", "ext3"):
            raise ImageError(f"{wanted.path} holds {name}, which this kernel has not") from None
        # The driver of ext4 can do both.
        context = mount.FsContext("ext4")
    with context:
        context.string("source", source)
        if read_only:
            # Of the superblock too: without it a journal would be replayed onto the device.
            context.flag("ro")
        for key, value in (*_defaults(name, wanted), *wanted.options):
            if value is None:
                context.flag(key)
            else:
                context.string(key, value)
        try:
            context.create()
        except OSError as error:
            if read_only and _is_journal(error, part.content, wanted.options):
                raise _unclean(wanted.path, name) from None
            raise
        return context.mount(wanted.set_)


def _is_journal(error: OSError, content: Content, options: Options) -> bool:
    """The kernel refuses because it may not write a journal back."""
    if content.name not in _WITHOUT_REPLAY or _replays_not(options):
        return False
    # btrfs has EIO for that, and for much else.
    return error.errno == errno.EROFS or (error.errno == errno.EIO and content.unclean)


def _replays_not(options: Options) -> bool:
    """The options say that a journal is left alone."""
    return any(
        key in _REPLAYS_NOT
        or (key == "rescue" and not _RESCUES.isdisjoint((value or "").split(":")))
        for key, value in options
    )


def _unclean(path: str, name: str) -> ImageError:
    text = f"{path} was not unmounted: its journal has to be written back before it can be read"
    option = _WITHOUT_REPLAY[name]
    return ImageError(f"{text}; start once without ro, or say {option} in lxc.rootfs.options")


def _defaults(name: str, wanted: MountImage) -> tuple[tuple[str, str | None], ...]:
    keys = {key for key, _ in wanted.options}
    if name in _EXT and "errors" not in keys:
        # Else the image may say itself that the host is to panic: tune2fs(8), -e.
        return (("errors", "remount-ro"),)
    if name == "xfs" and "nouuid" not in keys:
        # Images are copies of one another; that one is not mounted twice was looked at already.
        return (("nouuid", None),)
    return ()
