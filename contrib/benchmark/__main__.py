"""The command: runs the benchmark under its warden, shows what came of it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from contrib.benchmark import options, report
from contrib.benchmark.figures import judge


class _Interrupted(Exception):  # noqa: N818  nothing went wrong
    """Somebody wants it to end."""


def main(arguments: list[str]) -> int:
    """Exit status: 0; 1 if it could not be carried out, or with --assert if a target was missed."""
    command = options.parse(arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        status, text = _measure(command.options)
    except _Interrupted as interrupted:
        return 128 + int(interrupted.args[0])
    if not text:
        sys.stderr.write(f"contrib/bench: the run broke off ({status})\n")
        return 1
    found = report.from_json(text)
    sys.stdout.write(report.table(found))
    if command.json_file:
        Path(command.json_file).write_text(text, encoding="utf-8")
    missed = any(verdict.missed for verdict in judge(found.figures))
    return 1 if status or found.failure or (command.strict and missed) else 0


def _interrupt(number: int, _frame: object) -> NoReturn:
    raise _Interrupted(number)


def _measure(wanted: options.Options) -> tuple[int, str]:
    """Run the warden; how it ended, and what the run wrote."""
    lifeline, ours = os.pipe()
    output, theirs = os.pipe()
    argv = [sys.executable, "-P", "-m", "contrib.benchmark.warden", options.encode(wanted)]
    pid = os.posix_spawn(
        argv[0],
        argv,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, lifeline, 0), (os.POSIX_SPAWN_DUP2, theirs, 1)],
        # Ctrl-C is for us alone.
        setsid=True,
    )
    os.close(lifeline)
    os.close(theirs)
    try:
        with os.fdopen(output, encoding="utf-8") as pipe:
            text = pipe.read()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text
    except _Interrupted:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        sys.stderr.write("contrib/bench: ending everything\n")
        os.close(ours)
        os.waitpid(pid, 0)
        raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
