"""Device nodes of a container while it runs: one more, one less; until it stops.

Right and node belong together. What is given is in the record before it is done: the next lxcd
takes away what this one gave, and what it had no time to finish.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from lxcd import errors
from lxcd.cgroup import device_control, devices
from lxcd.container import channel, plan
from lxcd.container.join import Join
from lxcd.container.namespaces import Barrier
from lxcd.container.nodes import BindNode, MakeNode, UnbindNode
from lxcd.container.spec import Spec
from lxcd.kernel import procfs
from lxcd.supervisor import entering, reports
from lxcd.supervisor.keeper import gone
from lxcd.supervisor.records import write
from lxcd.threads import in_thread

if TYPE_CHECKING:
    from lxcd.cgroup.devices import Node, Policy
    from lxcd.container.spec import Step
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House

_SECONDS = 30.0
_PATH_BYTES = 4095  # PATH_MAX without the NUL
_NAME_BYTES = 255  # NAME_MAX
_ORIGIN = "device add"


async def add(
    house: House,
    container: Container,
    path: str,
    inside: str,
    access: str,
    *,
    validate_only: bool = False,
) -> None:
    """Give a running container the node `path` of the host, as `inside`. The caller holds the lock.
    Raises an LxcdError; nothing is left then.
    """
    inside = _inside(inside or path)
    bits = _access(access)
    entering.require_enterable(container)
    made, node = await in_thread(_look, path, inside, bits)
    known = next((one for one in container.record.device_nodes if one.path == inside), None)
    if known is not None and known.there:
        raise _exists(container, inside)
    if validate_only:
        return
    if known is not None:
        # An earlier lxcd had no time to finish it.
        await _take(house, container, known)
    base = await in_thread(_base, container)
    # Meanwhile it may have ended, and others have changed the record.
    init = entering.require_enterable(container)
    before = container.record.device_nodes
    record = container.record.but(device_rules=devices.lines(base), device_nodes=(*before, node))
    write(house.records, record)
    container.record = record
    allowed = False
    try:
        await _change(container, base, before, (*before, node))
        allowed = True
        uid, gid = _root_of(init.pid)
        steps = (replace(made, uid=uid, gid=gid), *_join(container), BindNode(**_at(inside)))
        await _walk(house, container, init, steps)
    except BaseException as error:  # noqa: BLE001 - raised below
        # A child that says what went wrong has left nothing.
        half = allowed and not isinstance(error, _ToldError)
        await _undo(house, container, node, unbind=half)
        raise _worded(container, error, inside) from None
    _replace(container, node, replace(node, there=True))


async def remove(
    house: House, container: Container, inside: str, *, validate_only: bool = False
) -> None:
    """Take a node away from a running container. The caller holds the lock. Raises NotFound,
    FailedPrecondition.
    """
    inside = _inside(inside)
    entering.require_enterable(container)
    node = next((one for one in container.record.device_nodes if one.path == inside), None)
    if node is None:
        raise errors.NotFound(
            f"{container.name} was given no device node {inside}",
            "DEVICE_NODE_NOT_FOUND",
            container=container.name,
            path=inside,
        )
    if not validate_only:
        await _take(house, container, node)


# ---- what is asked


def _inside(path: str) -> str:
    """Where it is to be in the container. Raises InvalidArgument."""
    parts = path.split("/")
    long = len(os.fsencode(path)) > _PATH_BYTES or any(
        len(os.fsencode(part)) > _NAME_BYTES for part in parts
    )
    if not path.startswith("/") or "\0" in path or long:
        raise errors.InvalidArgument(f"{path[:80]!r} is no absolute path", "INVALID_PATH")
    if ".." in parts:
        raise errors.InvalidArgument(f"{path}: `..` leads elsewhere", "INVALID_PATH")
    found = "/" + "/".join(part for part in parts if part not in ("", "."))
    if found == "/":
        raise errors.InvalidArgument("a device node cannot be at /", "INVALID_PATH")
    return found


def _access(text: str) -> int:
    try:
        return devices.read_access(text or "rwm")
    except ValueError as error:
        raise errors.InvalidArgument(str(error), "INVALID_ACCESS") from None


def _look(path: str, inside: str, access: int) -> tuple[MakeNode, Node]:
    """The step that makes another of this node of the host's. Raises an LxcdError."""
    if not path.startswith("/") or "\0" in path:
        raise errors.InvalidArgument(f"{path!r} is no absolute path", "INVALID_PATH")
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise errors.NotFound(f"the host has no {path}", "DEVICE_NOT_FOUND", path=path) from None
    except OSError as error:
        raise errors.from_oserror(error, f"looking at {path}") from None
    if not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        raise errors.InvalidArgument(f"{path} is not a device node", "NOT_A_DEVICE", path=path)
    kind: Literal["b", "c"] = "c" if stat.S_ISCHR(found.st_mode) else "b"
    major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
    mode = found.st_mode & 0o777
    step = MakeNode(origin=_ORIGIN, kind=kind, major=major, minor=minor, mode=mode, uid=0, gid=0)
    return step, devices.Node(inside, kind, major, minor, access)


def _root_of(pid: int) -> tuple[int, int]:
    """Ids of the container's root, as they are here. Raises OSError."""
    return _root_in(procfs.read(pid, "uid_map")), _root_in(procfs.read(pid, "gid_map"))


def _root_in(text: bytes) -> int:
    for line in text.splitlines():
        first, there, _ = map(int, line.split())
        if first == 0:
            return there
    return 0


# ---- rights


def _base(container: Container) -> Policy:
    """What it may use without the nodes that it was given."""
    rules = container.record.device_rules
    try:
        if rules is None:
            return device_control.in_force(container.payload)
        return devices.read_lines(rules)
    except (OSError, ValueError) as error:
        text = f"the device rules of {container.name} cannot be read: {error}"
        raise errors.FailedPrecondition(text, "HOST_FAILED") from None


async def _change(
    container: Container, base: Policy, old: tuple[Node, ...], new: tuple[Node, ...]
) -> None:
    """Raises OSError, FailedPrecondition."""
    was, becomes = (base.but(node.rule for node in nodes) for nodes in (old, new))
    await in_thread(device_control.change, container.payload, was, becomes)


async def _take(house: House, container: Container, node: Node) -> None:
    """The right first: the container can have the rest wait for ever, by a file system of its
    own.
    """
    init = entering.require_enterable(container)
    nodes = container.record.device_nodes
    try:
        base = await in_thread(_base, container)
        await _change(container, base, nodes, tuple(one for one in nodes if one is not node))
        await _walk(house, container, init, (*_join(container), _unbind(node)))
    except (OSError, _ToldError) as error:
        raise _worded(container, error, node.path) from None
    _replace(container, node, None)


async def _undo(house: House, container: Container, node: Node, *, unbind: bool) -> None:
    """As if it had never been given. What cannot be taken back stays in the record."""
    if not container.state.alive:
        return
    nodes = container.record.device_nodes
    try:
        base = await in_thread(_base, container)
        await _change(container, base, nodes, tuple(one for one in nodes if one is not node))
        if unbind:
            init = container.require_running()
            await _walk(house, container, init, (*_join(container), _unbind(node)))
    except (OSError, _ToldError, errors.LxcdError):
        return
    _replace(container, node, None)


def _replace(container: Container, node: Node, other: Node | None) -> None:
    """Its end, which is handled beside this, has taken all of them away."""
    if not container.state.alive:
        return
    replaced = (other if one is node else one for one in container.record.device_nodes)
    container.record = container.record.but(
        device_nodes=tuple(one for one in replaced if one is not None)
    )
    container.write_record()


# ---- in the container


class _ToldError(Exception):
    """A child says what it could not do."""

    def __init__(self, report: channel.Failed) -> None:
        super().__init__(report.text)
        self.report = report


def _at(inside: str) -> dict[str, str]:
    return {"origin": _ORIGIN, "path": inside}


def _unbind(node: Node) -> UnbindNode:
    return UnbindNode(**_at(node.path), kind=node.kind, major=node.major, minor=node.minor)


def _join(container: Container) -> tuple[Step, ...]:
    """Its files and its ids, and nothing else: nobody inside sees the child, or can stop it. What
    has no lxcd behind it any more goes no further.
    """
    there = (*container.record.namespaces, *container.record.shared)
    names = ("user", "mnt") if "user" in there else ("mnt",)
    return (
        Join(origin=_ORIGIN, fd=0, namespaces=names),
        Barrier(origin=_ORIGIN, barrier=plan.READY, why="lxcd is still there"),
    )


async def _walk(house: House, container: Container, init: Held, steps: tuple[Step, ...]) -> None:
    """Have a child walk these. Raises _ToldError, an LxcdError, OSError."""
    with house.pool.start():
        prepared = await house.pool.take_exec()
        child = prepared.child
        with prepared.channel:
            try:
                program = Spec(steps).compile(1)
                reports.send_spec(prepared.channel, program)
                with contextlib.suppress(ConnectionError):
                    channel.send_fds(prepared.channel, [init.pidfd.fileno()])
                async with asyncio.timeout(_SECONDS):
                    failure = await reports.failure_of(
                        house.keeper, child, prepared.channel, program, (), lambda: None
                    )
                if failure is not None and house.keeper.lost(child):
                    raise gone()
            except TimeoutError:
                raise errors.DeadlineExceeded(
                    f"the files of {container.name} do not answer within {_SECONDS:g} s",
                    "FILES_HANG",
                    container=container.name,
                ) from None
            finally:
                prepared.channel.close()
                await entering.end(house, child)
    if failure is not None:
        if failure.index < 0:
            raise errors.Aborted(
                f"what was to be done in {container.name} was cut short: {failure.text}",
                "NODE_CUT_SHORT",
                container=container.name,
            )
        raise _ToldError(failure)


def _exists(container: Container, inside: str) -> errors.AlreadyExists:
    text = f"{container.name} has a file {inside} already"
    return errors.AlreadyExists(text, "PATH_EXISTS", container=container.name, path=inside)


def _worded(container: Container, error: BaseException, inside: str) -> BaseException:
    """The error for the caller."""
    name = container.name
    if not isinstance(error, errors.LxcdError) and not container.state.alive:
        return errors.FailedPrecondition(
            f"container {name} has ended meanwhile", "CONTAINER_NOT_RUNNING", container=name
        )
    if isinstance(error, device_control.RuleRefusedError):
        return errors.from_oserror(error, f"device rule of {name}", origin=error.rule.origin)
    if isinstance(error, (OSError, ValueError)):
        known = error if isinstance(error, OSError) else OSError(errno.ESRCH, "")
        return errors.from_oserror(known, f"device node {inside} of {name}")
    if not isinstance(error, _ToldError):
        return error
    report = error.report
    if report.step == BindNode.name and report.errno == errno.EEXIST:
        return _exists(container, inside)
    call = f"{report.syscall}: " if report.syscall else ""
    reasons = {errno.ELOOP: "PATH_UNSAFE", errno.ENOTDIR: "PATH_UNSAFE"}
    return errors.FailedPrecondition(
        f"device node {inside} of {name}: {report.step}: {call}{report.text}",
        reasons.get(report.errno, "NODE_FAILED"),
        container=name,
        path=inside,
        step=report.step,
        syscall=report.syscall,
        errno=errno.errorcode.get(report.errno, str(report.errno)),
    )
