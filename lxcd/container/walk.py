"""A child's walk through the steps, as it is being written: what one step leaves for the next, and
the safe ways into the container's tree.

Steps are not carried out where they are compiled: `Walk` writes the system calls (`calls.py`) that
the child makes later, in its own process, with nothing of lxcd or of the keeper in it
(`kernel/native/walker.c`). A `Register` stands for a descriptor that there will be then.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.container.calls import ANY_ERROR, Address, Calls, Data, Label, Register
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import mount

if TYPE_CHECKING:
    from collections.abc import Generator

    from lxcd.container.calls import Way

# security invariant I1: below a tree that is not ours no symlink and no magic link is followed,
# ever.
RESOLVE = mount.RESOLVE_IN_ROOT | mount.RESOLVE_NO_SYMLINKS | mount.RESOLVE_NO_MAGICLINKS

# Where the keeper's minimal tree has room for the container's root, and for mounts that nobody
# shall see.
ROOTFS_PLACE = "/rootfs"
DEVPTS_PLACE = "/devpts"

# The child's own descriptors: /dev/null, lxcd, the keeper, the program of PID 1 (walker.c).
NULL, CHANNEL, KEEPER, PID1, FIRST_FREE = 0, 3, 4, 5, 6
_HOW_BYTES = 24  # struct open_how
_ATTRIBUTES_BYTES = 32  # struct mount_attr
_SIGN = -1 << 63
_STATX_BASIC, _STATX_BYTES = 0x7FF, 256


@dataclass(frozen=True, slots=True)
class Found:
    """Where statx(2) leaves what: struct statx of linux/stat.h."""

    mode: Data  # u16
    size: Data  # u64
    device: Data  # major and minor number, u32 each


class Walk(Calls):
    """Of one child."""

    def __init__(self, descriptors: int) -> None:
        super().__init__(descriptors)
        self.root = Register(0)  # root of the container's tree
        self.dev: Register | None = None  # the tmpfs that is made for its /dev, if one is
        self.devpts = Register(0)  # the devpts that its terminals come from
        self.node = Register(0)  # a mount of a device node that hangs nowhere yet
        self.joined = False  # a running container is joined: this is an exec
        self.stdio: list[Register | int] = []  # what becomes 0, 1, 2
        self.controlling = False  # stdio is a terminal, and to be the controlling one
        self.capabilities: frozenset[int] | None = None  # all it may ever have; None: not limited
        self.environment: dict[str, str] = {}  # what steps add to init's environment

    def wait_at(self, barrier: str) -> None:
        """Stand there until lxcd lets it go."""
        self.call("wait", path=barrier)

    def fork(self, flags: int, cgroup: int = -1) -> None:
        """Go on as another process, made with these flags of clone3 and in this cgroup of version
        2, a descriptor of lxcd's; this one ends. The other is the keeper's child too, which gets
        its pidfd.
        """
        self.call("fork", flags, self.sent(cgroup) if cgroup >= 0 else -1, named="clone3")

    def close(self, *numbers: Register | int) -> None:
        """Close descriptors."""
        for number in numbers:
            self.call("close", number)

    # ---- the tree

    def openat2(
        self,
        dirfd: Register,
        path: str,
        flags: int,
        resolve: int,
        *,
        shown: str = "",
        into: Register | None = None,
        unless: tuple[Way, ...] = (),
        then: Label | None = None,
    ) -> Register:
        """openat2(2): the one way into a tree that is not ours."""
        how = self.constant(struct.pack("=3Q", flags | os.O_CLOEXEC, 0, resolve))
        return self.call(
            "openat2",
            *(dirfd, path, how, _HOW_BYTES),
            path=shown or path,
            into=into,
            unless=unless,
            then=then,
        )

    def target(self, path: str, create: str = "") -> Register:
        """Open a place to mount on below the root (O_PATH).

        `create` is `dir` or `file`: missing components are made, the last one as that. ELOOP for a
        symlink on the way.
        """
        # Without O_NOFOLLOW: with it a link at the end would be opened itself.
        path = path or "."
        if not create:
            return self.openat2(self.root, path, os.O_PATH, RESOLVE)
        made, done = Label(), Label()
        found = self.openat2(
            self.root, path, os.O_PATH, RESOLVE, unless=((errno.ENOENT, made),), then=done
        )
        self.put(made)
        parts = [part for part in path.split("/") if part not in ("", ".")]
        here = self.openat2(self.root, ".", os.O_PATH | os.O_DIRECTORY, RESOLVE)
        for number, part in enumerate(parts):
            there_is = ((errno.EEXIST, None),)
            if create == "file" and number == len(parts) - 1:
                # mknodat makes a regular file without ever opening what another may have put there
                # (CVE-2024-45310).
                mode = 0o644 | stat.S_IFREG
                self.call("mknodat", here, part, mode, 0, path=path, unless=there_is)
            else:
                self.call("mkdirat", here, part, 0o755, path=path, unless=there_is)
            below = self.openat2(here, part, os.O_PATH, RESOLVE)
            self.close(here)
            here = below
        self.call("set", here, into=found)
        self.put(done)
        return found

    def unless_there(self, register: Register, otherwise: Label) -> None:
        """Go on there if nothing came of what the register is for."""
        self.call(
            "test", Address(register), 8, _SIGN, 0, errno.ENOENT, unless=((ANY_ERROR, otherwise),)
        )

    def if_exists(self, path: str, otherwise: Label) -> None:
        """Go on there unless `path` can be mounted on."""
        self.close(
            self.openat2(self.root, path, os.O_PATH, RESOLVE, unless=((ANY_ERROR, otherwise),))
        )

    def attach(self, mounted: Register, target: str, create: str = "") -> None:
        """Hang the mount over `target`."""
        place = self.target(target, create)
        self.move_mount(mounted, place)
        self.close(place)

    def statx(self, number: Register, path: str, name: str = "") -> Found:
        """statx(2): of what the descriptor is, or of `name` in it; never of what a link leads
        to.
        """
        room = self.block(b"\0" * _STATX_BYTES)
        flags = mount.AT_SYMLINK_NOFOLLOW | (0 if name else mount.AT_EMPTY_PATH)
        self.call("statx", number, name, flags, _STATX_BASIC, room, path=path)
        return Found(Data(room + 28), Data(room + 40), Data(room + 128))

    # ---- mounts, by descriptors: see kernel/mount.py

    def fsmount(
        self,
        fstype: str,
        options: tuple[tuple[str, str | None], ...] = (),
        attributes: int = 0,
        unless: tuple[Way, ...] = (),
    ) -> Register:
        """A new mount of `fstype` that hangs nowhere. An option of None is a flag. `unless` is for
        the making of the file system, which says itself what is wrong.
        """
        context = self.call("fsopen", fstype, mount.FSOPEN_CLOEXEC, path=fstype)
        for key, value in options:
            what = key if value is None else f"{key}={value}"
            act = mount.FSCONFIG_SET_FLAG if value is None else mount.FSCONFIG_SET_STRING
            self.call(
                "fsconfig",
                *(context, act, key, 0 if value is None else value, 0),
                path=f"{fstype}: {what}",
                head=fstype,
                unless=unless,
            )
        self.call(
            "fsconfig",
            *(context, mount.FSCONFIG_CMD_CREATE, 0, 0, 0),
            path=f"{fstype}: cannot be mounted",
            head=fstype,
            unless=unless,
        )
        made = self.call("fsmount", context, mount.FSMOUNT_CLOEXEC, attributes, path=fstype)
        self.close(context)
        return made

    def open_tree(
        self,
        dirfd: Register | int,
        path: str,
        flags: int = mount.OPEN_TREE_CLONE,
        unless: tuple[Way, ...] = (),
    ) -> Register:
        """open_tree(2): by itself a bind mount that hangs nowhere."""
        flags |= mount.OPEN_TREE_CLOEXEC
        return self.call("open_tree", dirfd, path, flags, path=path, unless=unless)

    def move_mount(self, mounted: Register, to: Register | int, path: str = "") -> None:
        """move_mount(2): hang it over `path`, or over `to` itself if that is empty."""
        flags = mount.MOVE_MOUNT_F_EMPTY_PATH | (0 if path else mount.MOVE_MOUNT_T_EMPTY_PATH)
        self.call("move_mount", mounted, "", to, path, flags, path=path)

    def mount_setattr(
        self,
        mounted: Register,
        *,
        set_: int = 0,
        clear: int = 0,
        propagation: int = 0,
        recursive: bool = False,
    ) -> None:
        """mount_setattr(2)."""
        wanted = self.constant(struct.pack("=4Q", set_, clear, propagation, 0))
        flags = mount.AT_EMPTY_PATH | (mount.AT_RECURSIVE if recursive else 0)
        self.call("mount_setattr", mounted, "", flags, wanted, _ATTRIBUTES_BYTES)

    # ---- streams

    def null(self) -> Register:
        """The keeper's own /dev/null, whatever the container's is by now."""
        return self.call("dup", NULL)

    def hand_streams(
        self, streams: dict[str, Register], history_bytes: int = 0, *, waits: bool = True
    ) -> None:
        """Give masters of terminals and read ends of pipes to the keeper, by name, and close them
        here.
        """
        names = list(streams)
        for first in range(0, len(names), kernel_fd.MAX_FDS):
            batch = names[first : first + kernel_fd.MAX_FDS]
            told = {"names": batch, "history_bytes": history_bytes, "waits": waits}
            data = json.dumps(["STREAMS", told]).encode()
            numbers = struct.pack(f"={len(batch)}I", *(streams[name] for name in batch))
            places = self.block(numbers)
            self.call("hand", data, len(data), places, len(batch), named="sendmsg")
        self.close(*streams.values())

    # ---- what it is

    def unshare(self, flags: int) -> None:
        """unshare(2)."""
        self.call("unshare", flags)

    def set_user(self, uid: int, gid: int, groups: tuple[int, ...]) -> None:
        """Become this user for good: groups first, then gid, then uid, while the right to change
        them lasts.
        """
        self.call("setgroups", len(groups), self.block(struct.pack(f"={len(groups)}I", *groups)))
        self.call("setresgid", gid, gid, gid)
        self.call("setresuid", uid, uid, uid)

    @contextlib.contextmanager
    def optional(self, optional: bool) -> Generator[None]:  # noqa: FBT001
        """What fails in it is no failure (LXC's `optional` mount entries), if it is that."""
        if not optional:
            yield
            return
        with self.trying():
            yield
