"""A device policy where the kernel obeys it: `devices.allow` and `devices.deny` of version 1 where
the host has that tree, else a program attached to the container's directory of version 2.

Only the container's topmost directory is written to: a directory below is never given more than it
has, and what it was given at its making stays less.
"""

from __future__ import annotations

import errno
import os
from functools import cache
from typing import TYPE_CHECKING

from lxcd.cgroup import devices
from lxcd.cgroup.device_program import assemble
from lxcd.config.model import DEFAULT
from lxcd.errors import FailedPrecondition
from lxcd.kernel import bpf, libc
from lxcd.kernel.fd import Fd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lxcd.cgroup.devices import Policy, Rule
    from lxcd.cgroup.tree import Payload

_PROGRAM = "lxcd_devices"


class RuleRefusedError(OSError):
    """The kernel does not take a rule; `rule.origin` is the line that asks for it."""

    rule: Rule


def controls(payload: Payload) -> bool:
    """Whether these directories are such that devices can be controlled by them: a slot of prepared
    children has none of version 2.
    """
    return bool(_first_version(payload)) or "" in payload.directories


def enforce(payload: Payload, policy: Policy) -> None:
    """Have a container's devices be these, whatever they were. Where they are these already, it
    costs one look. Raises OSError, RuleRefusedError for one rule; FailedPrecondition on a host that
    can do neither.
    """
    first = _first_version(payload)
    if first:
        # A list that begins with everything is not shown.
        if policy.allows or _read(first) != policy:
            _write(first, policy.rules())
        return
    _replace(payload, policy)


def change(payload: Payload, old: Policy, new: Policy) -> None:
    """Have them be `new` after `old`, while it runs: in version 1 only what differs is written, so
    what was written there by hand stays. Raises as `enforce` does.
    """
    first = _first_version(payload)
    if first:
        _write(first, devices.changes(old, new))
        return
    _replace(payload, new)


def in_force(payload: Payload) -> Policy:
    """What the kernel says of a container that was started with the default: of version 1, where it
    may have been changed by hand. Raises OSError.
    """
    first = _first_version(payload)
    return _read(first) if first else devices.DEFAULT


def _first_version(payload: Payload) -> str:
    """The container's directory in the tree of version 1's controller; empty without one."""
    for key, directory in payload.directories.items():
        if "devices" in key.split(","):
            return directory
    return ""


# ---- version 1


def _read(directory: str) -> Policy:
    with open(f"{directory}/devices.list", encoding="ascii") as file:
        return devices.read_list(file.read())


def _write(directory: str, rules: Iterable[Rule]) -> None:
    for rule in rules:
        path = f"{directory}/{rule.file}"
        try:
            with Fd(os.open(path, os.O_WRONLY | os.O_CLOEXEC)) as file:
                os.write(file.fileno(), rule.text.encode())
        except OSError as error:
            number = error.errno or errno.EIO
            if number == errno.EPERM and rule.allow and rule.origin == DEFAULT:
                # lxcd itself may not use it, in a container of somebody's: nor may what is in here.
                continue
            refused = RuleRefusedError(number, os.strerror(number), f"{path}: {rule.text}")
            refused.syscall = "write"  # type: ignore[attr-defined]
            refused.rule = rule
            raise refused from None


# ---- version 2


@cache
def _default_program() -> Fd:
    """Of every container that says nothing of devices. Never closed: it is the same every time."""
    return Fd(bpf.load_device_program(assemble(devices.DEFAULT), _PROGRAM))


def _replace(payload: Payload, policy: Policy) -> None:
    if not controls(payload):
        raise FailedPrecondition(
            "this host has no control of devices: neither version 1's controller, nor version 2",
            "KERNEL_FEATURE_MISSING",
        )
    path = payload.directories[""]
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        with Fd(os.open(path, flags)) as cgroup, _own_program(cgroup.fileno()) as old:
            if policy == devices.EVERYTHING:
                if not old.closed:
                    bpf.detach(cgroup.fileno(), old.fileno())
            elif policy == devices.DEFAULT:
                _attach(cgroup.fileno(), _default_program().fileno(), old)
            else:
                with Fd(bpf.load_device_program(assemble(policy), _PROGRAM)) as program:
                    _attach(cgroup.fileno(), program.fileno(), old)
    except OSError as error:
        if isinstance(error.filename, str):
            raise
        name = libc.syscall_of(error) or "open"
        raise libc.oserror(error.errno or errno.EIO, name, path) from None


def _attach(cgroup: int, program: int, old: Fd) -> None:
    if old.closed:
        bpf.attach(cgroup, program)
    elif bpf.describe(old.fileno()).tag != bpf.describe(program).tag:
        bpf.attach(cgroup, program, old.fileno())


def _own_program(cgroup: int) -> Fd:
    """The program that an lxcd has attached; closed, if there is none. Others' stay as they are."""
    for number in bpf.attached(cgroup):
        try:
            program = Fd(bpf.open_program(number))
        except FileNotFoundError:
            # Its owner has taken it away.
            continue
        if bpf.describe(program.fileno()).name == _PROGRAM:
            return program
        program.close()
    return Fd(-1)
