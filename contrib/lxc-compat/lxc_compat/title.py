"""What ps shows of us: the command as it was typed, as of a program that is no script."""

from __future__ import annotations

import contextlib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def show(words: Sequence[str]) -> None:
    """Overwrite argv with `words`, which is never longer: an interpreter stood in front of them.

    Nothing depends on it where that cannot be.
    """
    with contextlib.suppress(OSError):
        with open("/proc/self/comm", "w", encoding="utf-8", errors="surrogateescape") as comm:
            comm.write(words[0])
        with open("/proc/self/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        # proc_pid_stat(5): arg_start and arg_end are fields 48 and 49, the first two are gone here.
        begin, end = int(fields[45]), int(fields[46])
        text = b"\0".join(os.fsencode(word) for word in words)[: end - begin - 1]
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(begin)
            memory.write(text.ljust(end - begin, b"\0"))
