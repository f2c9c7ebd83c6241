"""Disk images for tests: file systems with a root in them, in a file alone or as partitions of a disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.system.host import Host
from tests.system.machine import until

MIB = 1 << 20
# As small as their makers allow.
_SIZES_MIB = {
    "ext2": 24,
    "ext3": 24,
    "ext4": 24,
    "xfs": 300,
    "btrfs": 128,
    "squashfs": 8,
    "erofs": 8,
    "swap": 4,
    "vfat": 4,
    "": 4,
}
_LINUX = {"dos": "83", "gpt": "L"}
WITH_ROOT = ("ext4", "ext3", "ext2", "xfs", "btrfs", "squashfs", "erofs")


@dataclass(frozen=True)
class Filler:
    """What goes into a partition: a file system of this kind, or nothing; and its type for sfdisk."""

    kind: str
    type: str = ""

    @property
    def size_bytes(self) -> int:
        """Of the partition."""
        return _SIZES_MIB[self.kind] * MIB


def run(*argv: str | Path, text: str | None = None) -> str:
    """Run a tool of the host's."""
    done = subprocess.run(
        argv, input=text, stdin=None if text is not None else subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def filesystem(host: Host, kind: str, root: Path, path: Path) -> Path:
    """A file with a file system of this kind over the whole of it, and a copy of `root` in that where it can be."""
    if kind not in ("squashfs", "erofs"):
        with open(path, "xb") as file:
            file.truncate(_SIZES_MIB[kind] * MIB)
    match kind:
        case "ext2" | "ext3" | "ext4":
            run(f"mkfs.{kind}", "-q", "-F", "-d", root, path)
        case "xfs":
            run("mkfs.xfs", "-q", path)
            place = host.root / "filling"
            place.mkdir()
            host.machine.run("mount", "-o", "loop,nouuid", str(path), str(place))
            host.machine.run("cp", "-a", f"{root}/.", str(place))
            host.machine.run("umount", str(place))
            place.rmdir()
        case "btrfs":
            run("mkfs.btrfs", "-q", "--rootdir", root, path)
        case "squashfs":
            run("mksquashfs", root, path, "-quiet", "-no-progress")
        case "erofs":
            run("mkfs.erofs", "--quiet", path, root)
        case "swap":
            run("mkswap", path)
        case "vfat":
            with open(path, "r+b") as file:
                file.seek(54)
                file.write(b"FAT16   ")
        case _:
            pass
    return path


def disk(host: Host, path: Path, label: str, parts: Sequence[Filler], root: Path) -> Path:
    """A disk with a partition table (`dos` or `gpt`) and these partitions, one behind the other."""
    script, start = [f"label: {label}", "unit: sectors"], MIB
    places: list[int] = []
    for number, part in enumerate(parts, 1):
        # The fourth of an MBR with more than four holds the rest: each with a table before it.
        if label == "dos" and len(parts) > 4 and number >= 4:
            if number == 4:
                script.append(f"start={start // 512}, type=E")
            start += MIB
        script.append(
            f"start={start // 512}, size={part.size_bytes // 512}, type={part.type or _LINUX[label]}"
        )
        places.append(start)
        start += part.size_bytes
    with open(path, "xb") as file:
        file.truncate(start + MIB)
    run("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", path, text="\n".join(script) + "\n")
    for place, part in zip(places, parts, strict=True):
        if part.kind:
            filled = filesystem(host, part.kind, root, path.with_suffix(".part"))
            copy_to(filled, path, place)
            filled.unlink()
    return path


def copy_to(source: Path, target: Path, place: int) -> None:
    """Write one file into another, holes as holes."""
    options = ("conv=sparse,notrunc", "bs=64k", f"seek={place}", "oflag=seek_bytes", "status=none")
    run("dd", f"if={source}", f"of={target}", *options)


def attached(host: Host) -> Iterable[str]:
    """Loop devices with something of this host's behind them."""
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            if str(host.root) in backing.read_text():
                yield backing.parts[3]


def none_attached(host: Host) -> None:
    """Wait until there is no such device: the kernel takes them away when their last user has gone."""
    until(lambda: not list(attached(host)), "no loop device is left")


def not_busy(host: Host, place: Path) -> None:
    """Take a mount of the host away, as an administrator does: without a word, and at once."""
    done = host.machine.run("umount", str(place), check=False)
    assert done.returncode == 0, done.stderr
    assert not os.path.ismount(place)
