"""The root file system's place: LXC's `[TYPE:]PATH`, in all the spellings that there were.

Not in it: what is at that place. LXC looks there to tell a directory from a block device, an image
or a btrfs subvolume; a plain path is a `dir` here, and whoever mounts it finds out.

Of the options one is lxcd's own: `partition=N`, the part of an image that is the root. LXC has no
word for that. It hands options that it does not know to the file system, and not before it mounts:
a configuration with it stays one that LXC can read.
"""

from __future__ import annotations

from lxcd.config.characters import quoted

KINDS = ("dir", "overlay", "btrfs", "zfs", "lvm", "loop", "rbd", "nbd")
IN_FORCE = ("dir", "overlay", "lvm", "loop")
# In these, partitions can be.
_PARTED = ("lvm", "loop")
_PARTITION = "partition="
_MOST_PARTITIONS = 1024
# overlayfs was the name until LXC 3; aufs never came into the kernel, and means the same to the
# one who wrote it.
_FORMER = {"overlayfs": "overlay", "aufs": "overlay"}
_OVERLAY_LEAST = 2


def kind_of(word: str) -> str:
    """Return the present name of a storage type.

    Raises:
        ValueError: if there is no such type.
    """
    kind = _FORMER.get(word, word)
    if kind not in KINDS:
        raise ValueError(f"{quoted(word)} is not a storage type: {' '.join(KINDS)}")
    return kind


def split_path(text: str, backend: str = "") -> tuple[str, str]:
    """Split `[TYPE:]PATH` into the type and what stands behind it.

    Args:
        text: the value of `lxc.rootfs.path`.
        backend: the value of `lxc.rootfs.backend` of LXC 1.1 to 2.0, which counts where the path
            has no type.

    Raises:
        ValueError: if there is no such type, or an overlay lacks a part.
    """
    word, colon, rest = text.partition(":")
    if colon and "/" not in word:
        kind, path = kind_of(word), rest
    else:
        kind, path = kind_of(backend or "dir"), text
    if not path:
        raise ValueError(f"{quoted(text)} has no path")
    if kind == "overlay":
        parts = path.split(":")
        if len(parts) < _OVERLAY_LEAST or not all(part.startswith("/") for part in parts):
            raise ValueError(f"{quoted(text)} is not overlay:/LOWER[:/LOWER…]:/UPPER")
    return kind, path


def is_plain(text: str, backend: str = "") -> bool:
    """Whether nothing says what is there: what is found counts."""
    return not backend and not (":" in text and "/" not in text.partition(":")[0])


def may_be_parted(kind: str, *, plain: bool) -> bool:
    """Whether `partition=` can mean something."""
    return plain or kind in _PARTED


def split_partition(options: tuple[str, ...]) -> tuple[int | None, tuple[str, ...]]:
    """Take `partition=N` out of the options of a root file system. None: there was none.

    Raises:
        ValueError: if it is no number, or there are two.
    """
    found = [one.removeprefix(_PARTITION) for one in options if one.startswith(_PARTITION)]
    if not found:
        return None, options
    if len(set(found)) > 1:
        raise ValueError(f"partition={found[0]} and partition={found[1]}: only one can be the root")
    text = found[0]
    short = text.isascii() and text.isdecimal() and len(text) <= len(str(_MOST_PARTITIONS))
    if not short or int(text) > _MOST_PARTITIONS:
        raise ValueError(
            f"partition={text}: must be a partition's number, or 0 for the whole image"
        )
    return int(text), tuple(one for one in options if not one.startswith(_PARTITION))
