"""The full screen of `top`: curses, keys and signals. What is shown and done is decided in view.py.

Signals become bytes in a pipe (signal.set_wakeup_fd), so that they are acted upon between two
paintings and never in the middle of one.
"""

from __future__ import annotations

import contextlib
import curses
import locale
import os
import select
import signal
import sys

from lxcctl.errors import ClientError
from lxcctl.view import Look

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType
    from typing import Self

    from lxcctl.view import Line

_STDIN = 0
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_SIGNALS = (*_ENDING, signal.SIGINT, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)
_ESCAPE_MS = 25  # a sequence of a key is here by then, or it is the key Esc

_KEYS = {
    curses.KEY_UP: "UP",
    curses.KEY_DOWN: "DOWN",
    curses.KEY_PPAGE: "PAGE_UP",
    curses.KEY_NPAGE: "PAGE_DOWN",
    curses.KEY_HOME: "HOME",
    curses.KEY_END: "END",
    curses.KEY_ENTER: "ENTER",
    curses.KEY_BACKSPACE: "BACKSPACE",
    0x0A: "ENTER",
    0x0D: "ENTER",
    0x1B: "ESC",
    0x08: "BACKSPACE",
    0x7F: "BACKSPACE",
}
_LOOKS = {
    Look.PLAIN: curses.A_NORMAL,
    Look.STRONG: curses.A_BOLD,
    Look.HEADING: curses.A_REVERSE,
    Look.CHOSEN: curses.A_BOLD | curses.A_REVERSE,
}


class EndedBySignal(Exception):  # noqa: N818 - it is no mistake
    """Somebody wants this process to end; the terminal comes first."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def require() -> None:
    """Raise ClientError where there is no terminal for a full screen."""
    hint = "top --batch writes lines"
    if not (os.isatty(_STDIN) and sys.stdout.isatty()):
        raise ClientError(f"top: stdin and stdout are not a terminal ({hint})")
    name = os.environ.get("TERM", "")
    try:
        curses.setupterm(name or "unknown", sys.stdout.fileno())
    except curses.error as error:
        raise ClientError(f"top: TERM={name}: {error} ({hint})") from None
    if not (curses.tigetstr("cup") and curses.tigetstr("clear")):
        raise ClientError(f"top: TERM={name}: a terminal that cannot move its cursor ({hint})")


class Screen:
    """The terminal between `with`'s begin and end, which gives it back as it was."""

    def __init__(self) -> None:
        self._read_end = self._write_end = self._old_wakeup = -1
        self._old: dict[signal.Signals, signal.Handlers | object] = {}
        self._window: curses.window
        self._poll = select.poll()

    def __enter__(self) -> Self:
        self._read_end, self._write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for fd in (_STDIN, self._read_end):
            self._poll.register(fd, select.POLLIN)
        # A full pipe wakes us as well.
        self._old_wakeup = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                # Before curses begins, which would else have handlers of its own.
                self._old[number] = signal.signal(number, _nothing)
        # Of a locale that is not installed: what is not ASCII is shown escaped.
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_ALL, "")
        self._window = curses.initscr()
        try:
            self._set_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _set_up(self) -> None:
        curses.noecho()
        curses.cbreak()
        curses.set_escdelay(_ESCAPE_MS)
        with contextlib.suppress(curses.error):  # one whose cursor is always seen
            curses.curs_set(0)
        self._window.keypad(True)
        self._window.nodelay(True)

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(curses.error):
            curses.endwin()
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        signal.set_wakeup_fd(self._old_wakeup)
        os.close(self._read_end)
        os.close(self._write_end)

    @property
    def size(self) -> tuple[int, int]:
        """Lines and columns."""
        return self._window.getmaxyx()

    def wake(self) -> None:
        """Have `wait` return; for another thread."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._write_end, b"\0")

    def wait(self) -> Iterator[str]:
        """Wait for keys, a signal or `wake`; the keys."""
        if any(fd == _STDIN and what & select.POLLHUP for fd, what in self._poll.poll()):
            raise EndedBySignal(signal.SIGHUP)
        with contextlib.suppress(BlockingIOError):
            self._obey(set(os.read(self._read_end, 4096)))
        return self._keys()

    def _obey(self, numbers: set[int]) -> None:
        for number in _ENDING:
            if number in numbers:
                raise EndedBySignal(number)
        if signal.SIGINT in numbers:
            raise KeyboardInterrupt
        if signal.SIGTSTP in numbers:
            self._suspend()
        if signal.SIGCONT in numbers:
            # Stopped by force: whoever had the terminal meanwhile may have left it otherwise.
            curses.reset_prog_mode()
            self._window.redrawwin()
        if signal.SIGWINCH in numbers:
            self._resize()

    def _suspend(self) -> None:
        """Stop as a shell's user expects it, and go on where it was."""
        curses.endwin()
        # To this thread: it would still run a little before another one stopped it.
        signal.raise_signal(signal.SIGSTOP)
        self._resize()
        self._window.refresh()

    def _resize(self) -> None:
        found = os.get_terminal_size(sys.stdout.fileno())
        curses.resizeterm(found.lines or 24, found.columns or 80)
        self._window.redrawwin()

    def _keys(self) -> Iterator[str]:
        while True:
            code = self._window.getch()
            if code == -1:
                return
            if code in _KEYS:
                yield _KEYS[code]
            elif 0x20 <= code < 0x7F:  # noqa: PLR2004 - names are ASCII
                yield chr(code)

    def paint(self, lines: Sequence[Line]) -> None:
        """Show these lines and nothing else; only what differs is sent."""
        height, _ = self.size
        self._window.erase()
        for position, line in enumerate(lines[:height]):
            encoding = self._window.encoding
            text = line.text.encode(encoding, "backslashreplace").decode(encoding)
            # The last cell of the screen: it is written, then there is no place for the cursor.
            with contextlib.suppress(curses.error):
                self._window.addstr(position, 0, text, _LOOKS[line.look])
        self._window.refresh()


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """The byte in the pipe is all that is wanted."""
