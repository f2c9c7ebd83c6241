"""Steps that take rights away, and the last one: becoming the program."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.container import program
from lxcd.container.spec import Step
from lxcd.kernel import identity, mount, process, seccomp

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

    def compile(self, walk: Walk) -> None:
        """See Step."""
        walk.call("personality", self.persona)


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

    def compile(self, walk: Walk) -> None:
        """See Step."""
        proc = walk.fsmount("proc")
        path = "sys/" + self.key.replace(".", "/")
        resolve = mount.RESOLVE_BENEATH | mount.RESOLVE_NO_SYMLINKS | mount.RESOLVE_NO_XDEV
        file = walk.openat2(proc, path, os.O_WRONLY, resolve)
        value = self.value.encode(errors="surrogateescape")
        walk.call("write", file, value, len(value), path=f"/proc/{path}")
        walk.close(file, proc)


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

    def compile(self, walk: Walk) -> None:
        """See Step."""
        walk.capabilities = frozenset(self.keep)
        # Inheritable and ambient ones bring a container's root what it must not have
        # (CVE-2022-29162).
        walk.call("prctl", identity.PR_CAP_AMBIENT, identity.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        for number in range(self.last + 1):
            if number not in walk.capabilities:
                walk.call("prctl", identity.PR_CAPBSET_DROP, number, 0, 0, 0)
        # What is permitted stays so until the exec.
        walk.call("limit", -1, named="capset")


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

    def compile(self, walk: Walk) -> None:
        """See Step."""
        code = seccomp.GUARDS[self.remounts]
        # struct sock_fprog of linux/filter.h.
        program = walk.pointing(
            struct.pack("=H14x", len(code) // seccomp.INSTRUCTION_BYTES), {8: walk.block(code)}
        )
        walk.call("seccomp", seccomp.SET_MODE_FILTER, seccomp.FILTER_FLAG_SPEC_ALLOW, program)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoNewPrivs(Step):
    """prctl(2) PR_SET_NO_NEW_PRIVS."""

    def describe(self) -> str:
        """See Step."""
        return "no new privileges"

    def compile(self, walk: Walk) -> None:
        """See Step."""
        walk.call("prctl", process.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


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

    def compile(self, walk: Walk) -> None:
        """See Step."""
        program.become(walk, self)
