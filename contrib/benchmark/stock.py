"""Stock LXC, by its own commands and in an lxcpath of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contrib.benchmark.commands import BenchError, Commands, Finished, await_end
from contrib.benchmark.containers import define

if TYPE_CHECKING:
    from pathlib import Path


class Stock:
    """lxc-start and its like."""

    def __init__(self, commands: Commands, lxcpath: Path) -> None:
        self._commands = commands
        self._lxcpath = lxcpath
        lxcpath.mkdir()

    @property
    def here(self) -> bool:
        """It is installed."""
        return bool(self._commands.find("lxc-start"))

    def bare(self) -> int:
        """`lxc-start`, which only says its version; nanoseconds."""
        return self._run("lxc-start", "--version").nanoseconds

    def define(self, name: str, config: str) -> None:
        """Write a container's config where the commands look for it."""
        define(self._lxcpath, name, config)

    def start(self, name: str) -> int:
        """`lxc-start`, which returns when the container runs; nanoseconds of the whole command."""
        return self._named("lxc-start", name).nanoseconds

    def execute(self, name: str, *command: str) -> int:
        """`lxc-execute` of a command, to its end; nanoseconds."""
        rcfile = str(self._lxcpath / name / "config")
        return self._named("lxc-execute", name, "-f", rcfile, "--", *command).nanoseconds

    def attach(self, name: str, *command: str) -> int:
        """`lxc-attach` of a command, to its end, its output to the null device; nanoseconds."""
        argv = (self._commands.find("lxc-attach"), "-P", str(self._lxcpath), "-n", name)
        return self._commands.run(*argv, "--", *command, silent=True).nanoseconds

    def console(self, name: str, terminal: str) -> int:
        """`lxc-console` of /dev/console, on this terminal; its pid."""
        argv = (self._commands.find("lxc-console"), "-P", str(self._lxcpath), "-n", name, "-t", "0")
        return self._commands.spawn_on(terminal, *argv)

    def stop(self, name: str) -> None:
        """Kill it, and wait until its monitor is gone too."""
        monitor = self.monitor(name)
        self._named("lxc-stop", name, "-k")
        await_end(monitor, f"the monitor of {name}")

    def init(self, name: str) -> int:
        """Pid of the container's init."""
        text = self._named("lxc-info", name, "-p", "-H").output.strip()
        if not text.isdigit():
            raise BenchError(f"lxc-info says no pid of {name}: {text}")
        return int(text)

    def statistics(self, name: str) -> int:
        """`lxc-info` of what it uses; nanoseconds of the whole command."""
        return self._named("lxc-info", name, "-S").nanoseconds

    def monitor(self, name: str) -> int:
        """Pid of the process that supervises it: the parent of its init."""
        with open(f"/proc/{self.init(name)}/status", encoding="ascii") as file:
            for line in file:
                if line.startswith("PPid:"):
                    return int(line.split()[1])
        raise BenchError(f"the init of {name} has no parent")

    def _named(self, command: str, name: str, *arguments: str) -> Finished:
        return self._run(command, "-P", str(self._lxcpath), "-n", name, *arguments)

    def _run(self, command: str, *arguments: str) -> Finished:
        return self._commands.run(self._commands.find(command), *arguments)
