"""`lxcd-trustee`: holds on trust what the keeper would leave behind, where no service manager does.

It is the parent of the keeper and a subreaper. While there is a keeper it only waits; once that is
lost it still has a copy of every terminal, pipe and ring, and of every pidfd but of those that only
wait, so nobody is hung up on and nobody writes to a pipe that has no reader, and the children of
the lost keeper become its own. It reaps them, notes how each ended, and hands all of it to the next
keeper. It decides nothing, waits for nobody, and leaves when there is no keeper and nothing to
hold.

To the keeper it is what systemd is (sd_notify(3)), and its messages are that one's:

    FDSTORE=1 FDNAME=…          + a descriptor: hold it. One of that name that is held goes
    FDSTOREREMOVE=1 FDNAME=…    let it go
    STOPPING=1                  the keeper ends for good: let all go with it

They come over a SOCK_SEQPACKET pair: its end of file tells either side that the other was lost. If
it is the trustee, the keeper starts another and stores everything again (`trust`). That one is not
the keeper's parent, only the next keeper's.

A keeper is started by this message to the socket in the runtime directory's private part, words
with a zero byte between them:

    START, names, argv…         + who waits, the root directory and the log for it, and descriptors
                                of those names, which it gets as options. Who waits is sent its pid

To those options are added the trustee's own: the pair's other end, the socket, what is stored
(`--stored`, a memfd), and `--ends`, a memfd with a line for each stored child that was reaped here:
name, wait status, time. A line is there before its child is reaped, so a child that is no zombie
any more and has no line was not reaped here.

Both messages stay as they are in every version: a trustee is as old as the first keeper.

A process of its own, for as long as a container runs, so every page counts: 3.0 MB of memory (PSS;
a bare interpreter has 2.7), and 1.0 more with `socket` and `signal`. Who starts it does what those
would be wanted for.
"""

from __future__ import annotations

import _socket as socket  # what the module of that name is made around
import os
import select
import sys
import time

TYPE_CHECKING = False  # `typing` itself is 1.6 MB more
if TYPE_CHECKING:
    from typing import NoReturn

# How long one that was started for a keeper waits to be told of it.
_FIRST_MS = 10_000
_MESSAGE_BYTES = 64 * 1024
_ROOM = socket.CMSG_SPACE(253 * 4)  # SCM_MAX_FD


class Trustee:
    """All state of the process. `run` returns when there is nothing to hold."""

    def __init__(self, address: socket.socket, signals: int, keeper: socket.socket | None) -> None:
        self._address = address
        self._signals = signals  # a signalfd of SIGCHLD
        self._keeper = keeper
        self._had_keeper = keeper is not None
        self._stopping = False
        self._order: tuple[list[bytes], list[int]] | None = None
        self._kept: dict[str, tuple[int, int]] = {}  # name: descriptor, pid if it is a pidfd or -1
        self._lines: dict[str, bytes] = {}  # of those that have ended
        self._ends = -1  # the keeper's copy of these
        self._poll = select.poll()
        for number in (address.fileno(), signals):
            self._poll.register(number, select.POLLIN)
        if keeper is not None:
            self._poll.register(keeper.fileno(), select.POLLIN)

    def run(self) -> None:
        """Hold."""
        while True:
            # What a lost keeper has still said is heard before the next one is started.
            if self._order is not None and self._keeper is None:
                order, self._order = self._order, None
                self._obey(*order)
            idle = self._keeper is None and not self._kept
            if idle and self._had_keeper:
                return
            ready = self._poll.poll(_FIRST_MS if idle else None)
            if idle and not ready:
                return
            for number, _ in ready:
                try:
                    self._turn(number)
                except (OSError, ValueError) as error:
                    _say(f"{error}")

    def _turn(self, number: int) -> None:
        if number == self._address.fileno():
            self._take_order()
        elif number == self._signals:
            os.read(self._signals, 128 * 16)
            self._reap()
        else:
            self._hear()

    # ---- the keeper

    def _hear(self) -> bool:
        """One message of the keeper, or that it is no more; False: nothing came."""
        if self._keeper is None:
            return False
        try:
            data, numbers = _receive(self._keeper)
        except BlockingIOError:
            return False
        except ConnectionError:
            data, numbers = b"", []
        if not data:
            self._part()
            return False
        lines = [line.partition("=") for line in data.decode(errors="replace").splitlines()]
        words = {word: value for word, _, value in lines}
        name = words.get("FDNAME", "")
        if "STOPPING" in words:
            self._stopping = True
        elif "FDSTOREREMOVE" in words:
            self._drop(name)
        elif "FDSTORE" in words and name.isalnum() and numbers:
            self._drop(name)
            number = numbers.pop()
            self._kept[name] = number, _pid(number)
        _close(numbers)
        return True

    def _part(self) -> None:
        if self._keeper is not None:
            self._poll.unregister(self._keeper.fileno())
            self._keeper.close()
            self._keeper = None
        if self._ends >= 0:
            os.close(self._ends)
            self._ends = -1
        if self._stopping:
            for name in list(self._kept):
                self._drop(name)

    def _drop(self, name: str) -> None:
        number, _ = self._kept.pop(name, (-1, -1))
        self._lines.pop(name, None)
        if number >= 0:
            os.close(number)

    # ---- how children end

    def _reap(self) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            try:
                self._look_at(found)
            except (OSError, ValueError) as error:
                _say(f"how {found.si_pid} has ended is not known: {error}")
            os.waitid(os.P_PID, found.si_pid, os.WEXITED | os.WNOHANG)

    def _look_at(self, found: os.waitid_result) -> None:
        # It is ours because its keeper is no more; which child it is may be among the last that
        # this one has said.
        while self._hear():
            continue
        for name, (number, pid) in self._kept.items():
            # The number is another's by now if the child was reaped by its keeper.
            if pid == found.si_pid and _pid(number) == pid:
                self._note(name, found)

    def _note(self, name: str, found: os.waitid_result) -> None:
        status = found.si_status
        if found.si_code == os.CLD_EXITED:
            status <<= 8
        elif found.si_code == os.CLD_DUMPED:
            status |= 0x80
        self._lines[name] = line = b"%s %d %d\n" % (name.encode(), status, time.time_ns())
        if self._ends >= 0:
            os.write(self._ends, line)

    # ---- the next keeper

    def _take_order(self) -> None:
        try:
            data, numbers = _receive(self._address)
        except BlockingIOError:
            return
        word, *words = data.split(b"\0")
        if word != b"START" or len(words) < 2 or len(numbers) != 3 + len(words[0].split()):  # noqa: PLR2004
            _close(numbers)
            return
        if self._order is not None:
            _close(self._order[1])
        self._order = words, numbers

    def _obey(self, words: list[bytes], numbers: list[int]) -> None:
        try:
            pid = self._start(words, numbers[1:])
            os.set_blocking(numbers[0], False)
            os.write(numbers[0], b"%d" % pid)
        except OSError as error:
            _say(f"no keeper, or nobody waits for it: {error}")
        _close(numbers)

    def _start(self, words: list[bytes], numbers: list[int]) -> int:
        ours, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
        )
        ends = os.memfd_create("lxcd-ends")
        try:
            os.write(ends, b"".join(self._lines.values()))
            pid = os.fork()  # noqa: TID251 - the keeper's room
        except OSError:
            os.close(ends)
            raise
        if pid == 0:
            self._become_keeper(words, numbers, theirs, ends)
        self._ends, self._keeper = ends, ours
        self._had_keeper, self._stopping = True, False
        self._poll.register(ours.fileno(), select.POLLIN)
        return pid

    def _become_keeper(
        self, words: list[bytes], numbers: list[int], theirs: socket.socket, ends: int
    ) -> NoReturn:
        try:
            (root, log, *handed), (names, *argv) = numbers, words
            options = dict(zip(names.split(), handed, strict=True))
            options[b"--trustee"] = theirs.fileno()
            options[b"--trustee-address"] = self._address.fileno()
            options[b"--ends"] = ends
            kept = {name: number for name, (number, _) in self._kept.items()}
            if kept:
                options[b"--stored"] = stored = os.memfd_create("lxcd-stored")
                # JSON, as what a name may have in it needs no more care than this.
                text = ", ".join(f'"{name}": {number}' for name, number in kept.items())
                os.write(stored, f"{{{text}}}".encode())
            for number in (*options.values(), *kept.values()):
                os.set_inheritable(number, True)
            os.setsid()
            for place in (1, 2):
                os.dup2(log, place)
            # Into the tree that it was started from; the rest of the way it goes by itself.
            os.fchdir(root)
            os.chroot(".")
            for name, number in options.items():
                argv += [name, b"%d" % number]
            os.execve(argv[0], argv, os.environb)
        except BaseException as error:  # noqa: BLE001 - whatever it is, there must not be two of us
            _say(f"no keeper: {error!r}")
        finally:
            os._exit(127)


def _receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    data, ancillary, flags, _ = channel.recvmsg(_MESSAGE_BYTES, _ROOM, flags)
    numbers: list[int] = []
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers += memoryview(content[: len(content) // 4 * 4]).cast("i").tolist()
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        _close(numbers)
        raise OSError("a message was cut short")
    return data, numbers


def _pid(number: int) -> int:
    """Of whom this is a pidfd; -1 if it is none, or of one that was reaped."""
    info = os.open(f"/proc/self/fdinfo/{number}", os.O_RDONLY | os.O_CLOEXEC)
    text = os.read(info, 4096)
    os.close(info)
    _, found, rest = text.partition(b"\nPid:")
    return int(rest.split(b"\n", 1)[0]) if found else -1


def _close(numbers: list[int]) -> None:
    for number in numbers:
        os.close(number)


def _say(text: str) -> None:
    try:
        os.write(2, f"trustee: {text}\n".encode())
    except OSError:
        return


def main(arguments: list[str]) -> int:
    """`--runtime-dir DIR` (to be seen in ps) `--address FD --signals FD [--keeper FD]`; see
    `trust.begin`, which has set up what a process keeps over an exec.
    """
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    numbers = {name: int(options[name]) for name in options if name != "--runtime-dir"}
    for number in numbers.values():
        os.set_inheritable(number, False)
    comm = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    os.write(comm, b"lxcd-trustee")
    os.close(comm)
    keeper = numbers.get("--keeper", -1)
    Trustee(
        socket.socket(fileno=numbers["--address"]),
        numbers["--signals"],
        socket.socket(fileno=keeper) if keeper >= 0 else None,
    ).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
