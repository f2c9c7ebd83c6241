"""Programs of the host that lxcd has run: hooks, dnsmasq, nft. The keeper forks them, as it does
commands that join a container; they see the host's files and its network, and lxcd's death does
not end them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.container import calls, channel, credentials, devices, plan
from lxcd.container.join import Join
from lxcd.container.namespaces import Barrier
from lxcd.container.spec import Spec
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel.fd import Fd
from lxcd.supervisor import reports
from lxcd.supervisor.collecting import Collecting, Result
from lxcd.supervisor.entering import end

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENTRY_SECONDS = 30.0
OUTPUT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. The first word is looked up in PATH."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    cwd: str = "/"


async def begin(
    house: House,
    program: Program,
    given: Mapping[str, int] | None = None,
    *,
    waits: bool = False,
    write_down: Callable[[Held], None] | None = None,
) -> Held:
    """Start it; it is exec'ed when this returns. Its standard input is /dev/null unless `given`,
    which stays the caller's; the caller owns the child, see `end`. With `waits` what it writes
    waits for its readers. `write_down` is called before it is exec'ed, for the record of a child
    that the next lxcd is to know. Raises an LxcdError.
    """
    given = given or {}
    pipes = {
        name: len(_HOST) if name in given else devices.NULL if name == "stdin" else devices.PIPE
        for name in ("stdin", "stdout", "stderr")
    }
    streams = devices.OpenPipes(origin="program", waits=waits, **pipes)
    with house.pool.start():
        try:
            prepared = await house.pool.take_exec()
        except OSError as error:
            raise errors.from_oserror(error, f"running {program.argv[0]}") from None
        child = prepared.child
        with prepared.channel as ours:
            try:
                if write_down is not None:
                    write_down(child)
                compiled = _send(ours, program, streams, list(given.values()))
                async with asyncio.timeout(_ENTRY_SECONDS):
                    await _require_exec(house, program, child, ours, compiled, streams.streams)
            except BaseException as error:
                ours.close()
                await end(house, child)
                if isinstance(error, TimeoutError):
                    text = f"{program.argv[0]} could not be run within {_ENTRY_SECONDS:g} s"
                    raise errors.DeadlineExceeded(text, "PROGRAM_TIMEOUT") from None
                if isinstance(error, OSError):
                    raise errors.from_oserror(error, f"running {program.argv[0]}") from None
                raise
    return child


async def run(
    house: House, program: Program, stdin: bytes = b"", *, timeout_seconds: float | None = None
) -> Result:
    """Run it to its end; it is killed at the deadline, and if nobody waits any more. Raises an
    LxcdError if it could not even be begun; a status that is not 0 is no error here.
    """
    loop = asyncio.get_running_loop()
    deadline = None if timeout_seconds is None else loop.time() + timeout_seconds
    read_end, write_end = os.pipe2(os.O_CLOEXEC) if stdin else (-1, -1)
    with Fd(read_end), Fd(write_end) as feeding:
        given = {"stdin": read_end} if stdin else None
        child = await begin(house, program, given, waits=True)
        try:
            collecting = Collecting(house, child, 0, OUTPUT_BYTES)
            return await collecting.to_the_end(feeding, stdin, deadline)
        finally:
            await end(house, child)


# lxcd's mount namespace and its root: the keeper sits in a small tree of its own.
_HOST = ("/proc/self/ns/mnt", "/")


def _send(
    ours: socket.socket, program: Program, streams: devices.OpenPipes, given: list[int]
) -> calls.Program:
    flags = os.O_RDONLY | os.O_CLOEXEC
    opened: list[int] = []
    try:
        opened += [os.open(path, flags) for path in _HOST]
        steps = (
            Join(origin="program", fd=-1, namespaces=(), host_mounts=0),
            streams,
            Barrier(origin="program", barrier=plan.READY, why="its streams are held here too"),
            credentials.Execute(
                origin="program",
                argv=program.argv,
                environment=tuple({"PATH": PATH, **program.environment}.items()),
                cwd=program.cwd,
                uid=0,
                gid=0,
                groups=(),
            ),
        )
        compiled = Spec(steps).compile(len(opened) + len(given))
        reports.send_spec(ours, compiled)
        with contextlib.suppress(ConnectionError):
            channel.send_fds(ours, [*opened, *given])
        return compiled
    finally:
        kernel_fd.close_all(opened)


async def _require_exec(
    house: House,
    program: Program,
    child: Held,
    ours: socket.socket,
    compiled: calls.Program,
    streams: tuple[str, ...],
) -> None:
    failure = await reports.failure_of(house.keeper, child, ours, compiled, streams, lambda: None)
    if failure is not None:
        raise _refused(program, failure)


def _refused(program: Program, failure: channel.Failed) -> errors.LxcdError:
    call = f"{failure.syscall}: " if failure.syscall else ""
    return errors.FailedPrecondition(
        f"{program.argv[0]} could not be run: {call}{failure.text}", "PROGRAM_FAILED"
    )
