"""Block devices with a root file system: nobody has a second superblock of one, and nothing but it writes there."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from lxcd.container.mounts import Options
from lxcd.container.resources import MountImage, TakeDirectory
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import mount, process
from lxcd.kernel.fd import Fd
from lxcd.storage import blocks, image
from lxcd.storage.choice import ImageBusyError, ImageError, Part
from lxcd.storage.filesystems import HEAD_BYTES, Content
from tests.kernel import forked
from tests.kernel.inits import until

SECTORS = 48 << 11  # of 512 bytes, of a disk
FIRST, COUNT = 2048, 32 << 11  # of its partition


def run(*argv: str | Path) -> str:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def ext4(path: Path, label: str, size_bytes: int = COUNT * 512) -> Path:
    """With a file of that name in it, in blocks that a sector of any disk fits into."""
    root = path.with_suffix(".root")
    root.mkdir()
    (root / label).touch()
    with open(path, "xb") as file:
        file.truncate(size_bytes)
    run("mkfs.ext4", "-q", "-F", "-b", "4096", "-d", root, path)
    return path


@contextmanager
def attached(path: Path, *options: str) -> Iterator[str]:
    """Behind a loop device that the host has: as a disk."""
    device = run("losetup", "--partscan", "--find", "--show", *options, path).strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)
        until(lambda: is_free(device, path), "the disk is gone")


def is_free(device: str, path: Path) -> bool:
    """Its file is not behind it any more; by now another may be."""
    with suppress(OSError):
        backing = Path(f"/sys/block/{device.removeprefix('/dev/')}/loop/backing_file")
        return backing.read_text().strip() != str(path)
    return True


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    """With an MBR of one partition, of which the kernel does not know: it reads no tables here."""
    with attached(parted(tmp_path, 512)) as device:
        forget(device)
        yield device


def parted(folder: Path, sector_bytes: int) -> Path:
    """A file of such a disk. Its table counts in sectors of that size."""
    path = folder / "disk.img"
    data = ext4(folder / "part.img", "inside").read_bytes()
    first, count = (number * 512 // sector_bytes for number in (FIRST, COUNT))
    with open(path, "xb") as file:
        file.truncate(SECTORS * 512)
        file.seek(446)
        file.write(
            b"\0\0\0\0\x83\0\0\0" + first.to_bytes(4, "little") + count.to_bytes(4, "little")
        )
        file.seek(510)
        file.write(b"\x55\xaa")
        file.seek(FIRST * 512)
        file.write(data)
    return path


def forget(disk: str) -> None:
    """Take its partitions from a kernel that does read tables."""
    subprocess.run(("partx", "--delete", disk), capture_output=True, check=False)


def told(disk: str, count: int = COUNT) -> blocks.Node:
    """The kernel knows a partition where the disk's is."""
    run("addpart", disk, "1", str(FIRST), str(count))
    part = Part(1, FIRST * 512, count * 512, Content("ext4"))
    node = blocks.partition(os.stat(disk).st_rdev, part)
    assert node is not None
    assert node.name == f"{disk.removeprefix('/dev/')}p1"
    return node


def root_of(
    path: Path | str,
    *,
    read_only: bool = False,
    partition: int | None = None,
    options: Options = (),
    container: str = "c",
) -> Fd:
    """What a container would have there."""
    return Fd(
        image.mount_root(
            MountImage(
                origin="test:1",
                step="rootfs",
                path=str(path),
                container=container,
                partition=partition,
                options=options,
                set_=mount.MOUNT_ATTR_RDONLY if read_only else 0,
            )
        )
    )


def host_mount(node: blocks.Node, place: Path) -> Fd:
    """As mount(8) would, only that it hangs nowhere."""
    os.mknod(place, stat.S_IFBLK | 0o600, node.number)
    return Fd(mount.fsmount("ext4", (("source", str(place)),)))


def listed(root: Fd) -> set[str]:
    return set(os.listdir(f"/proc/self/fd/{root.fileno()}")) - {"lost+found"}


def create(root: Fd, name: str) -> None:
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=root.fileno()))


# How much its maker wants, and the option that leaves its journal alone.
JOURNALS: dict[str, tuple[int, Options]] = {
    "ext4": (24 << 20, (("noload", None),)),
    "xfs": (300 << 20, (("norecovery", None),)),
    "btrfs": (128 << 20, (("rescue", "nologreplay"),)),
}


UNCLEAN = "was not unmounted: its journal has to be written back before it can be read"


def unclean(kind: str, folder: Path) -> Path:
    """A file with a file system that nobody has unmounted, and a journal of one file in it."""
    used, path = folder / f"used.{kind}", folder / f"{kind}.img"
    with open(used, "xb") as file:
        file.truncate(JOURNALS[kind][0])
    run(f"mkfs.{kind}", "-q", used)
    with root_of(used, options=(("commit", "600"),) if kind == "btrfs" else ()) as root:
        number = os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=root.fileno())
        os.fsync(number)
        os.close(number)
        run("cp", "--sparse=always", used, path)
    until(lambda: not loops_on(str(used)), "the loop device is gone")
    return path


def loops_on(disk: str) -> list[Path]:
    """Loop devices with the disk behind them."""
    found: list[Path] = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            if backing.read_text().strip() == disk:
                found.append(backing)
    return found


@pytest.mark.parametrize("partition", [None, 1])
def test_a_partition_that_the_host_has_mounted_is_one_file_system(
    disk: str, tmp_path: Path, partition: int | None
) -> None:
    with (
        host_mount(told(disk), tmp_path / "node") as host,
        root_of(disk, partition=partition) as root,
    ):
        create(host, "host")
        create(root, "box")
        assert listed(host) == listed(root) == {"inside", "host", "box"}
        assert os.fstat(host.fileno()).st_dev == os.fstat(root.fileno()).st_dev
        assert not loops_on(disk)


def test_a_partition_that_the_kernel_knows_is_claimed(disk: str) -> None:
    node = told(disk)
    with root_of(disk) as root:
        assert os.fstat(root.fileno()).st_dev == node.number
        with pytest.raises(OSError, match="busy"):
            os.open(disk, os.O_RDWR | os.O_EXCL)


def test_the_disk_of_an_unknown_partition_is_claimed(disk: str) -> None:
    with root_of(disk) as root:
        assert listed(root) == {"inside"}
        assert len(loops_on(disk)) == 1
        # What a mount of the host's would do.
        with pytest.raises(OSError, match="busy"):
            os.open(disk, os.O_RDWR | os.O_EXCL)
    until(lambda: not loops_on(disk), "the loop device is gone")
    until(lambda: not claimed(disk), "the disk is free")


def claimed(disk: str) -> bool:
    try:
        os.close(os.open(disk, os.O_RDONLY | os.O_EXCL))
    except OSError:
        return True
    return False


@pytest.mark.parametrize("read_only", [False, True])
def test_a_disk_of_which_the_host_uses_a_part_is_refused(
    disk: str,
    tmp_path: Path,
    read_only: bool,  # noqa: FBT001
) -> None:
    # The same file system, and not quite the same partition.
    with (
        host_mount(told(disk, COUNT + 8), tmp_path / "node"),
        pytest.raises(ImageBusyError, match=f"{disk} is in use on this host"),
    ):
        root_of(disk, read_only=read_only)
    assert not loops_on(disk)
    root_of(disk, read_only=read_only).close()
    until(lambda: not loops_on(disk), "the loop device is gone")


@pytest.mark.parametrize("name", ["c", "c" * 64])
def test_the_next_one_learns_who_has_the_disk(disk: str, name: str) -> None:
    with root_of(disk, container=name):
        for other, own in ((name, True), ("another", False)):
            with pytest.raises(
                ImageBusyError, match=r"of container c+ has it read-write"
            ) as caught:
                root_of(disk, partition=1, container=other)
            # As if it had ended, and what it wrote were being written back: it hangs nowhere.
            assert caught.value.own == own
    until(lambda: not loops_on(disk), "the loop device is gone")


@pytest.mark.parametrize("place", ["disk", "partition"])
def test_a_loop_device_over_what_is_mounted_directly_is_told_of(
    disk: str, tmp_path: Path, place: str
) -> None:
    node = tmp_path / "node"
    # By another node than the one of /dev.
    number = told(disk).number if place == "partition" else os.stat(disk).st_rdev
    os.mknod(node, stat.S_IFBLK | 0o600, number)
    with attached(node) as other:
        for read_only in (False, True):
            with pytest.raises(ImageError, match=f"is in use: {other} has it read-write"):
                root_of(disk, read_only=read_only)
    with attached(node, "--read-only") as other:
        with pytest.raises(ImageError, match=f"is in use: {other} has it read-only"):
            root_of(disk)
        root_of(disk, read_only=True).close()
    root_of(disk).close()
    until(lambda: not loops_on(disk), "the loop device is gone")


@pytest.mark.parametrize("kind", ["whole", "known", "node"])
def test_a_virtual_machine_has_the_device(disk: str, tmp_path: Path, kind: str) -> None:
    path, wanted = disk, disk
    with ExitStack() as stack:
        if kind == "whole":
            path = wanted = stack.enter_context(attached(ext4(tmp_path / "fs.img", "inside")))
        else:
            name = told(disk).name
            path = f"/dev/{name}" if kind == "node" else disk
        # As QEMU's of what it writes to: byte 101.
        with Fd(os.open(path, os.O_RDWR | os.O_CLOEXEC)) as machine:
            assert kernel_fd.lock_range(machine.fileno(), 101, 1, exclusive=False)
            for read_only in (False, True):
                with pytest.raises(ImageError, match=f"{path} is in use by a virtual machine"):
                    root_of(wanted, read_only=read_only)
        root_of(wanted).close()


@pytest.mark.parametrize("kind", ["file", "device", "known", "unknown"])
def test_nobody_has_a_device_to_write_to_when_it_is_mounted(
    disk: str, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it is EBUSY where the kernel runs with bdev_allow_write_mounted=0."""
    create = mount.FsContext.create
    sources: list[int] = []

    def source(context: mount.FsContext, key: str, value: str) -> None:
        if key == "source":
            sources.append(os.stat(value).st_rdev)
        string(context, key, value)

    def creating(context: mount.FsContext) -> None:
        if context.fstype == "ext4":
            assert not written()[sources[-1]]
        create(context)

    def written() -> dict[int, list[str]]:
        """This process's openings, by the device that is opened, to write to it."""
        found: dict[int, list[str]] = {number: [] for number in sources}
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                state = os.stat(f"/proc/self/fd/{name}")
                flags = Path(f"/proc/self/fdinfo/{name}").read_text()
                octal = re.search(r"^flags:\s*(\d+)$", flags, re.MULTILINE)
                assert octal is not None
                if stat.S_ISBLK(state.st_mode) and int(octal[1], 8) & os.O_ACCMODE:
                    found.setdefault(state.st_rdev, []).append(name)
        return found

    string = mount.FsContext.string
    monkeypatch.setattr(mount.FsContext, "string", source)
    monkeypatch.setattr(mount.FsContext, "create", creating)
    if kind == "known":
        told(disk)
    path = ext4(tmp_path / "fs.img", "inside")
    if kind == "file":
        root_of(path).close()
    elif kind == "device":
        with attached(path) as device:
            root_of(device).close()
    else:
        root_of(disk).close()
    assert len(sources) == 1
    until(lambda: not loops_on(disk) and not loops_on(str(path)), "no loop device is left")


def test_what_was_looked_at_is_what_is_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ext4(tmp_path / "1.img", "first"), ext4(tmp_path / "2.img", "second")
    link = tmp_path / "link"
    chosen: Callable[..., Part] = image._chosen

    def swapping(*given: object) -> Part:
        part = chosen(*given)
        link.unlink()
        link.symlink_to(other)
        return part

    monkeypatch.setattr(image, "_chosen", swapping)
    with attached(first) as one, attached(second) as other:
        link.symlink_to(one)
        with root_of(link) as root:
            assert listed(root) == {"first"}


def test_a_device_that_cannot_be_written_to_wants_ro(tmp_path: Path) -> None:
    path = ext4(tmp_path / "fs.img", "inside")
    with attached(path, "--read-only") as device:
        with pytest.raises(ImageError, match=r"read-only.*: say ro in lxc\.rootfs\.options"):
            root_of(device)
        with root_of(device, read_only=True) as root:
            assert listed(root) == {"inside"}


@pytest.mark.parametrize("partition", [0, 1])
def test_a_directory_has_no_partitions(tmp_path: Path, partition: int) -> None:
    def wanted(number: int | None) -> MountImage:
        directory = TakeDirectory(origin="test:1", step="rootfs", path=str(tmp_path))
        return MountImage(
            origin="test:1",
            step="rootfs",
            path=str(tmp_path),
            container="c",
            partition=number,
            directory=directory,
        )

    Fd(image.mount_root(wanted(None))).close()
    with pytest.raises(ImageError, match="is a directory, not a disk image"):
        image.mount_root(wanted(partition))


@pytest.mark.parametrize("known", [False, True])
def test_an_mbr_counts_in_the_sectors_of_its_device(
    tmp_path: Path,
    known: bool,  # noqa: FBT001
) -> None:
    with attached(parted(tmp_path, 4096), "--sector-size", "4096") as disk:
        forget(disk)
        number = told(disk).number if known else 0
        with root_of(disk) as root:
            assert listed(root) == {"inside"}
            assert not known or os.fstat(root.fileno()).st_dev == number
        until(lambda: not loops_on(disk), "the loop device is gone")


@pytest.mark.parametrize("kind", JOURNALS)
def test_a_journal_that_may_not_be_written_back_is_said(kind: str, tmp_path: Path) -> None:
    path = unclean(kind, tmp_path)
    _says_of_the_journal(path, kind, path)
    until(lambda: not loops_on(str(path)), "the loop device is gone")


@pytest.mark.parametrize("kind", JOURNALS)
def test_ro_writes_nothing_to_a_device_either(kind: str, tmp_path: Path) -> None:
    """The kernel would write back its journal: the device lets it."""
    path = unclean(kind, tmp_path)
    with attached(path, "--read-only") as device, pytest.raises(ImageError, match=UNCLEAN):
        root_of(device, read_only=True)
    with attached(path) as device:
        _says_of_the_journal(device, kind, path)
        until(lambda: not loops_on(device), "the loop device is gone")
        with root_of(device, read_only=True) as one, root_of(device, read_only=True) as two:
            assert os.fstat(one.fileno()).st_dev == os.fstat(two.fileno()).st_dev


def _says_of_the_journal(place: Path | str, kind: str, file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(ImageError, match=UNCLEAN):
        root_of(place, read_only=True)
    root_of(place, read_only=True, options=JOURNALS[kind][1]).close()
    assert file.read_bytes() == before
    root_of(place).close()
    until(lambda: not loops_on(str(place)), "the loop device is gone")
    with root_of(place, read_only=True) as root:
        assert listed(root) == {"file"}


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_device_whose_file_system_is_in_use_is_not_called_unclean(
    kind: str, tmp_path: Path
) -> None:
    with attached(unclean(kind, tmp_path)) as device:
        place = tmp_path / "place"
        place.mkdir()
        options = ",".join(("ro", *(key for key, _ in JOURNALS[kind][1])))

        def same() -> bool:
            run("mount", "-o", options, device, place)
            with root_of(device, read_only=True) as root:
                return os.path.samestat(os.fstat(root.fileno()), place.stat())

        assert forked.in_child(same, process.CLONE_NEWNS)


def test_a_btrfs_that_cannot_be_read_has_no_journal(tmp_path: Path) -> None:
    """The kernel says EIO of both."""
    path, size = tmp_path / "fs.img", JOURNALS["btrfs"][0]
    with open(path, "xb") as file:
        file.truncate(size)
    run("mkfs.btrfs", "-q", path)
    # Nothing is behind its superblock any more.
    os.truncate(path, HEAD_BYTES)
    os.truncate(path, size)
    with pytest.raises(OSError, match="btrfs: cannot be mounted") as caught:
        root_of(path, read_only=True)
    assert caught.value.errno == errno.EIO
    until(lambda: not loops_on(str(path)), "the loop device is gone")
