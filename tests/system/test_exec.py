"""Commands that join a container: every byte, every status, nothing of the host, nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lxcd.v1 import container_pb2, exec_pb2
from tests.system import ledger, sessions
from tests.system.boxes import Box, defined
from tests.system.calls import application, idle, large_messages, refused, seconds
from tests.system.host import Host
from tests.system.machine import DEADLINE, until

# All byte values, and more than any pipe or ring holds.
FIVE_MEGABYTES = bytes(range(256)) * (5 * 4096)
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


@pytest.fixture(scope="module")
def app(shared_host: Host, busybox_root: Path) -> Iterator[Box]:
    with idle(shared_host, busybox_root, "app") as made:
        yield made


def _processes(made: Box) -> dict[int, list[str]]:
    request = container_pb2.ListProcessesRequest(names=[made.name])
    found = made.api.container.ListProcesses(request, timeout=DEADLINE)
    return {process.pid: list(process.command) for process in found.processes}


def _running(made: Box, *command: str) -> tuple[Any, int]:
    """An exec that goes on, and its pid on the host."""
    request = exec_pb2.RunExecRequest(container=made.name, command=command)
    call = made.api.exec.RunExec.future(request, timeout=DEADLINE)
    pids: list[int] = []

    def there() -> bool:
        pids[:] = [pid for pid, words in _processes(made).items() if words == list(command)]
        return bool(pids)

    until(there, f"{command} runs in {made.name}")
    return call, pids[0]


def test_who_is_on_its_way_out_of_the_keeper_is_nobodys_process(app: Box, tmp_path: Path) -> None:
    """What a start leaves behind for a moment: it has a name of its own, and no pid inside."""
    info = app.info()
    # A map has no order, and not every directory takes processes: in version 2 they sit below it.
    files = (file for top in info.cgroups.values() for file in Path(top).rglob("cgroup.procs"))
    procs = next(file for file in files if str(info.pid) in file.read_text().split())
    found: dict[str, bool] = {}
    for name in ("somebody", "lxcd-walker"):
        program = tmp_path / name
        shutil.copy("/bin/sleep", program)
        with subprocess.Popen([program, "1000"]) as process:
            try:
                procs.write_text(str(process.pid))
                found[name] = process.pid in _processes(app)
            finally:
                process.kill()
    assert found == {"somebody": True, "lxcd-walker": False}


# Bytes and status


def test_a_short_command_never_loses_its_output_or_its_status(app: Box) -> None:
    wrong = []
    for number in range(200):
        done = app.run("/bin/sh", "-c", f"echo out {number}; echo err {number} >&2; exit {number}")
        expected = (f"out {number}\n".encode(), f"err {number}\n".encode(), number)
        if (done.stdout, done.stderr, done.exit.code) != expected:
            wrong.append((number, done.stdout, done.stderr, done.exit.code))
    assert wrong == []


def test_every_byte_comes_back_through_stdin_and_stdout(app: Box, shared_host: Host) -> None:
    request = exec_pb2.RunExecRequest(
        container=app.name, command=["/bin/cat"], stdin=FIVE_MEGABYTES
    )
    with large_messages(shared_host) as stub:
        done = stub.RunExec(request, timeout=DEADLINE)
    assert done.exit.code == 0
    assert done.stdout == FIVE_MEGABYTES
    assert done.stderr == b""


def test_every_byte_comes_back_through_stderr(app: Box, shared_host: Host) -> None:
    words = ["/bin/sh", "-c", "cat >&2; echo end"]
    request = exec_pb2.RunExecRequest(container=app.name, command=words, stdin=FIVE_MEGABYTES)
    with large_messages(shared_host) as stub:
        done = stub.RunExec(request, timeout=DEADLINE)
    assert (done.stdout, done.exit.code) == (b"end\n", 0)
    assert done.stderr == FIVE_MEGABYTES


def test_lxcctl_exec_passes_five_megabytes_and_the_status(app: Box, shared_host: Host) -> None:
    words = ("exec", app.name, "--", "/bin/sh", "-c", "cat; exit 42")
    done = shared_host.ctl_bytes(*words, input=FIVE_MEGABYTES, check=False)
    assert done.returncode == 42, done.stderr
    assert done.stdout == FIVE_MEGABYTES


def test_input_that_nobody_reads_is_no_error(app: Box) -> None:
    done = app.run("/bin/sh", "-c", "exit 5", stdin=FIVE_MEGABYTES)
    assert done.exit.code == 5


def test_a_command_that_writes_too_much_is_killed_and_that_is_said(app: Box) -> None:
    done = app.run("/bin/busybox", "yes", max_output_bytes=1000)
    assert done.output_truncated
    assert done.stdout == b"y\n" * 500
    assert done.exit.signal == signal.SIGKILL
    assert not done.timed_out


def test_output_of_exactly_the_limit_is_whole(app: Box) -> None:
    done = app.run("/bin/sh", "-c", "yes | head -c 1000", max_output_bytes=1000)
    assert (len(done.stdout), done.output_truncated, done.exit.code) == (1000, False, 0)


def test_a_command_is_killed_by_its_time_out(app: Box) -> None:
    done = app.run("/bin/sh", "-c", "echo begun; exec sleep 100000", timeout=seconds(0.5))
    assert done.timed_out
    assert done.exit.signal == signal.SIGKILL
    assert ["sleep", "100000"] not in _processes(app).values()


def test_a_negative_time_out_is_refused(app: Box) -> None:
    error = refused(lambda: app.run("/bin/true", timeout=seconds(-1)))
    assert error.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_signal_that_ends_a_command_is_told_apart_from_a_code(app: Box, number: int) -> None:
    done = app.run("/bin/sh", "-c", f"kill -{int(number)} $$")
    assert done.exit.WhichOneof("how") == "signal"
    assert done.exit.signal == number
    ctl = app.host.ctl("exec", app.name, "--", "/bin/sh", "-c", f"kill -{number} $$", check=False)
    assert ctl.returncode == 128 + number


@pytest.mark.parametrize(
    ("command", "code"),
    [("/no/such", 127), ("no-such", 127), ("/etc/passwd", 126), ("/etc", 126)],
)
def test_what_cannot_be_run_is_an_exit_status_and_no_error(
    app: Box, command: str, code: int
) -> None:
    done = app.run(command)
    assert done.exit.code == code
    assert command in done.stderr.decode()
    assert app.host.ctl("exec", app.name, "--", command, check=False).returncode == code


@pytest.mark.parametrize("command", [(), ("",), ("/bin/echo", "a\0b")])
def test_a_command_that_is_none_is_refused(app: Box, command: tuple[str, ...]) -> None:
    assert refused(lambda: app.run(*command)).code == "INVALID_ARGUMENT"


def test_a_background_child_does_not_hold_the_exec(app: Box) -> None:
    done = app.run("/bin/sh", "-c", "sleep 99999 & echo begun")
    assert (done.stdout, done.exit.code) == (b"begun\n", 0)
    left: list[int] = []

    def there() -> bool:
        left[:] = [pid for pid, words in _processes(app).items() if words == ["sleep", "99999"]]
        return bool(left)

    # The shell has not waited for its exec, either.
    until(there, "it goes on in the background")
    os.kill(left[0], signal.SIGKILL)


# Where and who


def test_a_command_starts_in_the_home_of_its_user(app: Box) -> None:
    assert app.sh("pwd") == "/root"
    assert app.run("/bin/pwd", user="nobody").stdout == b"/\n"


def test_cwd_and_environment_are_as_asked_for(app: Box) -> None:
    done = app.run("/bin/sh", "-c", 'pwd; echo "$A"; echo "$HOME"', env=["A=b = c"], cwd="/var/log")
    assert done.stdout == b"/var/log\nb = c\n/root\n"
    names = {line.partition("=")[0] for line in app.sh("env").splitlines()}
    # Nothing of the daemon's own environment.
    assert not names & {ledger.MARK, "PYTHONPATH", "LXCD_ADDRESS", "TMPDIR"}


@pytest.mark.parametrize("variable", ["A", "=b", "", "A=b\0c"])
def test_what_is_no_variable_is_refused(app: Box, variable: str) -> None:
    assert refused(lambda: app.run("/bin/true", env=[variable])).code == "INVALID_ARGUMENT"


def test_a_directory_that_is_missing_or_relative_is_refused(app: Box) -> None:
    missing = refused(lambda: app.run("/bin/true", cwd="/no/such"))
    assert missing.metadata["syscall"] == "chdir"
    assert "/no/such" in missing.text
    assert refused(lambda: app.run("/bin/true", cwd="var")).code == "INVALID_ARGUMENT"


@pytest.mark.parametrize("process", ["self", "thread-self"])
def test_no_descriptor_of_the_daemon_is_a_way_out(app: Box, process: str) -> None:
    # CVE-2024-21626: a directory of the host, held open by whoever execs.
    for number in range(24):
        where = f"/proc/{process}/fd/{number}"
        error = refused(lambda where=where: app.run("/bin/ls", "..", cwd=where))  # type: ignore[misc]
        assert error.metadata["syscall"] in ("chdir", "getcwd"), number


def test_the_program_sees_no_descriptor_but_its_three(app: Box) -> None:
    script = "for n in $(seq 0 300); do [ -e /proc/$$/fd/$n ] && echo $n; done; true"
    assert app.sh(script).split() == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", "0 0"),
        ("root", "0 0"),
        ("0", "0 0"),
        ("nobody", "65534 65534"),
        ("65534", "65534 65534"),
        ("nobody:tty", "65534 5"),
        ("1234:5678", "1234 5678"),
        ("1234", "1234 0"),
    ],
)
def test_a_user_is_one_of_the_containers_own(app: Box, user: str, expected: str) -> None:
    assert app.run("/bin/sh", "-c", "echo $(id -u) $(id -g)", user=user).stdout.decode() == (
        f"{expected}\n"
    )


@pytest.mark.parametrize(
    "user",
    [
        "nosuch",
        "root:nosuch",
        "root:",
        ":root",
        "4294967295",
        "99999999999",
        "-1",
        "a\0b",
        "root\n",
    ],
)
def test_a_user_that_is_none_is_refused(app: Box, user: str) -> None:
    assert refused(lambda: app.run("/bin/id", user=user)).code == "INVALID_ARGUMENT"


_SHELLS = """\
root:x:0:0::/:/bin/its-own
plain:x:1:1::/:
relative:x:2:2::/:sh
gone:x:3:3::/:/no/such
locked:x:4:4::/:/etc/passwd
named:x:5:5::/:/tmp
linked:x:6:6::/:/etc/shell
"""


def test_without_a_command_it_is_the_users_shell(shared_host: Host, busybox_root: Path) -> None:
    with idle(shared_host, busybox_root, "shells") as made:
        made.sh("printf '#!/bin/sh\necho its own\n' > /bin/its-own; chmod 755 /bin/its-own")
        made.sh(f"ln -s /bin/its-own /etc/shell; printf '{_SHELLS}' > /etc/passwd")
        for user, shell in (
            ("", "/bin/its-own"),
            ("plain", "/bin/sh"),
            ("relative", "/bin/sh"),
            ("gone", "/bin/sh"),
            ("locked", "/bin/sh"),
            ("named", "/bin/sh"),
            ("linked", "/etc/shell"),
            ("1234", "/bin/sh"),
        ):
            found = sessions.create(made, user=user)
            assert list(found.command) == [shell], user
            sessions.delete(made.api, found.id)
        only = sessions.create(made, namespaces=["net"])
        assert list(only.command) == ["/bin/sh"]
        sessions.delete(made.api, only.id)
        assert made.host.ctl("exec", made.name).stdout == "its own\n"


@pytest.mark.parametrize(
    "make",
    [
        "mkfifo /etc/passwd",
        "ln -s /etc/shadow.host /etc/passwd",
        "ln -s ../../../../../../etc/hosts /etc/passwd",
        "ln -s /proc/1/root/etc/hosts /etc/passwd",
        "ln -s passwd /etc/passwd",
        "ln -s /dev/zero /etc/passwd",
        "mkdir /etc/passwd",
        "head -c 20000000 /dev/zero > /etc/passwd",
        "yes root:x:0:0::/:/bin/sh | head -c 20000000 > /etc/passwd",
        "head -c 100000 /dev/urandom > /etc/passwd",
        r"printf 'root:x:0:0:\377:/\377\376:/bin/\377\n\n::::::\nroot\n' > /etc/passwd",
        "printf 'root:x:99999999999999999999:x::/:/bin/sh\n' > /etc/passwd",
    ],
)
def test_a_hostile_passwd_neither_blocks_an_exec_nor_shows_anything(
    shared_host: Host, busybox_root: Path, make: str
) -> None:
    with idle(shared_host, busybox_root, "hostile") as made:
        made.sh(f"rm -rf /etc/passwd; {make}")
        # The host's own users are no users here, whatever the link points at.
        assert refused(lambda: made.run("/bin/id", user="daemon")).code == "INVALID_ARGUMENT"
        # Not `id`: it would read that file itself.
        assert made.sh("grep Uid: /proc/self/status").split()[1:] == ["0"] * 4


# As the container itself


def test_an_exec_is_in_every_namespace_and_cgroup_of_its_container(app: Box) -> None:
    init = app.info().pid
    call, pid = _running(app, "/bin/sleep", "77777")
    try:
        for name in NAMESPACES:
            assert os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/{init}/ns/{name}")
        assert Path(f"/proc/{pid}/cgroup").read_text() == Path(f"/proc/{init}/cgroup").read_text()
        assert os.stat(f"/proc/{pid}/root/").st_ino == os.stat(f"/proc/{init}/root/").st_ino
    finally:
        os.kill(pid, signal.SIGKILL)
    assert call.result().exit.signal == signal.SIGKILL


def test_an_exec_has_no_right_that_its_container_lacks(
    shared_host: Host, busybox_root: Path
) -> None:
    lines = ("lxc.cap.keep = chown kill", "lxc.no_new_privs = 1")
    with idle(shared_host, busybox_root, "limited", *lines) as made:
        status = dict(
            line.split(":\t", 1)
            for line in made.sh("cat /proc/self/status").splitlines()
            if ":\t" in line
        )
    for which in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status[which], 16) == 1 << 0 | 1 << 5, which
    assert int(status["CapInh"], 16) == 0
    assert status["NoNewPrivs"] == "1"


def test_an_exec_in_a_mapped_container_is_mapped_root(shared_host: Host) -> None:
    with defined(shared_host, "", "mapped") as made:
        made.start("/bin/sleep", "100000")
        call, pid = _running(made, "/bin/sleep", "77777")
        uids = Path(f"/proc/{pid}/status").read_text().split("Uid:\t")[1].split("\n")[0].split()
        first = int(Path(f"/proc/{pid}/uid_map").read_text().split()[1])
        assert first > 0
        assert {int(uid) for uid in uids} == {first}
        assert made.sh("id -u; id -g") == "0\n0"
        os.kill(pid, signal.SIGKILL)
        call.result()


@pytest.mark.parametrize("target", ["1", "self"])
def test_the_program_that_a_container_runs_in_cannot_be_overwritten_from_inside(
    app: Box, target: str
) -> None:
    # CVE-2019-5736. The container is privileged: only the keeper's own mount tree protects the host. The exec's
    # program is the container's own and busy.
    script = f"exec 3>>/proc/{target}/exe"
    assert app.run("/bin/sh", "-c", script).exit.code != 0
    links = app.run("/bin/sh", "-c", "for l in /proc/1/map_files/*; do (: 3>>$l) && echo $l; done")
    assert links.stdout == b""


# Beginning and end


def test_two_hundred_execs_leak_no_descriptor(app: Box, shared_host: Host) -> None:
    pids = (shared_host.daemon, shared_host.keeper_pid)

    def held() -> list[dict[str, int]]:
        return [ledger.descriptors(pid) for pid in pids if pid is not None]

    app.sh("true")
    before = held()
    for _ in range(200):
        app.run("/bin/true")

    def grown() -> list[str]:
        # Fewer are none of the execs': children that wait to become a container come and go by themselves.
        return [
            f"{kind}: {number} of {then.get(kind, 0)}"
            for then, now in zip(before, held(), strict=True)
            for kind, number in now.items()
            if number > then.get(kind, 0)
        ]

    until(lambda: not grown(), f"not more of {before}", 30)


def test_a_caller_that_goes_away_takes_its_command_along(app: Box) -> None:
    call, pid = _running(app, "/bin/sleep", "66666")
    call.cancel()
    until(lambda: pid not in _processes(app), "the command has ended")


def test_an_exec_ends_with_its_container(shared_host: Host, busybox_root: Path) -> None:
    with defined(shared_host, application(shared_host, busybox_root, "short"), "short") as made:
        for stop in (lambda: made.stop(kill=True), lambda: made.delete(force=True)):
            made.start("/bin/sleep", "100000")
            call, _ = _running(made, "/bin/sleep", "55555")
            stop()
            assert call.result(DEADLINE).exit.signal == signal.SIGKILL


def test_an_exec_wants_a_container_that_runs(shared_host: Host, busybox_root: Path) -> None:
    with defined(shared_host, application(shared_host, busybox_root, "still"), "still") as made:
        assert refused(lambda: made.run("/bin/true")).reason == "CONTAINER_NOT_RUNNING"
        assert shared_host.ctl("exec", "still", "--", "true", check=False).returncode == 4
        made.start("/bin/sleep", "100000")
        shared_host.ctl("freeze", "still")
        assert refused(lambda: made.run("/bin/true")).code == "FAILED_PRECONDITION"
        shared_host.ctl("thaw", "still")
        assert made.sh("echo on") == "on"
    assert shared_host.ctl("exec", "nosuch", "--", "true", check=False).returncode == 3
