"""How a command gets into a running container: what it may be, the steps of its child, and hearing
from that child until it has exec'ed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.cgroup import tree
from lxcd.console.port import require_size
from lxcd.container import channel, credentials, devices, passwd, plan
from lxcd.container.join import Join
from lxcd.container.namespaces import Barrier, NewKeyring
from lxcd.container.spec import Spec, Step
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import mount, process, procfs
from lxcd.kernel.fd import Fd
from lxcd.supervisor import reports, walking
from lxcd.supervisor.keeper import gone
from lxcd.supervisor.state import State

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from lxcd.container.calls import Program
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House
    from lxcd.supervisor.pool import Prepared

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSWD_LIMIT_BYTES = 1 << 20
# Where a user has no shell that could be run.
_SHELL = "/bin/sh"
_MAY_EXECUTE = 0o111
_VARIABLE = re.compile(r"[^=\0]+=[^\0]*", re.DOTALL)
_UMASK_LIMIT = 0o777
_STREAM_NAMES = ("stdin", "stdout", "stderr")
# How long the way in may take.
_ENTRY_SECONDS = 30.0
# How long a killed child is waited for.
_END_SECONDS = 10.0
# MAX_ARG_STRLEN of the kernel: 32 pages.
_WORD_BYTES = 128 * 1024
# execve(2): a quarter of the stack's limit, 8 MiB, is for arguments and environment; each has a
# pointer besides.
_WORDS_BYTES = 2 << 20
_POINTER_BYTES = 8


class Elevation:
    """What a command may keep that processes of the container do without."""

    CGROUP = "cgroup"
    CAPABILITIES = "capabilities"
    SECURITY = "security"
    ALL = frozenset({CGROUP, CAPABILITIES, SECURITY})


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, as whom, and where. Without `argv` it is the user's shell."""

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
    if command.argv and not command.argv[0]:
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
    total = sum(sizes) + len(sizes) * _POINTER_BYTES
    longest = max(sizes, default=0)
    if longest > _WORD_BYTES or total > _WORDS_BYTES:
        raise errors.InvalidArgument(
            f"arguments and environment have {total} bytes, the longest {longest}: the"
            f" kernel takes {_WORDS_BYTES} in all and {_WORD_BYTES} in one (E2BIG)",
            "COMMAND_TOO_LONG",
            errno="E2BIG",
        )


def require_enterable(container: Container) -> Held:
    """Its init. Raises FailedPrecondition if nothing can be run in it now."""
    init = container.require_running()
    if container.state in (State.FREEZING, State.FROZEN):
        raise errors.FailedPrecondition(
            f"container {container.name} is {container.state.value}: thaw it first",
            "CONTAINER_FROZEN",
        )
    return init


def _require_own(container: Container, asked: tuple[str, ...]) -> None:
    """A command that is to join what the container shares with the host would be the host's."""
    there = (*container.record.namespaces, *container.record.shared)
    missing = [name for name in asked if name not in there]
    if missing:
        raise errors.FailedPrecondition(
            f"{container.name} has no {', '.join(missing)} namespace of its own",
            "NAMESPACE_NOT_OWN",
            container=container.name,
            namespaces=" ".join(missing),
        )


def _ended(container: Container) -> errors.FailedPrecondition:
    return errors.FailedPrecondition(
        f"container {container.name} has ended meanwhile",
        "CONTAINER_NOT_RUNNING",
        container=container.name,
    )


async def trial(house: House, container: Container, command: Command) -> None:
    """Raise what would be wrong with running it now."""
    check(command)
    await Entry(house, container, command, {}).find_user()


class Entry:
    """One command on its way in. `given` are the caller's descriptors for some of its standard
    streams, and stay the caller's. With `waits` what it writes waits for its readers.
    """

    def __init__(
        self,
        house: House,
        container: Container,
        command: Command,
        given: Mapping[str, int],
        *,
        waits: bool = True,
    ) -> None:
        self._house = house
        self._container = container
        self._command = command
        self._given = given
        self._waits = waits
        self._namespaces = (*container.record.namespaces, *container.record.shared)
        if command.namespaces:
            _require_own(container, command.namespaces)
            self._namespaces = command.namespaces
        # A program of the host's, in parts of the container: nothing of its confinement is meant.
        self._elevate = Elevation.ALL if command.namespaces else command.elevate
        self.user: passwd.User
        self.argv = command.argv

    async def enter(self, before_exec: Callable[[Held], None] = lambda _: None) -> Held:
        """Return once the command was exec'ed, or has ended. Raises an LxcdError if the container
        could not be entered, or what `before_exec` raises; nothing is left then.
        """
        init = await self.find_user()
        with self._house.pool.start():
            prepared = await self._take()
            with prepared.channel:
                try:
                    program = self._send(init, prepared)
                    # Whoever is root inside may stop it on its way, or have it wait for a file
                    # system of his.
                    async with asyncio.timeout(_ENTRY_SECONDS):
                        await self._joined(prepared.child, prepared.channel, program, before_exec)
                except TimeoutError:
                    prepared.channel.close()
                    await end(self._house, prepared.child)
                    raise errors.DeadlineExceeded(
                        f"{self._container.name} could not be entered within {_ENTRY_SECONDS:g} s",
                        "EXEC_ENTRY_TIMEOUT",
                        container=self._container.name,
                    ) from None
                except BaseException as error:
                    prepared.channel.close()
                    await end(self._house, prepared.child)
                    known_failures = (OSError, ValueError, errors.FailedPrecondition)
                    if isinstance(error, known_failures) and procfs.is_exiting(init.pid):
                        raise _ended(self._container) from None
                    if isinstance(error, (OSError, ValueError)):
                        known = error if isinstance(error, OSError) else OSError(errno.ESRCH, "")
                        raise errors.from_oserror(known, self._doing()) from None
                    raise
        return prepared.child

    async def find_user(self) -> Held:
        """Learn who it will run as; the container's init. Raises an LxcdError."""
        init = require_enterable(self._container)
        self.user, self.argv = await self._house.errands.run(
            self._container.directory, lambda: self._look_inside(init.pid)
        )
        return init

    async def _take(self) -> Prepared:
        try:
            return await self._house.pool.take_exec()
        except OSError as error:
            raise errors.from_oserror(error, self._doing()) from None

    def _doing(self) -> str:
        return f"joining {self._container.name}"

    def _send(self, init: Held, prepared: Prepared) -> Program:
        """Give the child its Spec, and what that names: the former. On the loop: a few opens."""
        opened: list[int] = []
        fds = [init.pidfd.fileno()]
        try:
            join = self._join(init, fds, opened)
            steps = (join, *self._steps(len(fds)))
            fds += [self._given[name] for name in _STREAM_NAMES if name in self._given]
            program = Spec(steps).compile(len(fds))
            reports.send_spec(prepared.channel, program)
            with contextlib.suppress(ConnectionError):
                channel.send_fds(prepared.channel, fds)
            return program
        finally:
            kernel_fd.close_all(opened)

    def _join(self, init: Held, fds: list[int], opened: list[int]) -> Join:
        """The first step; what it names is added to `fds`, and what was opened for it."""

        def place(number: int) -> int:
            opened.append(number)
            fds.append(number)
            return len(fds) - 1

        host_mounts = cgroup = -1
        cgroups: list[int] = []
        flags = os.O_RDONLY | os.O_CLOEXEC
        if "mnt" not in self._namespaces:
            host_mounts = place(os.open("/proc/self/ns/mnt", flags))
            place(os.open("/", flags | os.O_DIRECTORY))
        cgroup_namespace = -1
        if "cgroup" in self._namespaces:
            cgroup_namespace = place(os.open(f"/proc/{init.pid}/ns/cgroup", flags))
        if Elevation.CGROUP not in self._elevate:
            payload = self._container.payload
            unified, files = tree.open_for_join(self._house.trees, payload, init.pid)
            cgroups = [place(number) for number in files]
            cgroup = place(unified) if unified >= 0 else -1
        return Join(
            origin="exec",
            fd=0,
            namespaces=self._namespaces,
            cgroups=tuple(cgroups),
            cgroup=cgroup,
            cgroup_namespace=cgroup_namespace,
            host_mounts=host_mounts,
        )

    # ---- what its child does

    def _steps(self, first_given: int) -> tuple[Step, ...]:
        record = self._container.record
        steps: list[Step] = [self._streams(first_given)]
        running = self._container.running
        if running is None or not running.config.keyring_disable_session:
            steps.append(NewKeyring(origin="exec"))
        arch = running.config.arch if running is not None else None
        persona = plan.persona_of(arch, self._house.host.machine) if arch is not None else None
        if arch is not None and persona is not None:
            steps.append(credentials.SetPersonality(origin="exec", persona=persona, arch=arch))
        last = self._house.host.last_capability
        if Elevation.CAPABILITIES not in self._elevate and record.capabilities is not None:
            steps.append(
                credentials.LimitCapabilities(origin="exec", keep=record.capabilities, last=last)
            )
            if plan.is_guarded(record.namespaces, record.capabilities):
                shared = running is None or plan.is_shared(running.config)
                steps.append(credentials.GuardHost(origin="exec", remounts=shared))
        if Elevation.SECURITY not in self._elevate and record.no_new_privs:
            steps.append(credentials.NoNewPrivs(origin="exec"))
        user, command = self.user, self._command
        steps += [
            Barrier(origin="exec", barrier=plan.READY, why="its streams are held here too"),
            credentials.Execute(
                origin="exec",
                argv=self.argv,
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
        kinds: dict[str, int] = {}
        for name in _STREAM_NAMES:
            if name in self._given:
                kinds[name] = first_given
                first_given += 1
            else:
                piped = name != "stdin" or self._command.stdin
                kinds[name] = devices.PIPE if piped else devices.NULL
        return devices.OpenPipes(
            origin="exec", uid=self.user.uid, gid=self.user.gid, waits=self._waits, **kinds
        )

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

    def _look_inside(self, pid: int) -> tuple[passwd.User, tuple[str, ...]]:
        """Who it will run as, and its command line."""
        user = self._find_user(pid)
        if self._command.argv:
            return user, self._command.argv
        has_shell = "mnt" in self._namespaces and _is_program(pid, user.shell)
        return user, (user.shell if has_shell else _SHELL,)

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

    async def _joined(
        self,
        child: Held,
        ours: socket.socket,
        program: Program,
        before_exec: Callable[[Held], None],
    ) -> None:
        """Wait until the command was exec'ed. Raises an LxcdError if the container could not be
        entered.
        """

        def at_ready() -> None:
            self._set_limits(child)
            before_exec(child)

        streams = self._streams(0).streams
        failure = await reports.failure_of(
            self._house.keeper, child, ours, program, streams, at_ready
        )
        if failure is not None:
            raise self._refused(child, failure)

    def _set_limits(self, child: Held) -> None:
        """lxc.prlimit.*, as init has them."""
        running = self._container.running
        for limit in running.config.prlimits if running is not None else ():
            walking.set_limit(child.pid, limit)

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
    try:
        async with asyncio.timeout(_END_SECONDS):
            await child.killed()
    except TimeoutError:
        # Frozen, or in a system call that cannot be interrupted: it goes when it can.
        child.on_exit = house.keeper.forget
        return
    with contextlib.suppress(errors.Unavailable):
        house.keeper.forget(child)


def _file(pid: int, path: str) -> bytes:
    """A regular file below the container's root; empty where it is anything else or missing."""
    try:
        with _place(pid, path) as found:
            if not stat.S_ISREG(os.fstat(found.fileno()).st_mode):
                return b""
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            with Fd(os.open(f"/proc/self/fd/{found.fileno()}", flags)) as file:
                return kernel_fd.read_all(file.fileno(), _PASSWD_LIMIT_BYTES)
    except OSError:
        return b""


def _is_program(pid: int, path: str) -> bool:
    """Whether somebody may execute what is there below the container's root."""
    if not path.startswith("/"):
        return False
    try:
        with _place(pid, path) as found:
            mode = os.fstat(found.fileno()).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and bool(mode & _MAY_EXECUTE)


def _place(pid: int, path: str) -> Fd:
    """What is there below the container's root, unopened. Raises OSError."""
    resolve = mount.RESOLVE_IN_ROOT | mount.RESOLVE_NO_MAGICLINKS
    with Fd(os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
        return Fd(mount.openat2(root.fileno(), path, os.O_PATH, resolve))
