"""A real keeper in a private runtime directory, and the raw protocol to it. No lxcd anywhere."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from lxcd.container import channel
from lxcd.container.calls import NOTHING, Program
from lxcd.container.channel import Report
from lxcd.container.spec import Spec, Step
from lxcd.keeper import protocol
from lxcd.keeper.ring import Ring
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import mount, process, procfs

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENCE = 30.0


def _command(package: Path, *options: str) -> list[str]:
    code = (
        f"import sys; sys.path.append({str(package)!r}); "
        "from lxcd.keeper.launcher import main; main(sys.argv[1:])"
    )
    return [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", code, *options]


Answer = TypeVar("Answer", bound=protocol.Answer)


@dataclass(slots=True)
class Told:
    """One message and the descriptors that came with it."""

    answer: protocol.Answer
    fds: list[int]


class Connection:
    """lxcd's place at the keeper's socket."""

    def __init__(self, private: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(PATIENCE)
        with kernel_fd.Fd(os.open(private, os.O_PATH)) as directory:
            self.socket.connect(f"/proc/self/fd/{directory.fileno()}/{protocol.SOCKET_NAME}")
        self.poke = kernel_fd.Fd(os.eventfd(0, os.EFD_NONBLOCK))
        self.told: list[Told] = []
        self._pings = 0

    def send(self, request: protocol.Request, fds: list[int] | None = None) -> None:
        kernel_fd.send(self.socket, protocol.encode(request), fds or [])

    def receive(self) -> Told | None:
        """The next message, kept in `told` as well; None: the keeper has hung up."""
        try:
            data, fds = kernel_fd.receive(self.socket, protocol.MESSAGE_LIMIT)
        except ConnectionError:
            return None
        if not data:
            return None
        self.told.append(Told(protocol.decode_answer(data), fds))
        return self.told[-1]

    def expect(
        self, kind: type[Answer], id_: str = "", stream: str = ""
    ) -> tuple[Answer, list[int]]:
        """Read until there is such a message."""
        while True:
            found = self.receive()
            assert found is not None, f"the keeper hung up; told before: {self.told}"
            answer = found.answer
            if (
                isinstance(answer, kind)
                and (not id_ or getattr(answer, "id", "") == id_)
                and (not stream or getattr(answer, "stream", "") == stream)
            ):
                return answer, found.fds

    def hello(self) -> list[Told]:
        """Introduce oneself; all that is told up to SYNCED."""
        before = len(self.told)
        self.send(protocol.Hello(protocol.VERSION, "test"), [self.poke.fileno()])
        self.expect(protocol.Synced)
        return self.told[before:]

    def ping(self) -> list[Told]:
        """Wait until the keeper has taken all that was sent: what was told meanwhile."""
        before = len(self.told)
        self._pings += 1
        name = f"ping-{self._pings}"
        ours, theirs = socket.socketpair()
        with ours, theirs:
            # Nobody may ask for this flag (CSIGNAL with clone3): EINVAL, and no child.
            self.send(protocol.Prepare(name, "init", 0xFF, 0), [theirs.fileno()])
            self.expect(protocol.Refused, name)
        return self.told[before:-1]

    def close(self) -> None:
        self.socket.close()
        self.poke.close()
        for told in self.told:
            kernel_fd.close_all(told.fds)
        self.told.clear()


@dataclass(slots=True)
class Spawned:
    """A child of the keeper and our end of its channel."""

    id: str
    pid: int
    pidfd: int
    channel: socket.socket
    program: Program = NOTHING
    reports: list[Report] = field(default_factory=list)

    def walk(self, *steps: Step, fds: list[int] | None = None) -> None:
        """Send the Spec, and read reports until it has exec'ed or ended."""
        self.send_spec(*steps, fds=fds)
        self.listen()

    def send_spec(self, *steps: Step, fds: list[int] | None = None) -> None:
        self.program = Spec(steps).compile(len(fds or []))
        text = self.program.text
        with kernel_fd.Fd(kernel_fd.sealed_memfd("spec", text)) as memfd:
            channel.send_spec(self.channel, memfd.fileno(), len(text))
        channel.send_fds(self.channel, fds or [])

    def listen(self) -> None:
        while True:
            try:
                data, _ = kernel_fd.receive(self.channel, channel.MESSAGE_LIMIT)
            except ConnectionResetError:
                # It has left something unread; that is told once.
                continue
            if not data:
                return
            report = channel.decode(data, self.program)
            if report != channel.Prepared():
                self.reports.append(report)


class RunningKeeper:
    """The process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.private = directory / "private"
        self.private.mkdir(parents=True, exist_ok=True)
        self._connections: list[Connection] = []
        self._spawned: list[Spawned] = []
        self._candidates: list[subprocess.Popen[bytes]] = []
        self.process = self._launch(
            _command(CHECKOUT, "--runtime-dir", str(directory), "--build", "test")
        )
        self.pid = self.process.pid
        self._await_socket()

    def _launch(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )

    def _await_socket(self) -> None:
        with kernel_fd.Fd(os.pidfd_open(self.pid)) as pidfd:
            while not self._listens():
                # It listens or it ends; looked at a few times a second, on no clock that a test counts on.
                ended = select_readable(pidfd.fileno(), 0.01)
                assert not ended, self.log()

    def _listens(self) -> bool:
        # Listening comes before the exec; the keeper itself says its name.
        try:
            return procfs.status(self.pid).comm == "lxcd-keeper"
        except OSError:
            return False

    def log(self) -> str:
        path = self.private / "keeper.log"
        return path.read_text() if path.exists() else ""

    def connect(self) -> Connection:
        made = Connection(self.private)
        self._connections.append(made)
        return made

    def greeted(self) -> Connection:
        made = self.connect()
        made.hello()
        return made

    def spawn(
        self, connection: Connection, id_: str, kind: str = "init", flags: int = 0
    ) -> Spawned:
        """PREPARE, without cgroups."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(PATIENCE)
        with theirs:
            connection.send(protocol.Prepare(id_, kind, flags, 0), [theirs.fileno()])
            answer, fds = connection.expect(protocol.Child, id_)
        made = Spawned(id_, answer.pid, fds[0], ours)
        self._spawned.append(made)
        return made

    def candidate(self, build: str, package: Path = CHECKOUT) -> socket.socket:
        """Start one for the keeper's place, of a package's code; the socket that UPGRADE brings."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        number = theirs.fileno()
        options = ["--runtime-dir", str(self.directory), "--build", build]
        with theirs:
            candidate = subprocess.Popen(
                _command(package, *options, "--candidate", str(number)),
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
                start_new_session=True,
                pass_fds=[number],
            )
        self._candidates.append(candidate)
        return ours

    def upgrade(self, connection: Connection, build: str, package: Path = CHECKOUT) -> str:
        """Have it become another image; why it has not, if so. The candidate is gone afterwards."""
        with self.candidate(build, package) as socket_:
            connection.send(protocol.Upgrade(), [socket_.fileno()])
        while True:
            found = connection.receive()
            assert found is not None, self.log()
            if isinstance(found.answer, protocol.Upgraded | protocol.NotUpgraded):
                break
        self._candidates.pop().wait(PATIENCE)
        return found.answer.why if isinstance(found.answer, protocol.NotUpgraded) else ""

    def settle(self) -> None:
        """Return when it waits for events: it has done all that its last answer led to."""
        with kernel_fd.Fd(os.pidfd_open(self.pid)) as pidfd:
            end = time.monotonic() + PATIENCE
            # By either name, as the compiler has inlined it.
            while procfs.read(self.pid, "wchan") not in (b"ep_poll", b"do_epoll_wait"):
                assert not select_readable(pidfd.fileno(), 0.001), self.log()
                assert time.monotonic() < end, "the keeper does not come to rest"

    def descriptors(self) -> set[str]:
        self.settle()
        return set(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_ns(self) -> int:
        """Time that it has spent on a processor: proc(5), schedstat."""
        return int(procfs.read(self.pid, "schedstat").split()[0])

    def children(self) -> list[int]:
        return [int(word) for word in procfs.read(self.pid, f"task/{self.pid}/children").split()]

    def halt(self) -> None:
        """Stop it in its tracks, so that events pile up."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it, every child that is left, and what those left behind (they come to the keeper: it is a subreaper)."""
        for made in self._spawned:
            made.channel.close()
        for candidate in self._candidates:
            candidate.kill()
            candidate.wait(PATIENCE)
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGSTOP)
            for pid in descendants(self.pid):
                os.kill(pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait(PATIENCE)
        for connection in self._connections:
            connection.close()


def descendants(pid: int) -> list[int]:
    """Every process below it."""
    found: list[int] = []
    try:
        below = [int(word) for word in procfs.read(pid, f"task/{pid}/children").split()]
    except OSError:
        return []
    for child in below:
        found += [child, *descendants(child)]
    return found


def select_readable(number: int, seconds: float) -> bool:
    import select  # noqa: PLC0415

    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def wait_readable(number: int) -> None:
    """For a pidfd: until the process has ended."""
    assert select_readable(number, PATIENCE), "nothing came"


def host_root() -> int:
    """A copy of the host's tree, for children that want a shell."""
    return mount.open_tree(mount.AT_FDCWD, "/", mount.OPEN_TREE_CLONE | mount.AT_RECURSIVE)


def map_ring(fds: list[int]) -> Ring:
    return Ring(os.dup(fds[0]))


NEW_MOUNTS = process.CLONE_NEWNS
