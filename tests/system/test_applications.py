"""Single commands as containers: `run`, the reaping PID 1, the image `host`."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from lxcd.v1 import types_pb2
from tests.system.boxes import KERNEL_MOUNTS, Box, Refused, box, defined, info, over
from tests.system.host import Host
from tests.system.machine import DEADLINE, until


def _run(
    host: Host, *command: str, options: tuple[str, ...] = (), check: bool = False
) -> subprocess.CompletedProcess[bytes]:
    return host.ctl_bytes("run", "host", "--rm", *options, "--", *command, check=check)


def _sh(host: Host, script: str) -> str:
    return _run(host, "sh", "-c", script, check=True).stdout.decode()


@contextmanager
def _client(host: Host, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """An lxcctl that goes on meanwhile; killed at the end if it still does."""
    client = subprocess.Popen(
        host.ctl_argv(*arguments),
        env=host.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    with client:
        try:
            yield client
        finally:
            client.kill()


# what it is


def test_run_is_root_in_a_user_namespace_of_its_own(shared_host: Host) -> None:
    done = _run(shared_host, "id")
    assert done.returncode == 0
    assert done.stdout.startswith(b"uid=0(root) gid=0(root)")
    first, host_first, count = _sh(shared_host, "cat /proc/self/uid_map").split()
    assert (first, count) == ("0", "65536")
    assert int(host_first) >= 1_000_000


def test_usr_is_the_host_s_and_cannot_be_written(shared_host: Host) -> None:
    assert "Read-only" in _sh(shared_host, "touch /usr/bin/x 2>&1 || true")


def test_none_of_the_host_s_secrets_are_there(shared_host: Host) -> None:
    secret = Path("/etc/shadow").read_bytes()
    seen = _run(shared_host, "cat", "/etc/shadow").stdout
    assert seen != secret
    assert seen == b"root:*:19000:0:99999:7:::\n"
    assert _sh(shared_host, "ls -A /root /home /var/tmp /tmp | grep -v :") in ("", "\n\n\n")
    for place in (shared_host.root, Path.cwd(), Path("/etc/ssl/private")):
        assert _run(shared_host, "test", "-e", str(place)).returncode == 1


def test_the_environment_is_clean(shared_host: Host) -> None:
    shared_host.environment["SECRET_OF_THE_CALLER"] = "x"
    try:
        names = {line.partition("=")[0] for line in _sh(shared_host, "env").splitlines()}
    finally:
        del shared_host.environment["SECRET_OF_THE_CALLER"]
    assert names <= {"PATH", "HOME", "TERM", "LANG", "container", "PWD", "SHLVL", "_", "OLDPWD"}
    assert {"PATH", "HOME", "container"} <= names


# how it ends, what it says


@pytest.mark.parametrize("code", [0, 1, 77, 255])
def test_the_exit_status_is_the_command_s(shared_host: Host, code: int) -> None:
    assert _run(shared_host, "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV", "HUP", "INT"])
def test_a_signal_is_128_and_its_number(shared_host: Host, name: str) -> None:
    # A child of the shell's would do; it is the command itself that must die of it.
    number = getattr(signal, f"SIG{name}")
    assert _run(shared_host, "sh", "-c", f"ulimit -c 0; kill -{name} $$").returncode == 128 + number


def test_126_and_127_as_a_shell_has_them(shared_host: Host) -> None:
    missing = _run(shared_host, "no-such-command")
    assert missing.returncode == 127
    assert b"no-such-command" in missing.stderr
    assert _run(shared_host, "/etc/passwd").returncode == 126
    assert _run(shared_host, "/etc").returncode == 126


def test_stdout_and_stderr_stay_apart_byte_for_byte(shared_host: Host) -> None:
    script = (
        "import os\n"
        "every = bytes(range(256)) * 1000\n"
        "for start in range(0, len(every), 4096):\n"
        "    os.write(1, every[start:start + 4096])\n"
        "    os.write(2, every[start:start + 4096][::-1])\n"
    )
    done = _run(shared_host, "/usr/bin/python3", "-c", script)
    every = bytes(range(256)) * 1000
    backwards = b"".join(every[start : start + 4096][::-1] for start in range(0, len(every), 4096))
    assert done.returncode == 0
    assert done.stdout == every
    assert done.stderr == backwards


def test_output_larger_than_any_buffer_arrives_whole(shared_host: Host) -> None:
    done = _run(shared_host, "sh", "-c", "seq 1 400000")
    assert done.stdout == b"".join(b"%d\n" % n for n in range(1, 400001))


# exec has the same rules


@pytest.fixture
def running(shared_host: Host, busybox_root: Path) -> Iterator[Box]:
    config = over(shared_host, busybox_root) + KERNEL_MOUNTS
    with box(shared_host, config, "box", "/bin/sleep", "1000") as made:
        yield made


def test_exec_exits_with_its_command_s_status(running: Box) -> None:
    host = running.host
    for script, status in (("exit 3", 3), ("kill -TERM $$", 143), ("exit 0", 0)):
        assert host.ctl("exec", "box", "--", "sh", "-c", script, check=False).returncode == status
    assert host.ctl("exec", "box", "--", "no-such", check=False).returncode == 127
    assert host.ctl("exec", "box", "--", "/etc/passwd", check=False).returncode == 126
    assert host.ctl("exec", "nobody", "--", "true", check=False).returncode == 3


def test_exec_carries_stdin_stdout_stderr_unchanged(running: Box) -> None:
    data = os.urandom(300_000)
    done = running.host.ctl_bytes("exec", "box", "--", "sh", "-c", "tee /dev/stderr", input=data)
    assert done.stdout == data
    assert done.stderr == data


def test_exec_as_a_user_in_a_directory_with_variables(running: Box) -> None:
    done = running.host.ctl(
        *("exec", "box", "--user", "nobody", "--cwd", "/tmp", "--env", "A=b c", "--"),
        *("sh", "-c", "id -u; pwd; echo $A"),
    )
    assert done.stdout == "65534\n/tmp\nb c\n"
    assert (
        running.host.ctl("exec", "box", "--user", "nobody9", "--", "id", check=False).returncode
        == 2
    )


# PID 1 of an application


@pytest.fixture
def application(shared_host: Host) -> Iterator[Box]:
    """A command of the host image that waits, in a container that is defined."""
    with defined(shared_host, "", "app") as made:
        made.start("sleep", "1000")
        yield made


def test_pid_1_holds_no_descriptor_and_cannot_be_traced(application: Box) -> None:
    pid = application.info().pid
    assert os.listdir(f"/proc/{pid}/fd") == []
    assert Path(f"/proc/{pid}/comm").read_text() == "lxc-init\n"
    # Not dumpable: its files of /proc belong to the host's root, and nobody inside reads them.
    assert Path(f"/proc/{pid}/environ").stat().st_uid == 0
    for place in ("fd", "environ", "mem", "exe"):
        done = application.run("sh", "-c", f"cat /proc/1/{place} 2>&1; ls /proc/1/{place}/ 2>&1")
        assert b"denied" in done.stdout, place


def test_pid_1_reaps_orphans(application: Box) -> None:
    application.sh("(sleep 0 & sleep 0 & (sleep 0 &) ) ; true")
    pid = application.info().pid

    def children() -> list[str]:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    until(lambda: len(children()) == 1, "only the command is left below PID 1")


_DAEMON = """\
import os, signal, sys
if os.fork():
    sys.exit(5)
os.setsid()
if os.fork():
    os._exit(0)
for number in range(3):
    os.close(number)
open("/run/daemon.pid", "w").write(str(os.getpid()))
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    signal.pause()
"""


def test_a_command_that_daemonises_keeps_the_container_up_until_stop(shared_host: Host) -> None:
    with defined(shared_host, "", "sshd") as made:
        made.start("/usr/bin/python3", "-c", _DAEMON)
        until(lambda: bool(made.run("cat", "/run/daemon.pid").stdout), "the daemon runs")
        pid = made.info().pid

        def alone() -> bool:
            return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()) == 1

        until(alone, "the first command has ended, and its daemon belongs to PID 1")
        assert made.info().state == types_pb2.STATE_RUNNING
        stopped = made.stop()
        assert (stopped.method, stopped.killed) == ("SIGTERM (application)", False)
        # The status is the first command's, however long ago it ended.
        assert stopped.exit.code == 5


def test_signals_of_the_client_reach_the_command(shared_host: Host) -> None:
    script = 'sleep 1000 & trap "echo bye; kill $!; exit 4" TERM; echo ready; wait'
    with _client(shared_host, "run", "host", "--rm", "--", "sh", "-c", script) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        client.send_signal(signal.SIGTERM)
        out, _ = client.communicate(timeout=DEADLINE)
        assert out == b"bye\n"
        assert client.returncode == 4


def test_stop_reaches_what_the_command_left_behind(shared_host: Host) -> None:
    # SIGTERM ends the shell; its `sleep`, which nobody told, would keep the container up to the time-out.
    with defined(shared_host, "", "family") as made:
        made.start("sh", "-c", "sleep 1000; true")
        until(lambda: made.run("pidof", "sleep").exit.code == 0, "the shell's child runs")
        stopped = made.stop(timeout=Duration(seconds=10))
        assert not stopped.killed, stopped.method


# nothing is left, everything is known meanwhile


def test_rm_leaves_nothing(host: Host) -> None:
    def left() -> list[str]:
        # os.walk passes over what vanishes while it looks.
        places = (host.lxcpath, host.state_dir / "transient")
        return [
            name for top in places for _, *names in os.walk(top) for part in names for name in part
        ]

    _run(host, "sh", "-c", "echo > /root/x; exit 1", options=("--name", "temp"))
    until(lambda: left() == [], "nothing is left")
    assert host.ctl("list", "-1").stdout == ""
    assert host.ctl("info", "temp", check=False).returncode == 3


def test_without_rm_the_container_stays_and_starts_again(host: Host) -> None:
    done = host.ctl("run", "host", "--name", "kept", "--", "sh", "-c", "echo one > /root/file")
    assert done.returncode == 0
    found = info(host, "kept")
    assert (found["state"], found["exit"]["code"], found["defined"]) == ("STOPPED", 0, True)
    assert (host.lxcpath / "kept/rootfs/root/file").read_text() == "one\n"
    assert host.ctl("run", "host", "--name", "kept", "--", "true", check=False).returncode == 4
    host.ctl("delete", "kept")


def test_an_undefined_container_is_known_by_name_until_it_ends(host: Host) -> None:
    command = ("sh", "-c", "echo up; exec sleep 1000")
    with _client(host, "run", "host", "--rm", "--name", "002", "--", *command) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        assert host.ctl("list", "-1").stdout == "002\n"
        found = info(host, "002")
        assert (found["name"], found["state"], found["defined"]) == ("002", "RUNNING", False)
        assert host.ctl("exec", "002", "--", "hostname").stdout == "002\n"
        assert "SIGTERM (application)" in host.ctl("stop", "002").stderr
        client.communicate(timeout=DEADLINE)
        assert client.returncode == 128 + signal.SIGTERM
    until(lambda: host.ctl("list", "-1").stdout == "", "it is gone")


def test_an_image_that_is_not_there_is_named(shared_host: Host) -> None:
    done = shared_host.ctl("run", "no-such-image", "--rm", "--", "true", check=False)
    assert done.returncode == 3
    assert "no-such-image" in done.stderr
    assert shared_host.ctl("list", "-1").stdout == ""


def test_two_mapped_containers_share_no_ids(shared_host: Host) -> None:
    with defined(shared_host, "", "a") as one, defined(shared_host, "", "b") as other:
        one.start("sleep", "1000")
        other.start("sleep", "1000")
        maps = {made.sh("cat /proc/self/uid_map").split()[1] for made in (one, other)}
        assert len(maps) == 2


def test_a_refused_exec_names_its_reason(shared_host: Host) -> None:
    with defined(shared_host, "", "down") as made:
        with pytest.raises(Refused) as caught:
            made.run("true")
        assert caught.value.reason == "CONTAINER_NOT_RUNNING"
