"""The command: makes a machine of its own for the run, shows what comes of it, ends it all."""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from contrib.benchmark import processes, trees
from contrib.walkthrough import report
from contrib.walkthrough.figures import Result, from_line
from contrib.walkthrough.table import CHAPTERS, STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHECKOUT = Path(__file__).resolve().parents[2]
# Of whoever interrupts: a system container may be on its way up.
_PATIENCE_SECONDS = 60.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Interrupted(Exception):  # noqa: N818  nothing went wrong
    """Somebody wants it to end."""


def main(arguments: list[str]) -> int:
    """Exit status: 0 if every step is as it should be, else 1."""
    command = _parse(arguments)
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    results: dict[str, Result] = {}
    run = _Run(command.only or "", command.patience)
    try:
        for result in run.results():
            results[result.step] = result
            if command.only in (None, result.step):
                sys.stdout.write(report.step(result))
                sys.stdout.flush()
        status = run.wait()
    except _Interrupted as interrupted:
        sys.stderr.write("contrib/article: ending everything\n")
        return 128 + int(interrupted.args[0])
    finally:
        run.close()
    if command.json_file:
        found = {name: report.as_json(result) for name, result in results.items()}
        Path(command.json_file).write_text(json.dumps(found, indent=1), encoding="utf-8")
    if command.only is None:
        sys.stdout.write(report.preparations())
    wanted = [step.name for step in STEPS] if command.only is None else [command.only]
    sys.stdout.write(report.summary(wanted, results))
    if status:
        sys.stderr.write(f"contrib/article: the run broke off ({status})\n")
    good = all(name in results and results[name].good for name in wanted)
    return 0 if good and not status else 1


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="contrib/article",
        description="Run the whole article on a machine of its own, beside what it shows.",
    )
    parser.add_argument("--json", dest="json_file", metavar="FILE", help="write all results there")
    parser.add_argument(
        "--only",
        metavar="STEP",
        choices=[step.name for step in STEPS],
        help="show and judge this one only; what comes before it is done all the same",
    )
    parser.add_argument(
        "--patience", type=float, default=1.0, metavar="FACTOR", help="for slow machines"
    )
    parser.add_argument("--list", action="store_true", help="name the steps, and run none")
    command = parser.parse_args(arguments)
    if command.list:
        for chapter in CHAPTERS:
            for step in chapter.steps:
                sys.stdout.write(f"{step.name:24} {chapter.title}: {step.holds}\n")
        raise SystemExit(0)
    return command


def _interrupt(number: int, _frame: object) -> NoReturn:
    raise _Interrupted(number)


class _Run:
    """One run and what it leaves."""

    def __init__(self, last: str, patience: float) -> None:
        self._loop = ""
        self._status: int | None = None
        self._work = Path(tempfile.mkdtemp(prefix="lxcd-article-"))
        self._work.chmod(0o755)
        lifeline, self._lifeline = os.pipe()
        output, theirs = os.pipe()
        argv = [
            *("unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork"),
            *("--kill-child=KILL", "--propagation", "private", "--"),
            *("sh", str(Path(__file__).with_name("setup.sh")), str(self._work), str(_CHECKOUT)),
            *(sys.executable, "-P", "-m", "contrib.walkthrough.inside", str(patience), last),
        ]
        self._pid = os.posix_spawnp(
            argv[0],
            argv,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, lifeline, 0), (os.POSIX_SPAWN_DUP2, theirs, 1)],
            # Ctrl-C is for us alone.
            setsid=True,
            setsigdef=_SIGNALS,
        )
        os.close(lifeline)
        os.close(theirs)
        self._output = os.fdopen(output, encoding="utf-8")

    def results(self) -> Iterator[Result]:
        """Each, as it comes."""
        for line in self._output:
            if "loop" in (found := json.loads(line)):
                self._loop = found["loop"]
            else:
                yield from_line(line)

    def wait(self) -> int:
        """How the run has ended."""
        self._status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self._status

    def close(self) -> None:
        """End whatever runs, and remove what outlives it: cgroups, a loop device, the directory."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        os.close(self._lifeline)  # which asks it to end
        if self._status is None:
            pidfd = os.pidfd_open(self._pid)
            ended, _, _ = select.select([pidfd], [], [], _PATIENCE_SECONDS)
            os.close(pidfd)
            below = [] if ended else processes.descendants(self._pid)
            cgroups = set[str]().union(*(trees.of(pid) for pid in below)) - trees.of("self")
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self.wait()
            trees.remove(cgroups)
        self._output.close()
        if self._loop and os.path.exists(f"/sys/block/{Path(self._loop).name}/loop"):
            for words in (("partx", "--delete", self._loop), ("losetup", "-d", self._loop)):
                os.spawnlp(os.P_WAIT, words[0], *words)
        # The mounts in it were in the run's namespace.
        shutil.rmtree(self._work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
