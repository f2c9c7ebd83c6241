"""Commands that join a running container: small in, small out, to their end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from lxcd import errors
from lxcd.cgroup import tree
from lxcd.container import channel, credentials, devices, passwd, plan
from lxcd.container.join import Join
from lxcd.container.namespaces import Barrier
from lxcd.container.spec import Spec, Step
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import mount
from lxcd.kernel.fd import Fd
from lxcd.supervisor import reports
from lxcd.supervisor.keeper import gone
from lxcd.supervisor.state import Cause, Exit, State
from lxcd.supervisor.stop import signal_name

if TYPE_CHECKING:
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House

_log = logging.getLogger(__name__)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSWD_LIMIT_BYTES = 4 << 20
_VARIABLE = re.compile(r"[^=\0]+=[^\0]*", re.DOTALL)
DEFAULT_OUTPUT_BYTES = 16 << 20
# How long a killed exec is waited for.
_END_SECONDS = 10.0
_STREAMS = ("stdout", "stderr")


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, and how."""

    argv: tuple[str, ...]
    environment: tuple[str, ...] = ()  # NAME=value
    user: str = ""
    cwd: str = ""
    stdin: bytes = b""
    max_output_bytes: int = DEFAULT_OUTPUT_BYTES
    timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """How it went. Killed for its time or its output, it still has an exit."""

    stdout: bytes
    stderr: bytes
    exit: Exit
    pid: int
    timed_out: bool
    output_truncated: bool


async def run(house: House, container: Container, command: Command) -> Result:
    """Run a command in a container to its end. Raises an LxcdError if it could not even be
    begun.
    """
    _check(command)
    init = container.require_running()
    if container.state is State.FROZEN:
        raise errors.FailedPrecondition(
            f"container {container.name} is FROZEN: thaw it first", "CONTAINER_FROZEN"
        )
    user = await asyncio.to_thread(_user, init.pid, command.user)
    async with _Exec(house, container, init, command, user) as running:
        try:
            return await running.to_the_end()
        except TimeoutError:
            raise errors.DeadlineExceeded(
                f"{container.name} could not be entered in time", "EXEC_TIMEOUT"
            ) from None


def _check(command: Command) -> None:
    if not command.argv or not command.argv[0]:
        raise errors.InvalidArgument("no command was given", "INVALID_COMMAND")
    if any("\0" in word for word in (*command.argv, command.cwd, command.user)):
        raise errors.InvalidArgument("an argument holds a NUL", "INVALID_COMMAND")
    for variable in command.environment:
        if not _VARIABLE.fullmatch(variable):
            raise errors.InvalidArgument(f"not NAME=value: {variable!r}", "INVALID_ENVIRONMENT")
    if command.cwd and not command.cwd.startswith("/"):
        raise errors.InvalidArgument(f"{command.cwd} is no absolute path", "INVALID_CWD")


def _user(pid: int, wanted: str) -> passwd.User:
    """Resolve a user in the container's own passwd and group, which are hostile (I6, I15)."""
    try:
        return passwd.find_user(wanted, _file(pid, "etc/passwd"), _file(pid, "etc/group"))
    except ValueError as error:
        raise errors.InvalidArgument(str(error), "INVALID_USER") from None


def _file(pid: int, path: str) -> bytes:
    """A regular file below the container's root; empty where it is anything else or missing."""
    resolve = mount.RESOLVE_IN_ROOT | mount.RESOLVE_NO_MAGICLINKS
    try:
        with Fd(os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
            with Fd(mount.openat2(root.fileno(), path, os.O_PATH, resolve)) as found:
                if not os.path.isfile(f"/proc/self/fd/{found.fileno()}"):
                    return b""
                flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
                with Fd(os.open(f"/proc/self/fd/{found.fileno()}", flags)) as file:
                    return kernel_fd.read_all(file.fileno(), _PASSWD_LIMIT_BYTES)
    except OSError:
        return b""


class _Exec:
    """One exec, from the fork to its exit. Leaving the `async with` early kills it."""

    def __init__(
        self, house: House, container: Container, init: Held, command: Command, user: passwd.User
    ) -> None:
        self._house = house
        self._container = container
        self._init = init
        self._command = command
        self._user = user
        self._child: Held | None = None
        self._stdin: Fd | None = None

    async def __aenter__(self) -> Self:
        record = self._container.record
        ours, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
        )
        ours.setblocking(False)
        opened: list[int] = []
        try:
            # On the loop: a few opens of cgroupfs, whose result a cancelled thread would lose.
            cgroup, procs = tree.open_for_join(
                self._house.trees, self._container.payload, self._init.pid
            )
            opened += [number for number in (cgroup, *procs) if number >= 0]
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            opened.append(read_end)
            self._stdin = Fd(write_end)
            self._child = await self._house.keeper.prepare(
                self._house.next_id("exec"),
                "exec",
                0,
                theirs.fileno(),
                cgroup,
                procs,
            )
            spec = Spec(record.name, self._steps())
            with Fd(kernel_fd.sealed_memfd("lxcd-spec", spec.encode())) as memfd:
                channel.send_spec(ours, memfd.fileno())
            channel.send_fds(ours, [self._init.pidfd.fileno(), read_end])
            self._socket = ours
        except BaseException as error:
            ours.close()
            await self._end()
            if isinstance(error, (OSError, ValueError)):
                known = error if isinstance(error, OSError) else OSError(errno.ESRCH, "")
                raise errors.from_oserror(known, f"joining {record.name}") from None
            raise
        finally:
            theirs.close()
            kernel_fd.close_all(opened)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()
        await self._end()

    async def _end(self) -> None:
        if self._stdin is not None:
            self._stdin.close()
        if self._child is None:
            return
        self._kill()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self._child.ended()
        except TimeoutError:
            # Frozen, or in a system call that cannot be interrupted: it goes when it can.
            self._child.on_exit = self._house.keeper.forget
            return
        with contextlib.suppress(errors.Unavailable):
            self._house.keeper.forget(self._child)

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()

    def _steps(self) -> tuple[Step, ...]:
        record, user = self._container.record, self._user
        steps: list[Step] = [
            devices.OpenPipes(origin="exec", stdin=1),
            Join(origin="exec", fd=0, namespaces=record.namespaces),
        ]
        running = self._container.running
        arch = running.config.arch if running is not None else None
        if arch is not None:
            persona = plan.persona_of(arch, self._house.host.machine)
            if persona is not None:
                step = credentials.SetPersonality(origin="exec", persona=persona, arch=arch)
                steps.append(step)
        if record.capabilities is not None:
            steps.append(
                credentials.LimitCapabilities(
                    origin="exec", keep=record.capabilities, last=self._house.host.last_capability
                )
            )
        if record.no_new_privs:
            steps.append(credentials.NoNewPrivs(origin="exec"))
        environment = {
            "PATH": _PATH,
            "HOME": user.home,
            "USER": user.name,
            "LOGNAME": user.name,
            "SHELL": user.shell,
            "TERM": "linux",
            "LANG": "C.UTF-8",
            "container": "lxc",
        }
        if running is not None:
            for variable in running.config.environment:
                if variable.scope == "all" and variable.value is not None:
                    environment[variable.name] = variable.value
        for text in self._command.environment:
            name, _, value = text.partition("=")
            environment[name] = value
        steps.append(
            Barrier(origin="exec", barrier=plan.READY, why="its streams are held here too")
        )
        steps.append(
            credentials.Execute(
                origin="exec",
                argv=self._command.argv,
                environment=tuple(environment.items()),
                cwd=self._command.cwd or user.home,
                cwd_optional=not self._command.cwd,
                uid=user.uid,
                gid=user.gid,
                groups=user.groups,
            )
        )
        return tuple(steps)

    async def to_the_end(self) -> Result:
        """Feed it, read it, wait for it."""
        child = self._child
        if child is None:
            raise errors.Internal("an exec without a child")
        timed_out = False
        limit = self._command.max_output_bytes
        deadline = self._deadline()
        async with asyncio.timeout_at(deadline):
            await self._joined()
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(self._feed())
            out = group.create_task(self._collect(child, "stdout", limit))
            err = group.create_task(self._collect(child, "stderr", limit))
            try:
                async with asyncio.timeout_at(deadline):
                    await child.ended()
            except TimeoutError:
                timed_out = True
                self._kill()
                await child.ended()
            feeding.cancel()
        exited = child.exited
        if exited is None:
            raise errors.Internal("an exec without an exit")
        number = exited.status & 0x7F
        how = Exit(
            code=0 if number else exited.status >> 8 & 0xFF,
            signal=number,
            core_dumped=bool(exited.status & 0x80),
            oom_killed=False,
            time_ns=exited.time_ns or time.time_ns(),
            generation=self._container.record.generation,
            cause=Cause.REQUESTED if timed_out else Cause.SELF,
        )
        (stdout, cut_out), (stderr, cut_err) = out.result(), err.result()
        return Result(stdout, stderr, how, child.pid, timed_out, cut_out or cut_err)

    def _deadline(self) -> float | None:
        seconds = self._command.timeout_seconds
        return None if seconds is None else asyncio.get_running_loop().time() + seconds

    async def _joined(self) -> None:
        """Wait until the command was exec'ed. Raises an LxcdError if the container could not be
        entered.
        """
        child, keeper = self._child, self._house.keeper
        if child is None:
            raise errors.Internal("an exec without a child")
        executing = False
        while (report := await reports.next_report(self._socket)) is not None:
            match report:
                case channel.Failed():
                    if reports.is_cut_off(report):
                        await child.until(lambda: child.exited is not None or keeper.lost(child))
                    raise self._refused(report)
                case channel.Executing():
                    executing = True
                case channel.Reached():
                    if not await keeper.known(child, *_STREAMS) and child.exited is None:
                        raise gone()
                    with contextlib.suppress(ConnectionError):
                        channel.send_go(self._socket)
                case channel.Prepared():
                    continue
        if not executing:
            await child.until(lambda: child.exited is not None or keeper.lost(child))
            status = child.exited.status if child.exited is not None else 0
            how = f"killed by {signal_name(status & 0x7F)}" if status & 0x7F else "it has ended"
            raise self._refused(channel.Failed(-1, "join", "", 0, how))

    def _refused(self, report: channel.Failed) -> errors.LxcdError:
        if self._child is not None and self._house.keeper.lost(self._child):
            return gone()
        call = f"{report.syscall}: " if report.syscall else ""
        number = errno.errorcode.get(report.errno, str(report.errno)) if report.errno else ""
        return errors.FailedPrecondition(
            f"{self._container.name} could not be entered: {report.step}: {call}{report.text}",
            "EXEC_FAILED",
            step=report.step,
            syscall=report.syscall,
            errno=number,
        )

    async def _feed(self) -> None:
        """Write its standard input as it takes it, then close it."""
        if self._stdin is None:
            return
        loop = asyncio.get_running_loop()
        number = self._stdin.fileno()
        os.set_blocking(number, False)
        view = memoryview(self._command.stdin)
        room = asyncio.Event()
        loop.add_writer(number, room.set)
        try:
            while view:
                try:
                    view = view[os.write(number, view) :]
                except BlockingIOError:
                    room.clear()
                    await room.wait()
        except BrokenPipeError:
            return
        finally:
            loop.remove_writer(number)
            self._stdin.close()

    async def _collect(self, child: Held, name: str, limit: int) -> tuple[bytes, bool]:
        """All that it writes to one pipe; more than `limit` ends it."""
        stream = child.stream(name)
        parts: list[bytes] = []
        offset = 0
        while await stream.grown(offset):
            piece = stream.read(offset)
            parts.append(piece.data)
            offset = piece.offset + len(piece.data)
            if stream.ring is not None:
                full = stream.ring.room() <= 0
                stream.ring.acknowledge(offset)
                if full:
                    self._house.keeper.drained(child, stream)
            if offset > limit:
                self._kill()
                return b"".join(parts)[:limit], True
        return b"".join(parts), False
