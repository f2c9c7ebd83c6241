"""Which part of an image is the root. Pure.

Where nobody says which, it must be beyond doubt: LXC's meaning of `loop:FILE`, a file system over
the whole file, or the one partition that can be a Linux root. In the wrong one there may be a /boot
whose files a container's package manager would then change.
"""

from __future__ import annotations

from dataclasses import dataclass

from lxcd.storage import filesystems
from lxcd.storage.filesystems import Content
from lxcd.storage.partitions import Partition, Table, TableError

# UAPI Discoverable Partitions Specification: the type of the root, by `uname -m`.
_ROOTS = {
    "x86_64": "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
    "aarch64": "b921b045-1df0-41c3-af44-4c6f280d3fae",
}
# In these is no file system at all: BIOS boot, PReP boot, Microsoft reserved.
_NOTHING = (
    "21686148-6449-6e6f-744e-656564454649",
    "9e1a2d38-c612-4316-aa26-8b49521e5a8b",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae",
    "41",
)
_HARMLESS = (filesystems.SWAP, filesystems.FAT)
_KIB = 1024
# How long somebody may take to let go of a device; and the container's own life before, of which
# the kernel writes back what is dirty.
TEARDOWN_S = 10.0
OWN_TEARDOWN_S = 300.0
LOOK_S = 0.02
_UNITS = ("KiB", "MiB", "GiB", "TiB")


class ImageError(Exception):
    """This cannot be a root file system, for a reason that the text says."""


class ImageBusyError(ImageError):
    """Not at this moment: who has it may be letting go. Look again, for TEARDOWN_S; or for
    OWN_TEARDOWN_S, if it is the container's `own` device of the life before.
    """

    def __init__(self, text: str, *, own: bool = False) -> None:
        super().__init__(text)
        self.own = own


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an image. `size_bytes` of 0: to its end; `number` of 0: the whole."""

    number: int
    offset_bytes: int
    size_bytes: int
    content: Content


Found = tuple[tuple[Partition, Content], ...]


def choose(
    whole: Content, table: Table | None, found: Found, wanted: int | None, machine: str
) -> Part:
    """Return the part that is the root. `wanted`: a partition's number, 0 for the whole, or None if
    nobody said. `found` are the table's partitions, with what each holds.

    Raises:
        ImageError: if there is none, or doubt.
    """
    if wanted is not None and wanted > 0:
        return _numbered(table, found, wanted)
    parted = [one for one, content in found if content.name]
    if wanted == 0 or (whole.root and not parted):
        return _mountable(Part(0, 0, 0, whole), "the image")
    if whole.root:
        text = f"holds {whole}, and a partition table as well: say partition=N, or partition=0"
        raise ImageError(f"{text} for the whole; {describe(found)}")
    if not found and whole.name:
        return _mountable(Part(0, 0, 0, whole), "the image")
    if table is None:
        raise ImageError("holds neither a file system nor a partition table")
    if not found:
        raise ImageError(f"has a partition table ({table.kind}) without a partition")
    return _beyond_doubt(found, machine)


def broken(error: TableError, whole: Content, found: Found) -> str:
    """In words, that a table cannot be believed, and what there is all the same."""
    text = f"has a broken partition table: {error}"
    if found:
        text += f"; {describe(found)}"
    if whole.root:
        text += f"; say partition=0 for the {whole} over the whole"
    return text


def _numbered(table: Table | None, found: Found, wanted: int) -> Part:
    if table is None:
        raise ImageError(f"has no partition {wanted}: there is no partition table")
    for one, content in found:
        if one.number == wanted:
            return _mountable(_part(one, content), f"partition {wanted}")
    raise ImageError(f"has no partition {wanted}; {describe(found)}")


def _beyond_doubt(found: Found, machine: str) -> Part:
    roots = [pair for pair in found if pair[1].root]
    marked = [pair for pair in roots if pair[0].kind == _ROOTS.get(machine)]
    if len(marked) == 1:
        return _part(*marked[0])
    if not roots:
        raise ImageError(f"has no partition with a Linux file system; {describe(found)}")
    others = [
        one
        for one, content in found
        if not content.root and content.name not in _HARMLESS and one.kind not in _NOTHING
    ]
    if len(roots) > 1 or others:
        text = "has more than one partition that may be the root: say which by partition=N"
        raise ImageError(f"{text}; {describe(found)}")
    return _part(*roots[0])


def _part(one: Partition, content: Content) -> Part:
    return Part(one.number, one.offset_bytes, one.size_bytes, content)


def _mountable(part: Part, what: str) -> Part:
    if part.content.root:
        return part
    if not part.content.name:
        raise ImageError(f"{what} holds no file system that lxcd knows")
    can = ", ".join(filesystems.ROOTS)
    raise ImageError(f"{what} holds {part.content}, which is no root file system: {can}")


def describe(found: Found) -> str:
    """All partitions in words."""
    if not found:
        return "there are no partitions"
    words = (f"{one.number} ({size_text(one.size_bytes)}, {content})" for one, content in found)
    return f"there are: {', '.join(words)}"


def size_text(size_bytes: int) -> str:
    """In the greatest unit of which there is one."""
    amount = size_bytes / _KIB
    for unit in _UNITS[:-1]:
        if amount < _KIB:
            return f"{amount:.4g} {unit}"
        amount /= _KIB
    return f"{amount:.4g} {_UNITS[-1]}"
