"""How a command gets into a running container: what it may be, the steps of its child, and hearing
from that child until it has exec'ed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.cgroup import tree
from lxcd.console.port import require_size
from lxcd.container import channel, credentials, devices, passwd, plan
from lxcd.container.join import Join
from lxcd.container.namespaces import Barrier
from lxcd.container.spec import Spec, Step
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import mount, process
from lxcd.kernel.fd import Fd
from lxcd.supervisor import reports
from lxcd.supervisor.keeper import gone
from lxcd.supervisor.state import State
from lxcd.supervisor.stop import signal_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lxcd.supervisor.container import Container
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSWD_LIMIT_BYTES = 4 << 20
_VARIABLE = re.compile(r"[^=\0]+=[^\0]*", re.DOTALL)
_UMASK_LIMIT = 0o777
_STREAM_NAMES = ("stdin", "stdout", "stderr")
# How long a killed child is waited for.
_END_SECONDS = 10.0
# MAX_ARG_STRLEN of the kernel: 32 pages.
_WORD_BYTES = 128 * 1024
# execve(2): a quarter of the stack's limit, 8 MiB, is for arguments and environment.
_WORDS_BYTES = 2 << 20


class Elevation:
    """What a command may keep that processes of the container do without."""

    CGROUP = "cgroup"
    CAPABILITIES = "capabilities"
    SECURITY = "security"
    ALL = frozenset({CGROUP, CAPABILITIES, SECURITY})


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, as whom, and where."""

    argv: tuple[str, ...]
    environment: tuple[str, ...] = ()  # NAME=value
    user: str = ""
    cwd: str = ""
    umask: int = 0o022
    groups: tuple[str, ...] | None = None  # in place of the user's own
    namespaces: tuple[str, ...] = ()  # only these; all if empty
    elevate: frozenset[str] = frozenset()
    size: tuple[int, int] | None = None  # rows and columns: it has a terminal
    stdin: bool = False  # a pipe to type into


def check(command: Command) -> None:
    """Raise InvalidArgument for what cannot be run anywhere."""
    if not command.argv or not command.argv[0]:
        raise errors.InvalidArgument("no command was given", "INVALID_COMMAND")
    if any("\0" in word for word in (*command.argv, command.cwd, command.user)):
        raise errors.InvalidArgument("an argument holds a NUL", "INVALID_COMMAND")
    _check_length((*command.argv, *command.environment))
    for variable in command.environment:
        if not _VARIABLE.fullmatch(variable):
            raise errors.InvalidArgument(f"not NAME=value: {variable!r}", "INVALID_ENVIRONMENT")
    if command.cwd and not command.cwd.startswith("/"):
        raise errors.InvalidArgument(f"{command.cwd} is no absolute path", "INVALID_CWD")
    if not 0 <= command.umask <= _UMASK_LIMIT:
        raise errors.InvalidArgument(f"no umask: {command.umask:o}", "INVALID_UMASK")
    for name in command.namespaces:
        if name not in process.NAMESPACES:
            raise errors.InvalidArgument(
                f"no namespace is called {name!r}; there are: {' '.join(process.NAMESPACES)}",
                "INVALID_NAMESPACE",
            )
    if command.size is not None:
        require_size(*command.size)


def _check_length(words: tuple[str, ...]) -> None:
    sizes = [len(word.encode(errors="surrogateescape")) + 1 for word in words]
    if max(sizes) > _WORD_BYTES or sum(sizes) > _WORDS_BYTES:
        raise errors.InvalidArgument(
            f"arguments and environment have {sum(sizes)} bytes, the longest {max(sizes)}: the"
            f" kernel takes {_WORDS_BYTES} in all and {_WORD_BYTES} in one (E2BIG)",
            "COMMAND_TOO_LONG",
            errno="E2BIG",
        )


def require_enterable(container: Container) -> Held:
    """Its init. Raises FailedPrecondition if nothing can be run in it now."""
    init = container.require_running()
    if container.state is State.FROZEN:
        raise errors.FailedPrecondition(
            f"container {container.name} is FROZEN: thaw it first", "CONTAINER_FROZEN"
        )
    return init


class Entry:
    """One command on its way in. `given` are the caller's descriptors for some of its standard
    streams, and stay the caller's.
    """

    def __init__(
        self,
        house: House,
        container: Container,
        command: Command,
        given: Mapping[str, int],
    ) -> None:
        self._house = house
        self._container = container
        self._command = command
        self._given = given
        self._namespaces = container.record.namespaces
        if command.namespaces:
            asked = command.namespaces
            self._namespaces = tuple(name for name in self._namespaces if name in asked)
        # A program of the host's, in parts of the container: nothing of its confinement is meant.
        self._elevate = Elevation.ALL if command.namespaces else command.elevate
        self.user: passwd.User

    async def enter(self) -> Held:
        """Return once the command was exec'ed, or has ended. Raises an LxcdError if the container
        could not be entered; nothing is left then.
        """
        init = require_enterable(self._container)
        self.user = await asyncio.to_thread(self._find_user, init.pid)
        ours, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
        )
        ours.setblocking(False)
        child: Held | None = None
        with ours:
            try:
                child = await self._spawn(init, ours, theirs)
                await self._joined(child, ours)
            except BaseException as error:
                ours.close()
                if child is not None:
                    await end(self._house, child)
                if isinstance(error, (OSError, ValueError)):
                    known = error if isinstance(error, OSError) else OSError(errno.ESRCH, "")
                    name = self._container.name
                    raise errors.from_oserror(known, f"joining {name}") from None
                raise
        return child

    async def _spawn(self, init: Held, ours: socket.socket, theirs: socket.socket) -> Held:
        opened: list[int] = []
        fds = [init.pidfd.fileno()]
        try:
            with theirs:
                cgroup, procs = -1, list[int]()
                if Elevation.CGROUP not in self._elevate:
                    # On the loop: a few opens, whose result a cancelled thread would lose.
                    cgroup, procs = tree.open_for_join(
                        self._house.trees, self._container.payload, init.pid
                    )
                opened += [number for number in (cgroup, *procs) if number >= 0]
                id_ = self._house.next_id("exec")
                child = await self._house.keeper.prepare(
                    id_, "exec", 0, theirs.fileno(), cgroup, procs
                )
            if "mnt" not in self._namespaces:
                flags = os.O_RDONLY | os.O_CLOEXEC
                opened.append(os.open("/proc/self/ns/mnt", flags))
                opened.append(os.open("/", flags | os.O_DIRECTORY))
                fds += opened[-2:]
            steps = self._steps(len(fds))
            fds += [self._given[name] for name in _STREAM_NAMES if name in self._given]
            spec = Spec(self._container.name, steps)
            with Fd(kernel_fd.sealed_memfd("lxcd-spec", spec.encode())) as memfd:
                channel.send_spec(ours, memfd.fileno())
            channel.send_fds(ours, fds)
        finally:
            kernel_fd.close_all(opened)
        return child

    # ---- what its child does

    def _steps(self, first_given: int) -> tuple[Step, ...]:
        record = self._container.record
        steps: list[Step] = [
            Join(
                origin="exec",
                fd=0,
                namespaces=self._namespaces,
                host_mounts=-1 if "mnt" in self._namespaces else 1,
            ),
            self._streams(first_given),
        ]
        running = self._container.running
        arch = running.config.arch if running is not None else None
        persona = plan.persona_of(arch, self._house.host.machine) if arch is not None else None
        if arch is not None and persona is not None:
            steps.append(credentials.SetPersonality(origin="exec", persona=persona, arch=arch))
        last = self._house.host.last_capability
        if Elevation.CAPABILITIES not in self._elevate and record.capabilities is not None:
            steps.append(
                credentials.LimitCapabilities(origin="exec", keep=record.capabilities, last=last)
            )
        if Elevation.SECURITY not in self._elevate and record.no_new_privs:
            steps.append(credentials.NoNewPrivs(origin="exec"))
        user, command = self.user, self._command
        steps += [
            Barrier(origin="exec", barrier=plan.READY, why="its streams are held here too"),
            credentials.Execute(
                origin="exec",
                argv=command.argv,
                environment=tuple(self._environment().items()),
                cwd=command.cwd or user.home,
                cwd_optional=not command.cwd,
                uid=user.uid,
                gid=user.gid,
                groups=user.groups,
                umask=command.umask,
            ),
        ]
        return tuple(steps)

    def _streams(self, first_given: int) -> devices.OpenTerminal | devices.OpenPipes:
        if self._command.size is not None:
            rows, columns = self._command.size
            return devices.OpenTerminal(
                origin="exec", rows=rows, columns=columns, uid=self.user.uid
            )
        sources: dict[str, int] = {}
        for name in _STREAM_NAMES:
            if name in self._given:
                sources[name] = first_given
                first_given += 1
            else:
                piped = name != "stdin" or self._command.stdin
                sources[name] = devices.PIPE if piped else devices.NULL
        return devices.OpenPipes(origin="exec", uid=self.user.uid, gid=self.user.gid, **sources)

    def _environment(self) -> dict[str, str]:
        user, running = self.user, self._container.running
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
        return environment

    def _find_user(self, pid: int) -> passwd.User:
        """Resolve a user in the container's own passwd and group, which are hostile (I6, I15); by
        number only for a command that does not enter the container's files.
        """
        inside = "mnt" in self._namespaces
        files = [_file(pid, path) if inside else b"" for path in ("etc/passwd", "etc/group")]
        try:
            user = passwd.find_user(self._command.user, *files)
            if self._command.groups is not None:
                groups = passwd.find_groups(self._command.groups, files[1])
                user = passwd.with_groups(user, groups)
        except ValueError as error:
            raise errors.InvalidArgument(str(error), "INVALID_USER") from None
        return user

    # ---- hearing from it

    async def _joined(self, child: Held, ours: socket.socket) -> None:
        """Wait until the command was exec'ed. Raises an LxcdError if the container could not be
        entered.
        """
        keeper = self._house.keeper
        streams = self._streams(0).streams
        executing = False
        while (report := await reports.next_report(ours)) is not None:
            match report:
                case channel.Failed():
                    if report.errno == errno.EPIPE:
                        # It could not hand something to the keeper.
                        await child.until(lambda: child.exited is not None or keeper.lost(child))
                    raise self._refused(child, report)
                case channel.Executing():
                    executing = True
                case channel.Reached():
                    if not await keeper.known(child, *streams) and child.exited is None:
                        raise gone()
                    with contextlib.suppress(ConnectionError):
                        channel.send_go(ours)
                case channel.Prepared():
                    continue
        if not executing:
            await child.until(lambda: child.exited is not None or keeper.lost(child))
            status = child.exited.status if child.exited is not None else 0
            how = f"killed by {signal_name(status & 0x7F)}" if status & 0x7F else "it has ended"
            raise self._refused(child, channel.Failed(-1, "join", "", 0, how))

    def _refused(self, child: Held, report: channel.Failed) -> errors.LxcdError:
        if self._house.keeper.lost(child):
            return gone()
        name = self._container.name
        call = f"{report.syscall}: " if report.syscall else ""
        number = errno.errorcode.get(report.errno, str(report.errno)) if report.errno else ""
        reason, text = "EXEC_FAILED", f"{name} could not be entered: "
        if report.step == "execute" and report.syscall == "chdir":
            reason, text = "CWD_NOT_FOUND", f"no such directory in {name}: "
        elif report.step == "open_terminal":
            reason, text = "NO_TERMINAL", f"{name} has no terminal to give: "
        return errors.FailedPrecondition(
            f"{text}{report.step}: {call}{report.text}",
            reason,
            container=name,
            step=report.step,
            syscall=report.syscall,
            errno=number,
        )


async def end(house: House, child: Held) -> None:
    """Kill an exec's child, and let go of it."""
    child.kill()
    try:
        async with asyncio.timeout(_END_SECONDS):
            await child.ended()
    except TimeoutError:
        # Frozen, or in a system call that cannot be interrupted: it goes when it can.
        child.on_exit = house.keeper.forget
        return
    with contextlib.suppress(errors.Unavailable):
        house.keeper.forget(child)


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
