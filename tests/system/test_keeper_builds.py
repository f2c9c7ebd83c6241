"""lxcd and its keeper are of different builds: a newer lxcd brings the keeper up to its own under the same pid, an older one does not turn it back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxcd import __version__
from lxcd.supervisor import launch
from lxcd.v1 import container_pb2, exec_pb2, host_pb2
from tests.system.boxes import Box, defined, over
from tests.system.calls import IDLE, application, events, everything, state
from tests.system.consistency import FEW_PREPARED
from tests.system.host import CHECKOUT, Host
from tests.system.losing import (
    TAG,
    Console,
    at_rest,
    attempt,
    build_of,
    edit,
    ends_with,
    go,
    how,
    in_order,
    kill_waiting_keeper,
    next_keeper,
    package,
    protocol,
    running,
    settled,
    share,
    version,
)
from tests.system.machine import DEADLINE, until

_LINES = "n=0; while :; do n=$((n+1)); echo line $n; usleep 20000; done"


@pytest.fixture
def host(cold_host: Host) -> Host:
    cold_host.config.write_text(FEW_PREPARED)
    cold_host.start_daemon()
    return cold_host


class Lives:
    """Containers that are to outlive every change: a terminal that is written to, pipes, one that ends later."""

    def __init__(self, host: Host, talker: Box, later: Box) -> None:
        self.host, self.talker, self.later = host, talker, later
        self.before = {name: one.pid for name, one in everything(host.channel()).items()}
        self.keeper = host.keeper_pid

    def go_on(self, *, keeper: bool = True) -> None:
        """All is as it was."""
        found = everything(self.host.channel())
        assert {name: one.pid for name, one in found.items()} == self.before
        assert {state(one) for one in found.values()} == {"RUNNING"}
        assert {one.generation for one in found.values()} == {1}
        if keeper:
            assert self.host.keeper_pid == self.keeper
        assert self.talker.sh("echo on") == "on"
        console = Console(self.host, self.talker.name)
        console.until(console.last() + 5)
        console.close()
        in_order(self.host, self.host.keeper_pid)

    def end(self) -> None:
        """How they end is told as it is."""
        go(self.host, "later")
        self.later.wait(generation=1)
        assert how(self.later) == ("code", 37, "CAUSE_SELF")
        self.later.start(*IDLE)
        assert self.later.sh("echo on") == "on"


@contextmanager
def lives(host: Host, root: Path) -> Iterator[Lives]:
    line = share(host, "later")
    with (
        defined(host, application(host, root, "talker"), f"{TAG}talker") as talker,
        defined(host, application(host, root, "later", line), f"{TAG}later") as later,
        defined(host, over(host, root, "system"), f"{TAG}system") as system,
    ):
        talker.start("/bin/sh", "-c", _LINES)
        later.start(*ends_with(37, "later"), stdio=container_pb2.STDIO_PIPES)
        system.start()
        yield Lives(host, talker, later)


def restarted(host: Host) -> None:
    host.kill_daemon()
    host.start_daemon()


def test_a_newer_lxcd_upgrades_the_keeper(host: Host, busybox_root: Path) -> None:
    with lives(host, busybox_root) as lived:
        assert build_of(lived.keeper) == launch.own_build()
        package(host, "newer", version("99.1"))
        restarted(host)
        assert build_of(lived.keeper).startswith("99.1+")
        reply = host.channel().host.GetHost(host_pb2.GetHostRequest(), timeout=DEADLINE)
        assert (reply.version, reply.keeper_pid) == ("99.1", lived.keeper)
        lived.go_on()
        # From the next start on it is just there.
        restarted(host)
        lived.go_on()
        lived.end()
        assert not events(host.channel(), "daemon.keeper_lost")


def test_other_code_of_the_same_version_upgrades_the_keeper(host: Host, busybox_root: Path) -> None:
    """A package was built again, or somebody develops lxcd."""
    with lives(host, busybox_root) as lived:
        package(host, "other", ("keeper/ring.py", lambda text: f"{text}\n# another\n"))
        restarted(host)
        build = build_of(lived.keeper)
        assert build != launch.own_build()
        assert build.startswith(f"{__version__}+")
        lived.go_on()
        lived.end()


def test_an_older_lxcd_goes_on_with_a_newer_keeper(host: Host, busybox_root: Path) -> None:
    with lives(host, busybox_root) as lived:
        package(host, "newer", version("99.1"))
        restarted(host)
        newer = build_of(lived.keeper)
        package(host, "older", version("99.0.5"))
        restarted(host)
        assert build_of(lived.keeper) == newer
        lived.go_on()
        # Lost, it is replaced by what this lxcd has.
        kill_waiting_keeper(host, lived.keeper)
        assert build_of(next_keeper(host, lived.keeper)).startswith("99.0.5+")
        lived.go_on(keeper=False)
        lived.end()


def test_an_exec_goes_on_through_an_upgrade_of_lxcd_alone(host: Host, busybox_root: Path) -> None:
    """The keeper that replaces a lost one while lxcd stays is of lxcd's build, too."""
    with lives(host, busybox_root) as lived:
        words = ["/bin/sh", "-c", "seq 1 1000; cat /mnt/later2; seq 1001 2000; exit 9"]
        share(host, "later2")
        request = exec_pb2.RunExecRequest(container=lived.later.name, command=words)
        call = lived.later.api.exec.RunExec.future(request, timeout=DEADLINE)
        until(lambda: bool(running(host, "cat /mnt/later2")), "it waits")
        at_rest(lived.keeper)
        kill_waiting_keeper(host, lived.keeper)
        assert build_of(next_keeper(host, lived.keeper)) == launch.own_build()
        go(host, "later2")
        done = call.result()
        assert done.stdout == b"".join(b"%d\n" % number for number in range(1, 2001))
        assert done.exit.code == 9
        lived.go_on(keeper=False)
        lived.end()


def test_a_newer_lxcd_that_speaks_another_protocol_upgrades_the_keeper(
    host: Host, busybox_root: Path
) -> None:
    with lives(host, busybox_root) as lived:
        package(host, "newer", version("99.2"), protocol(+1))
        restarted(host)
        assert build_of(lived.keeper).startswith("99.2+")
        lived.go_on()
        lived.end()


def test_an_older_lxcd_that_speaks_another_protocol_says_so_and_harms_nothing(
    host: Host, busybox_root: Path
) -> None:
    with lives(host, busybox_root) as lived:
        package(host, "older", version("0.0.1"), protocol(-1))
        host.kill_daemon()
        done = attempt(host)
        assert done is not None, "it serves"
        # The one that it belongs to finds all as it was.
        host.environment["PYTHONPATH"] = str(CHECKOUT)
        host.start_daemon()
        done.is_one_message()
        assert launch.own_build() in done.text
        assert "0.0.1" in done.text
        lived.go_on()
        lived.end()


def test_an_upgrade_that_fails_leaves_all_as_it_is(host: Host, busybox_root: Path) -> None:
    with lives(host, busybox_root) as lived:
        old = build_of(lived.keeper)
        top = package(
            host,
            "broken",
            version("99.3"),
            ("keeper/upgrade.py", lambda text: f"raise RuntimeError('on purpose')\n{text}"),
        )
        restarted(host)
        assert build_of(lived.keeper) == old
        assert "could not be upgraded" in host.log_text()
        lived.go_on()
        # Repaired, it is done at the next start.
        edit(top, "keeper/upgrade.py", lambda text: text.partition("\n")[2])
        restarted(host)
        assert build_of(lived.keeper).startswith("99.3+")
        lived.go_on()
        lived.end()


_IMPATIENT = (
    "supervisor/joining.py",
    lambda text: text.replace("_CANDIDATE_SECONDS = 30.0", "_CANDIDATE_SECONDS = 0.5"),
)
_HANGS = 'import signal; print("it hangs", file=sys.stderr); [signal.pause() for _ in iter(int, 1)]'


def _hanging(before: str) -> tuple[str, Callable[[str], str]]:
    """A candidate that goes on no further than to this line of `upgrade.stand`."""

    def changed(text: str) -> str:
        head, line, rest = text.rpartition(f"    {before}")
        return f"{head}    {_HANGS}\n{line}{rest}"

    return "keeper/upgrade.py", changed


def _repaired(text: str) -> str:
    return text.replace(f"    {_HANGS}\n", "")


@pytest.mark.parametrize("before", ["data, fds = kernel_fd.receive(", "answer = json.dumps("])
def test_a_candidate_that_hangs_is_killed_and_the_next_takes_its_place(
    host: Host, busybox_root: Path, before: str
) -> None:
    """It has not asked for the state yet, or has it and says nothing."""
    with lives(host, busybox_root) as lived:
        old = build_of(lived.keeper)
        top = package(host, "hangs", version("99.5"), _IMPATIENT, _hanging(before))
        restarted(host)
        assert build_of(lived.keeper) == old
        assert "hangs: it is killed" in host.log_text()
        assert "another upgrade is under way" not in host.log_text()
        lived.go_on()
        # Neither it nor the next one, which hangs as well, stands in the way of one that does not.
        restarted(host)
        lived.go_on()
        edit(top, "supervisor/joining.py", lambda text: text.replace("= 0.5", "= 30.0"))
        edit(top, "keeper/upgrade.py", _repaired)
        restarted(host)
        assert build_of(lived.keeper).startswith("99.5+")
        assert "another upgrade is under way" not in host.log_text()
        lived.go_on()
        lived.end()


def test_a_candidate_that_hangs_ends_with_its_lxcd(host: Host, busybox_root: Path) -> None:
    with lives(host, busybox_root) as lived:
        top = package(host, "hangs", version("99.6"), _hanging("answer = json.dumps("))
        host.kill_daemon()
        argv = [sys.executable, "-m", "lxcd", *host.roots]
        pid = host.machine.spawn(argv, host.environment, host.log)
        log = host.run_dir / "private/keeper.log"
        # It has been asked, so the keeper has it.
        until(lambda: "it hangs" in log.read_text(), "the candidate hangs")
        host.machine.kill(pid)
        host.machine.wait(pid)
        edit(top, "keeper/upgrade.py", _repaired)
        host.start_daemon()
        assert build_of(lived.keeper).startswith("99.6+")
        lived.go_on()
        lived.end()


def test_a_keeper_that_dies_while_it_is_upgraded(host: Host, busybox_root: Path) -> None:
    """The new image dies with all that the old one held, and no lxcd holds copies yet: as when both are killed at once."""
    line = share(host, "later")
    with defined(host, application(host, busybox_root, "later", line), f"{TAG}later") as later:
        later.start(*ends_with(37, "later"))
        pid, keeper = later.info().pid, host.keeper_pid
        package(
            host,
            "deadly",
            version("99.4"),
            (
                "keeper/__main__.py",
                lambda text: text.replace(
                    "    os.set_inheritable(memfd, False)\n", "    os.kill(os.getpid(), 9)\n", 1
                ),
            ),
        )
        host.kill_daemon()
        done = attempt(host)
        if done is not None:
            host.start_daemon()
            # It may give up; then it says so, and does not promise what nobody will do.
            done.is_one_message()
            assert "on its way" not in done.text
        assert settled(host)[later.name] == "RUNNING"
        assert later.info().pid == pid
        assert host.keeper_pid not in (0, keeper)
        in_order(host, host.keeper_pid)
        go(host, "later")
        later.wait(generation=1)
        assert how(later) == ("code", 37, "CAUSE_SELF")
