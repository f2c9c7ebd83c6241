"""The run, on its own machine.

    python -m contrib.walkthrough.inside PATIENCE LAST

Writes one line of JSON for each step, as soon as it is done. Ends after the step LAST, if one is
named.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

from contrib.benchmark.commands import BenchError
from contrib.walkthrough import application, limits, preparing, system, unprepared
from contrib.walkthrough.figures import Broken, Result, Shown, to_line
from contrib.walkthrough.stage import Stage
from contrib.walkthrough.table import STEPS

ACTS = {
    **preparing.ACTS,
    **application.ACTS,
    **system.ACTS,
    **limits.ACTS,
    **unprepared.ACTS,
}
# setup.sh makes it.
_WORK = Path("/tmp/article")  # noqa: S108  in a /tmp that nobody else has
_TAIL_CHARACTERS = 4000


class _Interrupted(Exception):  # noqa: N818  nothing went wrong
    """Nobody waits for the rest."""


def main(arguments: list[str]) -> int:
    """0 if lxcd came and went; how the steps went is in their lines."""
    patience, last = float(arguments[0]), arguments[1]
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_watch_lifeline, daemon=True).start()
    try:
        _run(patience, last)
    except _Interrupted:
        return 128 + signal.SIGTERM
    return 0


def _run(patience: float, last: str) -> None:
    with Stage(_WORK, sys.executable, patience) as stage:
        for step in STEPS:
            result = Result(step.name, _act(stage, step.name))
            sys.stdout.write(f"{to_line(result)}\n")
            sys.stdout.flush()
            if not result.good:
                sys.stderr.write(f"{step.name}: lxcd wrote:\n{stage.log()[-_TAIL_CHARACTERS:]}\n")
            if step.name == last:
                break


def _watch_lifeline() -> None:
    """End with the command, in order."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Interrupted


def _act(stage: Stage, name: str) -> Shown:
    try:
        return ACTS[name](stage)
    except (Broken, BenchError, OSError, LookupError, ValueError) as error:
        # Of one that broke off before; what needs it says so in its turn.
        return Shown(wrong=(f"{type(error).__name__}: {error}",))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
