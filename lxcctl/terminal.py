"""The caller's terminal while somebody types through it into a container: raw, and put back
whatever happens.
"""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

# Nobody can put a terminal back who is killed: this one waits for our end, in a session of its own,
# so that what kills us does not reach it, and the terminal's job control neither.
_GUARD = 'read -r word; [ "$word" = done ] || stty "$0" <&3'


class RawTerminal:
    """Raw between `with`'s begin and end. `fd` stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved: list[object] = []
        self._guard = -1

    def __enter__(self) -> Self:
        self._saved = termios.tcgetattr(self._fd)
        self._guard = _spawn_guard(self._fd, _as_stty(self._saved))
        self.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()
        if self._guard >= 0:
            with contextlib.suppress(OSError):
                os.write(self._guard, b"done\n")
            os.close(self._guard)
            self._guard = -1

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
        os.kill(os.getpid(), signal.SIGSTOP)
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


def _spawn_guard(fd: int, saved: str) -> int:
    """Our end of the pipe that it waits on; -1 if there is no shell to be it."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", _GUARD, saved],
            {"PATH": "/usr/bin:/bin"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, read_end, 0),
                (os.POSIX_SPAWN_DUP2, fd, 3),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
            setsid=True,
            setsigmask=[],
        )
    except OSError:
        os.close(write_end)
        return -1
    finally:
        os.close(read_end)
    return write_end
