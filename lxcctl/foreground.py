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
    from typing import Any

    from lxcctl.attach import Attachment
    from lxcctl.signals import SignalThread
    from lxcctl.terminal import RawTerminal

_STDIN, _STDOUT = 0, 1
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


def wants_terminal(asked: bool | None) -> bool:  # noqa: FBT001
    """Whether the command gets a terminal: as asked, else if the caller types and reads on one."""
    if asked is not None:
        return asked
    return os.isatty(_STDIN) and os.isatty(_STDOUT)


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


def signals() -> SignalThread:
    """What takes signals for `typing`, from before the first call on: before there is a session,
    they do what they do to any program.
    """
    from lxcctl.signals import FORWARDED, OF_A_TERMINAL, SignalThread

    return SignalThread((*FORWARDED, *OF_A_TERMINAL), _act_as_anybody)


def _act_as_anybody(number: int) -> None:
    if number == signal.SIGTSTP:
        signal.raise_signal(signal.SIGSTOP)
    elif number != signal.SIGWINCH:
        # Leaving cancels the call, and the daemon takes back what it began.
        os._exit(128 + number)


@contextlib.contextmanager
def typing(
    attachment: Attachment,
    taken: SignalThread,
    *,
    keys: bytes = b"",
    on_leaving: Callable[[], None] = lambda: None,
    on_started: Callable[[Any], None] = lambda _: None,
) -> Generator[None]:
    """Type what comes on standard input, from the moment the session has begun on; raw if that is a
    terminal. Of the signals that are `taken` SIGWINCH becomes a new size, SIGTSTP suspends us, what
    would end us lets go first.
    """
    from lxcctl.keys import DetachKeys
    from lxcctl.terminal import RawTerminal

    with contextlib.ExitStack() as stack:
        terminal: RawTerminal | None = None
        if os.isatty(_STDIN):
            terminal = stack.enter_context(RawTerminal(_STDIN))

        def act(number: int) -> None:
            if number == signal.SIGWINCH and terminal is not None:
                attachment.resize(*terminal.size)
            elif number == signal.SIGTSTP and terminal is not None:
                terminal.suspend()
                attachment.resize(*terminal.size)
            elif number not in (signal.SIGWINCH, signal.SIGTSTP):
                on_leaving()
                if terminal is not None:
                    terminal.end()
                os._exit(128 + number)
            else:
                _act_as_anybody(number)

        def abandon() -> None:
            if terminal is not None:
                terminal.end()
            output.note("left while the daemon is away")
            os._exit(0)

        def started(frame: Any) -> None:  # noqa: ANN401
            on_started(frame)
            attachment.feed_from(_STDIN, DetachKeys(keys) if terminal is not None else None)

        attachment.on_abandoned = abandon
        attachment.on_started = started
        taken.act = act
        stack.callback(setattr, taken, "act", _act_as_anybody)
        yield


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
    """Passes signals on to a command; whoever insists on SIGINT leaves without it."""

    def __init__(self, send: Callable[[int], None]) -> None:
        self._send = send
        self._interrupts = 0
        self.begun = False

    def __call__(self, number: int) -> None:
        """One has arrived."""
        if not self.begun:
            # Leaving cancels the call, and the daemon takes back what it began.
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
