"""The root file system's place: LXC's `[TYPE:]PATH`, in all the spellings that there were.

Not in it: what is at that place. LXC looks there to tell a directory from a block device or a
btrfs subvolume; a plain path is a `dir` here, and whoever mounts it finds out.
"""

from __future__ import annotations

from lxcd.config.characters import quoted

KINDS = ("dir", "overlay", "btrfs", "zfs", "lvm", "loop", "rbd", "nbd")
IN_FORCE = ("dir", "overlay")
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
