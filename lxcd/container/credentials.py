"""Steps that take rights away, and the last one: becoming the program."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.container import program
from lxcd.container.spec import Step
from lxcd.kernel import identity, libc, mount, process, seccomp

if TYPE_CHECKING:
    from lxcd.container.walk import Walk

PERSONALITIES = {"linux": 0x0000, "linux32": 0x0008}


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPersonality(Step):
    """personality(2): what uname -m says."""

    persona: int
    arch: str

    def describe(self) -> str:
        """See Step."""
        return f"personality {self.arch}"

    def apply(self, walk: Walk) -> None:  # noqa: ARG002
        """See Step."""
        process.personality(self.persona)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteSysctl(Step):
    """`lxc.sysctl.NAME`, written through a proc of the child's own that the container has never
    seen (I3).
    """

    key: str
    value: str

    def describe(self) -> str:
        """See Step."""
        return f"sysctl {self.key} = {self.value}"

    def apply(self, walk: Walk) -> None:  # noqa: ARG002
        """See Step."""
        proc = mount.fsmount("proc")
        path = "sys/" + self.key.replace(".", "/")
        resolve = mount.RESOLVE_BENEATH | mount.RESOLVE_NO_SYMLINKS | mount.RESOLVE_NO_XDEV
        try:
            fd = mount.openat2(proc, path, os.O_WRONLY, resolve)
            try:
                os.write(fd, self.value.encode(errors="surrogateescape"))
            except OSError as error:
                raise libc.oserror(error.errno or errno.EIO, "write", f"/proc/{path}") from None
            finally:
                os.close(fd)
        finally:
            os.close(proc)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitCapabilities(Step):
    """Bounding, permitted, effective: no more than these. Inheritable and ambient: none."""

    keep: tuple[int, ...]
    last: int

    def describe(self) -> str:
        """See Step."""
        dropped = [
            identity.CAPABILITIES[number] if number < len(identity.CAPABILITIES) else str(number)
            for number in range(self.last + 1)
            if number not in self.keep
        ]
        return f"drop capabilities: {' '.join(dropped) or 'none'}"

    def apply(self, walk: Walk) -> None:
        """See Step."""
        walk.capabilities = frozenset(self.keep)
        identity.drop_bounding(walk.capabilities, self.last)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardHost(Step):
    """Refuse what is done to the host itself by whoever has CAP_SYS_ADMIN, without which no init
    can mount: swapon(2) of any file, swapoff(2); with `remounts` also what mount(8) does last in
    the halt scripts of a machine, to remount / read-only, where the file system below it is the
    host's. Against mistakes: see `seccomp.guard`.
    """

    remounts: bool

    def describe(self) -> str:
        """See Step."""
        return "refuse swapon, swapoff" + (", mount -o remount,ro" if self.remounts else "")

    def apply(self, walk: Walk) -> None:  # noqa: ARG002
        """See Step."""
        seccomp.install_guard(remounts=self.remounts)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoNewPrivs(Step):
    """prctl(2) PR_SET_NO_NEW_PRIVS."""

    def describe(self) -> str:
        """See Step."""
        return "no new privileges"

    def apply(self, walk: Walk) -> None:  # noqa: ARG002
        """See Step."""
        identity.set_no_new_privs()


@dataclass(frozen=True, slots=True, kw_only=True)
class Execute(Step):
    """Become the program: directory, user, environment, streams, exec.

    With `reaper` the child stays as PID 1 and the program, if there is one, is its first child:
    see `reaper.py`.
    """

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    cwd: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    cwd_optional: bool = False  # where it cannot be entered, `/` will do
    umask: int = 0o022
    reaper: bool = False

    def describe(self) -> str:
        """See Step."""
        if not self.argv:
            return "stay as the reaping PID 1, with nothing to run"
        under = " under the reaping PID 1" if self.reaper else ""
        who = f" as {self.uid}:{self.gid}" if (self.uid, self.gid) != (0, 0) else ""
        words = " ".join(repr(word)[1:-1] for word in self.argv)
        return f"exec {words}{who}{under}"

    def apply(self, walk: Walk) -> None:
        """See Step. Does not return."""
        program.become(walk, self)
