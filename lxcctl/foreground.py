"""A command in a container, in the foreground: on the caller's terminal, or with his streams."""

from __future__ import annotations

import contextlib
import os
import signal

from lxcctl import output
from lxcctl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, TypeVar

    from lxcctl.attach import Attachment
    from lxcctl.signals import SignalThread
    from lxcctl.terminal import RawTerminal
    from lxcctl.typist import Typist

    Made = TypeVar("Made")

_STDIN, _STDOUT, _STDERR = 0, 1, 2
# So often a person says that a command is to end before we leave without it.
_PATIENCE = 3
_ROLE_CONTROLLER = 2


def label() -> str:
    """How a list of sessions names us: `alice@host:1234`."""
    import pwd
    import socket

    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}:{os.getpid()}"


def wants_terminal(asked: bool | None, *, shell: bool = False) -> bool:  # noqa: FBT001
    """Whether the command gets a terminal: as asked, else if the caller types and reads on one, and
    has not sent the command's messages elsewhere. A `shell` is of no use without one.
    """
    if asked is not None:
        return asked
    fds = (_STDOUT,) if shell else (_STDOUT, _STDERR)
    return types_at_terminal() and all(map(os.isatty, fds))


def types_at_terminal() -> bool:
    """Whether standard input is a terminal at which the caller types to us: a shell that has put us
    into the background has it for itself.
    """
    if not os.isatty(_STDIN):
        return False
    try:
        return os.tcgetpgrp(_STDIN) == os.getpgrp()
    except OSError:
        # Not our controlling terminal: there are no jobs at it.
        return True


def show(stream: str, data: bytes) -> None:
    """Write output where it belongs."""
    if stream == "stderr":
        output.write_stderr(data)
    else:
        output.write_stdout(data)


def show_gap(stream: str, count: int) -> None:
    """Say what is missing."""
    output.note(f"{count} bytes of {stream} are lost: we were too slow")


def show_role(controls: bool, by: str) -> None:  # noqa: FBT001
    """Say that somebody else types now."""
    if not controls:
        output.note(f"{by or 'somebody'} has taken control; you only watch now")


def signals(*, at_terminal: bool = True) -> SignalThread:
    """What takes signals for `begin`, `typing` and `Relay`, from before the first call on: before
    anything is begun, they do what they do to any program. Without a terminal to be raw, nothing
    that we read from one or write to one stops us.
    """
    from lxcctl.signals import FORWARDED, OF_A_TERMINAL, SignalThread

    if not (at_terminal and types_at_terminal()):
        for number in (signal.SIGTTIN, signal.SIGTTOU):
            signal.signal(number, signal.SIG_IGN)
    return SignalThread((*FORWARDED, *(OF_A_TERMINAL if at_terminal else ())), _act_as_anybody)


def _act_as_anybody(number: int) -> None:
    if number == signal.SIGTSTP:
        signal.raise_signal(signal.SIGSTOP)
    elif number != signal.SIGWINCH:
        os._exit(128 + number)


def begin(
    taken: SignalThread,
    start: Callable[[], Made],
    acts: Callable[[Made], Callable[[int], None]],
) -> Made:
    """Do `start`, which the daemon finishes whether we wait for it or not. A signal that says
    meanwhile that we should leave is for who `acts` on them from then on, and knows what was made;
    a second one leaves at once.
    """
    early: list[int] = []

    def wait(number: int) -> None:
        if number in (signal.SIGWINCH, signal.SIGTSTP) or early:
            _act_as_anybody(number)
        else:
            early.append(number)
            output.note("waiting for it to begin (once more: leave it running)")

    taken.act = wait
    made = start()
    act = acts(made)
    taken.act = act
    for number in early:
        act(number)
    return made


def leaving(end: Callable[[int], None]) -> Callable[[int], None]:
    """Acts on signals between the beginning of a command on a terminal and `typing`: nobody has
    seen anything of it yet, so it has its `end`, by this signal, and we leave.
    """

    def leave(number: int) -> None:
        if number not in (signal.SIGWINCH, signal.SIGTSTP):
            end(number)
        _act_as_anybody(number)

    return leave


def typist(keys: bytes, at_end: bytes | None = b"") -> Typist:
    """Who types what comes on standard input; `keys` leave if that is a terminal, `at_end` is typed
    behind it (None: then input ends).
    """
    from lxcctl.keys import DetachKeys
    from lxcctl.typist import Typist

    return Typist(_STDIN, DetachKeys(keys) if os.isatty(_STDIN) else None, at_end)


@contextlib.contextmanager
def typing(
    attachment: Attachment,
    taken: SignalThread,
    types: Typist,
    *,
    on_leaving: Callable[[int], None] = lambda _: None,
    on_started: Callable[[Any], None] = lambda _: None,
) -> Generator[None]:
    """Have `types` type into the session, from the moment it has begun on; raw if the caller types
    at a terminal. Of the signals that are `taken` SIGWINCH becomes a new size, SIGTSTP suspends us,
    what would end us lets go first.
    """
    from lxcctl.terminal import RawTerminal

    with contextlib.ExitStack() as stack:
        terminal: RawTerminal | None = None
        if types_at_terminal():
            terminal = stack.enter_context(RawTerminal(_STDIN))
        seat = _Seat(attachment, terminal, on_leaving)

        def started(frame: Any) -> None:  # noqa: ANN401
            on_started(frame)
            types.type_into(attachment)

        attachment.on_abandoned = seat.abandon
        attachment.on_started = started
        # Whoever has to wait for the daemon can at least leave.
        attachment.on_waiting = lambda: types.type_into(attachment)
        taken.act = seat
        stack.callback(setattr, taken, "act", _act_as_anybody)
        yield


class _Seat:
    """Where somebody types: what signals do there."""

    def __init__(
        self,
        attachment: Attachment,
        terminal: RawTerminal | None,
        on_leaving: Callable[[int], None],
    ) -> None:
        self._attachment = attachment
        self._terminal = terminal
        self._on_leaving = on_leaving

    def __call__(self, number: int) -> None:
        """One has arrived."""
        terminal = self._terminal
        if number not in (signal.SIGWINCH, signal.SIGTSTP):
            self._restore()
            if self._attachment.controls:
                self._on_leaving(number)
            os._exit(128 + number)
        elif terminal is None:
            _act_as_anybody(number)
        else:
            if number == signal.SIGTSTP:
                terminal.suspend()
            self._attachment.resize(*terminal.size)

    def abandon(self) -> None:
        """Leave; there is no daemon to be told."""
        self._restore()
        output.note("left while the daemon is away")
        os._exit(0)

    def _restore(self) -> None:
        if self._terminal is not None:
            # With its guard, who would put it back once more when the shell has it again.
            self._terminal.leave()


def size() -> tuple[int, int]:
    """Rows and columns of the caller's terminal."""
    for fd in (_STDIN, _STDOUT):
        with contextlib.suppress(OSError):
            found = os.get_terminal_size(fd)
            if found.lines and found.columns:
                return found.lines, found.columns
    return 24, 80


def set_size(message: Any) -> None:  # noqa: ANN401 - a TerminalSize
    """Fill in the size of the caller's terminal."""
    message.rows, message.columns = size()


def as_controller(start: Any) -> None:  # noqa: ANN401 - a start of either service
    """Fill in who we are: one who types."""
    start.role = _ROLE_CONTROLLER
    start.label = label()


class Relay:
    """Passes signals on to the command of a session; whoever insists on SIGINT leaves without it,
    and at once he who only watches by now.
    """

    def __init__(self, send: Callable[[int], None]) -> None:
        self.attachment: Attachment | None = None
        self._send = send
        self._interrupts = 0

    def __call__(self, number: int) -> None:
        """One has arrived."""
        if self.attachment is not None and not self.attachment.controls:
            os._exit(128 + number)
        self._interrupts += number == signal.SIGINT
        if self._interrupts == _PATIENCE - 1:
            self._send(signal.SIGKILL)
        elif self._interrupts >= _PATIENCE:
            os._exit(128 + number)
        else:
            self._send(number)


def keys_of(text: str) -> bytes:
    """The detach keys that an option names. Raises UsageError."""
    from lxcctl.keys import parse

    found = parse(text)
    if len(found) > 8:  # noqa: PLR2004
        raise UsageError("more than 8 detach keys")
    return found
