"""The caller's terminal while somebody types through it into a container: raw, and put back
whatever happens.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import termios
import threading
import tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class RawTerminal:
    """Raw between `with`'s begin and end. `fd` stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved: list[object] = []
        self._guard: _Guard | None = None
        self._leaving = threading.Lock()
        self._left = False

    def __enter__(self) -> Self:
        self._saved = termios.tcgetattr(self._fd)
        with contextlib.suppress(OSError):  # there may be no shell to be it
            self._guard = _Guard(self._fd, _as_stty(self._saved))
        self.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """As it was found, for good: also for whoever ends this process right behind it. On any
        thread; nothing the second time.
        """
        with self._leaving:
            if self._left:
                return
            self._left = True
            self.end()
            if self._guard is not None:
                self._guard.dismiss()
                self._guard = None

    def begin(self) -> None:
        """Raw again; what was typed meanwhile is not thrown away."""
        with contextlib.suppress(termios.error):
            tty.setraw(self._fd, termios.TCSANOW)

    def end(self) -> None:
        """As it was found."""
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    def suspend(self) -> None:
        """Stop this process as a shell's user expects it, and go on where it was."""
        self.end()
        # To this thread: it would still run a little before another one stopped it.
        signal.raise_signal(signal.SIGSTOP)
        self.begin()

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns; 24 by 80 for a terminal that does not know."""
        found = os.get_terminal_size(self._fd)
        return (found.lines or 24, found.columns or 80)


def _as_stty(saved: list[object]) -> str:
    """The attributes as `stty -g` writes them."""
    characters: list[bytes | int] = saved[6]  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    numbers = [byte[0] if isinstance(byte, bytes) else byte for byte in characters]
    return ":".join(f"{number:x}" for number in (*saved[:4], *numbers))


# Nobody can put a terminal back who is killed: this one waits for our end, in a session of its own,
# so that what kills us does not reach it, and the terminal's job control neither.
_GUARD = 'read -r word; [ "$word" = done ] || stty "$0" <&3'


class _Guard:
    """A shell that waits on a pipe for our end."""

    def __init__(self, fd: int, saved: str) -> None:
        low, self._write_end = os.pipe2(os.O_CLOEXEC)
        # Out of the way of the numbers below: `fd` is 0 as a rule, and has to be 3 first.
        read_end = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 10)
        os.close(low)
        try:
            self._pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", _GUARD, saved],
                {"PATH": "/usr/bin:/bin"},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, fd, 3),
                    (os.POSIX_SPAWN_DUP2, read_end, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                ],
                setsid=True,
                setsigmask=[],
            )
        except OSError:
            os.close(self._write_end)
            raise
        finally:
            os.close(read_end)

    def dismiss(self) -> None:
        """The terminal is as it was: there is nothing to guard any more."""
        with contextlib.suppress(OSError):
            os.write(self._write_end, b"done\n")
        os.close(self._write_end)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
