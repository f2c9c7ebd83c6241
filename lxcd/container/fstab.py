"""Options of a mount entry, as fstab(5) and LXC write them, in the kernel's terms. Pure; used by
the plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from lxcd.kernel import mount

_SET = {
    "ro": mount.MOUNT_ATTR_RDONLY,
    "nosuid": mount.MOUNT_ATTR_NOSUID,
    "nodev": mount.MOUNT_ATTR_NODEV,
    "noexec": mount.MOUNT_ATTR_NOEXEC,
    "noatime": mount.MOUNT_ATTR_NOATIME,
    "strictatime": mount.MOUNT_ATTR_STRICTATIME,
    "nodiratime": mount.MOUNT_ATTR_NODIRATIME,
    "nosymfollow": mount.MOUNT_ATTR_NOSYMFOLLOW,
}
_CLEAR = {
    "rw": mount.MOUNT_ATTR_RDONLY,
    "suid": mount.MOUNT_ATTR_NOSUID,
    "dev": mount.MOUNT_ATTR_NODEV,
    "exec": mount.MOUNT_ATTR_NOEXEC,
    "atime": mount.MOUNT_ATTR__ATIME,
    "relatime": mount.MOUNT_ATTR__ATIME,
    "diratime": mount.MOUNT_ATTR_NODIRATIME,
    "symfollow": mount.MOUNT_ATTR_NOSYMFOLLOW,
}
_KINDS = {
    "private": mount.MS_PRIVATE,
    "shared": mount.MS_SHARED,
    "slave": mount.MS_SLAVE,
    "unbindable": mount.MS_UNBINDABLE,
}
_PROPAGATION = {**_KINDS, **{f"r{word}": kind for word, kind in _KINDS.items()}}
_FLAGS = {"bind", "rbind", "optional", "relative", "move"}
# mount(8) reads these; the kernel does not know them.
_FOR_MOUNT = {
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "_netdev",
    "nofail",
    "remount",
}


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Options sorted by who understands them."""

    bind: bool = False
    recursive: bool = False
    set_: int = 0
    clear: int = 0
    propagation: int = 0
    propagation_recursive: bool = False
    create: str = ""
    optional: bool = False
    relative: bool = False
    move: bool = False
    idmap: str = ""
    filesystem: tuple[tuple[str, str | None], ...] = ()  # for the file system itself


def parse_options(words: tuple[str, ...]) -> MountOptions:
    """Sort the words of an options field. ValueError for `create=` with something else than dir or
    file.
    """
    flags: set[str] = set()
    set_ = clear = propagation = 0
    values: dict[str, str] = {}
    filesystem: list[tuple[str, str | None]] = []
    for word in words:
        key, sign, value = word.partition("=")
        if word in _SET:
            set_, clear = set_ | _SET[word], clear & ~_SET[word]
        elif word in _CLEAR:
            set_, clear = set_ & ~_CLEAR[word], clear | _CLEAR[word]
        elif word in _PROPAGATION:
            # The last one counts, whole.
            propagation = _PROPAGATION[word]
            flags.discard("r")
            flags.update("r" if word[1:] in _KINDS else "")
        elif word in _FLAGS:
            flags.add(word)
        elif sign and key in ("create", "idmap"):
            values[key] = value
        elif word and word not in _FOR_MOUNT:
            filesystem.append((key, value if sign else None))
    if values.get("create", "dir") not in ("dir", "file"):
        raise ValueError(f"create={values['create']}: must be create=dir or create=file")
    if set_ & mount.MOUNT_ATTR__ATIME:
        # mount_setattr(2) wants the old access time mode cleared as a whole.
        clear |= mount.MOUNT_ATTR__ATIME
    return MountOptions(
        bind=bool(flags & {"bind", "rbind"}),
        recursive="rbind" in flags,
        set_=set_,
        clear=clear,
        propagation=propagation,
        propagation_recursive="r" in flags,
        create=values.get("create", ""),
        optional="optional" in flags,
        relative="relative" in flags,
        move="move" in flags,
        idmap=values.get("idmap", ""),
        filesystem=tuple(filesystem),
    )
