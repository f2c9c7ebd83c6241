"""Images that cannot be a root file system: each is refused with what is wrong, what there is, and the config's line."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.system import images, ledger, roots
from tests.system.boxes import Refused, box, defined
from tests.system.calls import IDLE
from tests.system.host import Host
from tests.system.images import MIB, Filler, disk
from tests.system.machine import until
from tests.system.test_rootfs_loop import config

LINUX, SWAP, FAT = Filler("ext4"), Filler("swap"), Filler("vfat")


def refuses(host: Host, text: str, *words: str, name: str = "refused") -> Refused:
    """A start fails because of line 1, for the reason that these words are in."""
    with defined(host, text, name) as made:
        with pytest.raises(Refused) as caught:
            made.start(*IDLE)
        origin = f"{made.directory}/config:1"
    refused = caught.value
    assert (refused.reason, refused.metadata["step"]) == ("START_FAILED", "rootfs")
    assert refused.metadata["origin"] == origin
    assert origin in refused.text
    for word in words:
        assert word in refused.text, refused.text
    return refused


def damage(path: Path, place: int, data: bytes = b"\xff\xff\xff\xff") -> None:
    """Write over bytes of an image; a negative place counts from its end."""
    with open(path, "r+b") as file:
        file.seek(place, os.SEEK_END if place < 0 else os.SEEK_SET)
        file.write(data)


def _blank(path: Path) -> None:
    with open(path, "xb") as file:
        file.truncate(MIB)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (_blank, "holds neither a file system nor a partition table"),
        (lambda path: path.mkdir(), "is a directory, not a disk image"),
        (os.mkfifo, "is a fifo, not a disk image"),
        (lambda path: os.mknod(path, 0o020600, os.makedev(1, 3)), "is a character device"),
        (lambda path: path.touch(), "holds neither a file system"),
        (lambda _: None, "No such file or directory"),
    ],
)
def test_a_file_that_is_no_image(host: Host, make: Callable[[Path], None], word: str) -> None:
    path = host.root / "vm.img"
    make(path)
    refuses(host, config(path), word)
    # Without a partition's number a plain path may be a directory.
    options = "partition=1" if path.is_dir() else ""
    refuses(host, config(path, options, kind=""), word)


@pytest.mark.parametrize(
    ("head", "place", "word"),
    [
        (b"LUKS\xba\xbe", 0, "LUKS encryption"),
        (b"LABELONE", 512, "an LVM volume"),
        (b"SWAPSPACE2", 4086, "swap"),
        (b"QFI\xfb", 0, "a qcow2 image"),
        (b"FAT16   ", 54, "vfat"),
        (b"\x10\x20\xf5\xf2", 1024, "f2fs"),
    ],
)
def test_what_is_in_it_is_named(host: Host, head: bytes, place: int, word: str) -> None:
    path = host.root / "vm.img"
    _blank(path)
    damage(path, place, head)
    refuses(host, config(path), f"the image holds {word}, which is no root file system: ext4")


def test_a_partition_number_that_does_not_exist(host: Host, busybox_root: Path) -> None:
    path = disk(host, host.root / "vm.img", "gpt", (SWAP, LINUX), busybox_root)
    there = "there are: 1 (4 MiB, swap), 2 (24 MiB, ext4)"
    refuses(host, config(path, "partition=3"), "has no partition 3", there)
    refuses(host, config(path, "partition=1"), "partition 1 holds swap")
    refuses(host, config(path, "partition=0"), "the image holds no file system that lxcd knows")
    whole = images.filesystem(host, "ext4", busybox_root, host.root / "fs.img")
    refuses(host, config(whole, "partition=1"), "has no partition 1: there is no partition table")


@pytest.mark.parametrize("word", ["x", "-1", "", "99999999", "1.5"])
def test_a_partition_that_is_no_number(host: Host, word: str) -> None:
    text = config("/vm.img", f"ro,partition={word}")
    file = host.root / "c.conf"
    file.write_text(text)
    done = host.ctl("config", "check", "--file", str(file), check=False)
    assert f"{file}:2" in done.stdout + done.stderr
    assert f"partition={word}" in done.stdout + done.stderr
    with pytest.raises(Refused) as caught, defined(host, text):
        pass
    assert (caught.value.reason, caught.value.metadata["origin"]) == ("INVALID_CONFIG", "test:2")


@pytest.mark.parametrize(
    "parts", [(LINUX, LINUX), (LINUX, Filler("")), (FAT, SWAP), (LINUX, SWAP, LINUX)]
)
def test_doubt_about_the_root_is_not_decided(
    host: Host, busybox_root: Path, parts: tuple[Filler, ...]
) -> None:
    path = disk(host, host.root / "vm.img", "dos", parts, busybox_root)
    refused = refuses(host, config(path), "there are: 1 (")
    assert "say which by partition=N" in refused.text or "no partition with a Linux" in refused.text


def test_a_file_system_and_a_table_over_one_file(host: Host, busybox_root: Path) -> None:
    # Somebody made partitions of what was one file system; its superblock is still there.
    path = disk(host, host.root / "vm.img", "dos", (LINUX, SWAP), busybox_root)
    old = images.filesystem(host, "ext4", busybox_root, host.root / "old.img")
    damage(path, 1024, old.read_bytes()[1024:2048])
    refuses(host, config(path), "holds ext4, and a partition table as well", "1 (24 MiB, ext4)")
    with box(host, config(path, "partition=1"), "box", *IDLE) as made:
        made.sh("touch /root/note")
    # The table is broken, too: number of sectors of the second.
    damage(path, 446 + 16 + 12, b"\xff\xff\xff\0")
    refuses(
        host,
        config(path),
        "has a broken partition table: partition 2 ends",
        "1 (24 MiB, ext4)",
        "say partition=0 for the ext4 over the whole",
    )


def test_a_broken_mbr(host: Host, busybox_root: Path) -> None:
    def broken(place: int, data: bytes, *words: str) -> None:
        path = host.root / f"{place}.img"
        disk(host, path, "dos", (SWAP, LINUX), busybox_root)
        damage(path, place, data)
        refuses(host, config(path, "partition=2"), *words)
        path.unlink()

    broken(510, b"\0\0", "has no partition 2: there is no partition table")
    # Number of sectors of the second; first sector of the second.
    broken(
        446 + 16 + 12,
        b"\xff\xff\xff\0",
        "partition 2 ends at byte",
        "behind the end",
        "there are: 1 (",
    )
    broken(446 + 16 + 8, struct.pack("<I", 2049), "partitions 1 and 2 overlap")
    broken(446 + 8, struct.pack("<I", 0), "partition 1 begins at the partition table")


def test_a_chain_of_logical_partitions_in_a_circle(host: Host, busybox_root: Path) -> None:
    parts = [*[Filler("")] * 4, LINUX]
    path = disk(host, host.root / "vm.img", "dos", parts, busybox_root)
    begin = struct.unpack("<I", path.read_bytes()[446 + 3 * 16 + 8 :][:4])[0] * 512
    damage(path, begin + 446 + 16 + 8, struct.pack("<I", 0))
    refuses(host, config(path, "partition=5"), "comes back to sector")
    damage(path, begin + 510, b"\0\0")
    refuses(host, config(path, "partition=1"), "lacks the signature 55AA")


def test_a_broken_gpt(host: Host, busybox_root: Path) -> None:
    path = disk(host, host.root / "vm.img", "gpt", (SWAP, LINUX), busybox_root)
    there = "there are: 1 (4 MiB, swap), 2 (24 MiB, ext4)"
    damage(path, 1024 + 32)  # an entry
    refuses(
        host,
        config(path, "partition=2"),
        "wrong CRC of the entries",
        "backup at the end is good",
        there,
    )
    damage(path, 512 + 24)  # the header
    refuses(host, config(path), "wrong CRC of the header", "backup at the end is good", there)
    damage(path, -512 + 24)
    refuses(host, config(path), "wrong CRC of the header; its backup too: wrong CRC of the header")
    damage(path, 512, b"gone")
    damage(path, -512, b"gone")
    refuses(host, config(path), "no GPT where the MBR says that one is", "no backup at the end")


def test_a_gpt_without_its_mbr(host: Host, busybox_root: Path) -> None:
    path = disk(host, host.root / "vm.img", "gpt", (LINUX,), busybox_root)
    damage(path, 510, b"\0\0")
    refuses(host, config(path), "there is a GPT, but the first sector lacks the signature 55AA")


def test_a_file_system_that_is_broken_inside(host: Host, busybox_root: Path) -> None:
    path = images.filesystem(host, "ext4", busybox_root, host.root / "vm.img")
    damage(path, 1024 + 0x18)  # the size of its blocks
    refused = refuses(host, config(path), "ext4")
    assert refused.metadata["syscall"] == "fsconfig"
    images.none_attached(host)


def test_options_that_the_file_system_does_not_know(host: Host, busybox_root: Path) -> None:
    path = images.filesystem(host, "ext4", busybox_root, host.root / "vm.img")
    # The kernel's own words.
    refuses(host, config(path, "nosuchoption=1"), "ext4: Unknown parameter 'nosuchoption'")


def test_a_write_protected_image_wants_ro(host: Host, busybox_root: Path) -> None:
    path = images.filesystem(host, "ext4", busybox_root, host.root / "vm.img")
    path.chmod(0o444)
    refuses(host, config(path), "is write-protected (mode 0444): say ro in lxc.rootfs.options")
    path.chmod(0o644)
    place = host.root / "protected"
    place.mkdir()
    host.machine.run("mount", "--bind", "-o", "ro", str(host.root), str(place))
    try:
        text = "cannot be written to (Read-only file system): say ro"
        refuses(host, config(place / "vm.img"), text)
        with box(host, config(place / "vm.img", "ro"), "box", *IDLE) as made:
            made.fails("touch /root/note")
        images.none_attached(host)
    finally:
        host.machine.run("umount", str(place))


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_another_container_has_it(host: Host, busybox_root: Path, kind: str) -> None:
    parts = (LINUX, Filler(kind))
    path = disk(host, host.root / "vm.img", "dos", parts, busybox_root)
    link = host.root / "link.img"
    link.hardlink_to(path)
    with box(host, config(path, "partition=2"), "first", *IDLE):
        (device,) = images.attached(host)
        whose = f"is in use: /dev/{device} of container first has it read-write"
        refuses(host, config(link, "partition=2"), whose)
        refuses(host, config(path, "partition=2,ro"), whose)
    with box(host, config(path, "partition=2,ro"), "first", *IDLE):
        refuses(host, config(path, "partition=2"), "of container first has it read-only")
    with box(host, config(path, "partition=2"), "second", *IDLE):
        pass


def test_of_many_that_want_it_at_once_one_gets_it(host: Host, busybox_root: Path) -> None:
    path = images.filesystem(host, "ext4", busybox_root, host.root / "vm.img")
    names = [f"one{number}" for number in range(5)]
    for name in names:
        host.ctl("create", name, "--config", "-", input=config(path))
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda name: host.ctl("start", name, "--", *IDLE, check=False), names))
    assert sorted(one.returncode == 0 for one in done) == [False] * 4 + [True]
    assert all("is in use: /dev/loop" in one.stderr for one in done if one.returncode)
    assert len(list(images.attached(host))) == 1
    host.ctl("delete", "--force", *names)
    images.none_attached(host)


@pytest.mark.parametrize(
    ("kind", "option"),
    [("ext4", "noload"), ("xfs", "norecovery"), ("btrfs", "rescue=nologreplay")],
)
def test_a_copy_of_a_file_system_in_use_cannot_only_be_read(
    host: Host, busybox_root: Path, kind: str, option: str
) -> None:
    path = images.filesystem(host, kind, busybox_root, host.root / "vm.img")
    copy = host.root / "copy.img"
    options = "commit=600" if kind == "btrfs" else ""
    with box(host, config(path, options), "box", *IDLE) as made:
        # btrfs has a journal only of what somebody wants on disk before the next commit.
        made.sh("touch /root/note; sync; echo more | dd of=/root/more conv=fsync 2>/dev/null")
        roots.copy(path, copy)
    text = f"was not unmounted: its journal has to be written back before it can be read; start once without ro, or say {option}"
    refuses(host, config(copy, "ro"), text)
    with box(host, config(copy, f"ro,{option}"), "box", *IDLE) as made:
        made.fails("touch /root/note")
    with box(host, config(copy), "box", *IDLE) as made:
        assert made.sh("ls /root") == "more\nnote"


def test_the_host_has_it(host: Host, busybox_root: Path) -> None:
    path = disk(host, host.root / "vm.img", "dos", (LINUX, SWAP), busybox_root)
    device = images.run("losetup", "--find", "--show", path).strip()
    try:
        refuses(host, config(path), f"is in use: {device} has it read-write")
    finally:
        images.run("losetup", "--detach", device)
    device = images.run("losetup", "--read-only", "--find", "--show", path).strip()
    try:
        with box(host, config(path, "ro"), "box", *IDLE):
            pass
    finally:
        images.run("losetup", "--detach", device)
    place = host.root / "place"
    place.mkdir()
    host.machine.run(
        "mount", "-o", f"loop,offset={MIB},sizelimit={LINUX.size_bytes}", str(path), str(place)
    )
    try:
        refuses(host, config(path), "is in use: /dev/loop", "has it read-write")
    finally:
        host.machine.run("umount", str(place))


def test_a_virtual_machine_has_it(host: Host, busybox_root: Path) -> None:
    path = disk(host, host.root / "vm.img", "dos", (LINUX, SWAP), busybox_root)
    lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0)
    with open(path, "rb") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)
        for options in ("", "ro"):
            refuses(host, config(path, options), "is in use by a virtual machine")
    with box(host, config(path), "box", *IDLE):
        pass


def test_another_program_keeps_it(host: Host, busybox_root: Path) -> None:
    path = disk(host, host.root / "vm.img", "dos", (LINUX, SWAP), busybox_root)
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, MIB, 1, 0)
    with open(path, "r+b") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)
        refuses(host, config(path), "is in use: another program has locked it")
    with box(host, config(path), "box", *IDLE):
        pass


def test_no_refused_start_leaves_a_device(host: Host, busybox_root: Path) -> None:
    before = ledger.descriptors(host.daemon or 0)
    path = disk(host, host.root / "vm.img", "dos", (LINUX, LINUX), busybox_root)
    for _ in range(5):
        refuses(host, config(path), "say which by partition=N")
        refuses(host, config(path, "partition=1,nosuchoption"), "Unknown parameter")
    images.none_attached(host)
    after = ledger.descriptors(host.daemon or 0)
    assert {kind for kind in after if "loop" in kind or "img" in kind} == set()
    # The next child is being prepared meanwhile, and its cgroups are open for a moment.
    until(
        lambda: len(ledger.descriptors(host.daemon or 0)) <= len(before) + 2,
        "no more is open than before",
    )
