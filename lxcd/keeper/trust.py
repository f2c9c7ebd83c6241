"""The way to a trustee, and the keeper's side of it: see `trustee`."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from lxcd.keeper import spawn
from lxcd.keeper.protocol import TRUSTEE_NAME
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import process

if TYPE_CHECKING:
    from collections.abc import Callable

    from lxcd.keeper.epoll import Epoll
    from lxcd.keeper.store import Store

_AGAIN_SECONDS = 1.0
_TRIES = 3
_PATIENCE_SECONDS = 10.0


class Trust:
    """The keeper's trustee, and another one when it is lost.

    `again` is called when there is one that holds nothing yet.
    """

    def __init__(self, epoll: Epoll, store: Store, address: int) -> None:
        self.again: Callable[[], None]
        self.address = address  # the socket that it is asked for the next keeper at
        self._epoll = epoll
        self._store = store
        self._begun = 0.0
        if store.notify is None:
            # Its end was seen by an earlier image of ours.
            epoll.later(0, self._another)
        else:
            self._watch(store.notify)

    def _watch(self, connection: socket.socket) -> None:
        # It says nothing: that is its end.
        self._epoll.watch(connection.fileno(), self._lost, failed=lambda: None)

    def _lost(self) -> None:
        if self._store.notify is not None:
            self._epoll.unwatch(self._store.notify.fileno())
            self._store.begin_anew(None)
        print("keeper: the trustee is gone", file=sys.stderr)
        # One that cannot live is not started again and again.
        lived = time.monotonic() - self._begun > _AGAIN_SECONDS
        self._epoll.later(0 if lived else _AGAIN_SECONDS, self._another)

    def _another(self) -> None:
        self._begun = time.monotonic()
        ours, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
        )
        try:
            with theirs:
                begin(self.address, theirs.fileno())
        except OSError as error:
            ours.close()
            print(f"keeper: no trustee: {error}", file=sys.stderr)
            self._epoll.later(_AGAIN_SECONDS, self._another)
            return
        self._store.begin_anew(ours)
        self._watch(ours)
        self.again()


def command(module: str) -> list[str]:
    """The beginning of an argv that runs `main` of a module of ours, to which options are added."""
    top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = f"import sys; sys.path.append({top!r}); from {module} import main"
    # -I -S: no user's site directory, no .pth file; the path is the standard library and ours.
    interpreter = os.path.realpath(sys.executable)
    return [interpreter, "-I", "-S", "-B", "-c", f"{code}; sys.exit(main(sys.argv[1:]))"]


def begin(address: int, keeper: int = -1) -> None:
    """Start a trustee in this mount tree, for a keeper that is there or one that comes. The caller
    keeps what it gave. Raises OSError.
    """
    if os.fork() == 0:  # noqa: TID251 - the keeper's room
        _become_trustee(address, keeper)


def _become_trustee(address: int, keeper: int) -> NoReturn:
    try:
        os.setsid()
        # An exec keeps this, and what is ignored and blocked below: it needs no code for them.
        process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
        for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(ignored, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGCHLD])
        signals = process.signalfd([int(signal.SIGCHLD)])
        spawn.raise_own_limits()
        words = [*command("lxcd.keeper.trustee"), *runtime_dir()]
        handed = {"--address": address, "--signals": signals}
        if keeper >= 0:
            handed["--keeper"] = keeper
        kernel_fd.close_all_but([0, 1, 2, *handed.values()])
        for name, number in handed.items():
            os.set_inheritable(number, True)
            words += [name, str(number)]
        os.execve(words[0], words, dict(os.environ))
    except BaseException as error:  # noqa: BLE001 - there must not be two of us
        print(f"keeper: no trustee: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(127)


def runtime_dir() -> list[str]:
    """Only there to be seen in ps."""
    place = sys.argv.index("--runtime-dir")
    return sys.argv[place : place + 2]


def start_keeper(private: int, argv: list[str], handed: dict[str, int]) -> None:
    """Have the trustee of this private directory start a keeper in our tree, with our standard
    error and with these descriptors as options; a trustee, too, if there is none. Raises OSError.
    """
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    names = " ".join(handed).encode()
    order = b"\0".join([b"START", names, *(word.encode() for word in argv)])
    for _ in range(_TRIES):
        ours, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
        )
        ours.settimeout(_PATIENCE_SECONDS)
        with ours, theirs, _reach(private) as trustee:
            with contextlib.suppress(ConnectionError):
                kernel_fd.send(trustee, order, [theirs.fileno(), root, 2, *handed.values()])
            theirs.close()
            if ours.recv(64):
                return
        # It was about to leave.
    raise OSError("the trustee starts no keeper")


def _reach(private: int) -> socket.socket:
    path = f"/proc/self/fd/{private}/{TRUSTEE_NAME}"
    trustee = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        trustee.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(TRUSTEE_NAME, dir_fd=private)
        old = os.umask(0o177)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as address:
            address.bind(path)
            os.umask(old)
            begin(address.fileno())
        trustee.connect(path)
    return trustee
