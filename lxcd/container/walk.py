"""The state of a child on its walk through the steps, and the safe ways into its tree."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import stat
from typing import TYPE_CHECKING

from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import libc, mount, process, vfork

if TYPE_CHECKING:
    import socket

    from lxcd.container.channel import ChildEnd

# security invariant I1: below a tree that is not ours no symlink and no magic link is followed,
# ever.
_RESOLVE = mount.RESOLVE_IN_ROOT | mount.RESOLVE_NO_SYMLINKS | mount.RESOLVE_NO_MAGICLINKS

# Where the keeper's minimal tree has room for the container's root, and for mounts that nobody
# shall see.
ROOTFS_PLACE = "/rootfs"
DEVPTS_PLACE = "/devpts"


class Walk:
    """What one step leaves for the next. Runs in the child, single-threaded, and ends with it."""

    def __init__(self, channel: ChildEnd, keeper: socket.socket, fds: list[int]) -> None:
        self.channel = channel
        self.keeper = keeper
        self.fds = fds
        self.root = -1  # root of the container's tree
        self.dev = -1  # the tmpfs that was made for its /dev, if one was
        self.first_half = -1  # waits until this is closed; see `vfork`
        self.devpts = -1  # the devpts that its terminals come from
        self.node = -1  # a mount of a device node that hangs nowhere yet
        self.joined = False  # a running container was joined: this is an exec
        self.stdio: list[int] = []  # what becomes 0, 1, 2
        self.controlling = False  # stdio is a terminal, and to be the controlling one
        self.capabilities: frozenset[int] | None = None  # all it may ever have; None: not limited
        self.environment: dict[str, str] = {}  # what steps found out for init's environment

    @staticmethod
    def null() -> int:
        """The keeper's own /dev/null, whatever the container's is by now; the caller owns it."""
        return os.dup(0)

    def target(self, path: str, create: str = "") -> int:
        """Open a place to mount on below the root; the caller owns the descriptor (O_PATH).

        `create` is `dir` or `file`: missing components are made, the last one as that. Raises
        OSError: ELOOP for a symlink on the way.
        """
        # Without O_NOFOLLOW: with it a link at the end would be opened itself.
        flags = os.O_PATH
        try:
            return mount.openat2(self.root, path or ".", flags, _RESOLVE)
        except FileNotFoundError:
            if not create:
                raise
        return self._made(path, create)

    def _made(self, path: str, create: str) -> int:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.root)
        try:
            for number, part in enumerate(parts):
                is_file = create == "file" and number == len(parts) - 1
                self._make(here, part, path, is_file=is_file)
                below = mount.openat2(here, part, os.O_PATH, _RESOLVE)
                os.close(here)
                here = below
        except OSError:
            os.close(here)
            raise
        return here

    @staticmethod
    def _make(here: int, part: str, path: str, *, is_file: bool) -> None:
        # mknodat makes a regular file without ever opening what another may have put there
        # (CVE-2024-45310).
        try:
            if is_file:
                os.mknod(part, 0o644 | stat.S_IFREG, dir_fd=here)
            else:
                os.mkdir(part, 0o755, dir_fd=here)
        except FileExistsError:
            return
        except OSError as error:
            name = "mknodat" if is_file else "mkdirat"
            raise libc.oserror(error.errno or errno.EIO, name, path) from None

    def exists(self, path: str) -> bool:
        """Whether there is something at `path` that can be mounted on."""
        try:
            os.close(self.target(path))
        except OSError:
            return False
        return True

    def fork(self, flags: int, cgroup: int = -1, *, own_memory: bool = False) -> None:
        """Go on as another process, made with these flags of clone3 and in this cgroup of version
        2; this one ends. The other is the keeper's child too, which gets its pidfd.

        Without `own_memory` it has this one's memory, which costs a tenth of a copy: see `vfork`.
        """
        if not own_memory:
            self.first_half = vfork.go_on(flags | process.CLONE_PARENT, cgroup)
        if self.first_half >= 0:
            with kernel_fd.Fd(os.pidfd_open(os.getpid())) as own:
                self._tell_forked(own.fileno())
            return
        pid, pidfd = process.clone3(flags | process.CLONE_PARENT, cgroup)
        if pid != 0:
            try:
                self._tell_forked(pidfd)
            except OSError:
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                raise
            os._exit(0)

    def _tell_forked(self, pidfd: int) -> None:
        # The keeper sees the pid behind it; in a pid namespace of our own that is another.
        try:
            kernel_fd.send(self.keeper, b'["FORKED", null]', [pidfd])
        except OSError as error:
            raise libc.oserror(error.errno or errno.EPIPE, "sendmsg") from None

    def hand_streams(
        self, streams: dict[str, int], history_bytes: int = 0, *, waits: bool = True
    ) -> None:
        """Give masters of terminals and read ends of pipes to the keeper, by name, and close them
        here.
        """
        names = list(streams)
        for first in range(0, len(names), kernel_fd.MAX_FDS):
            batch = names[first : first + kernel_fd.MAX_FDS]
            told = {"names": batch, "history_bytes": history_bytes, "waits": waits}
            data = json.dumps(["STREAMS", told]).encode()
            try:
                kernel_fd.send(self.keeper, data, [streams[name] for name in batch])
            except OSError as error:
                raise libc.oserror(error.errno or errno.EPIPE, "sendmsg") from None
        kernel_fd.close_all(list(streams.values()))
