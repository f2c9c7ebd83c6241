"""Every key in force does what it says, seen from inside: everything but mounts (`test_mount_keys`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from lxcd.v1 import container_pb2
from tests.system.boxes import KERNEL_MOUNTS, Box, Refused, box, busybox_up, defined, over
from tests.system.host import Host

pytestmark = pytest.mark.vm

Start = Callable[..., AbstractContextManager[Box]]


@pytest.fixture
def start(shared_host: Host, busybox_root: Path) -> Start:
    """Start a busybox container with these lines, and /proc and /sys."""
    return lambda *lines: box(
        shared_host, over(shared_host, busybox_root) + KERNEL_MOUNTS + "\n".join(lines) + "\n"
    )


def _status(made: Box, field: str, pid: str = "1") -> str:
    for line in made.sh(f"cat /proc/{pid}/status").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return value.strip()
    raise AssertionError(field)


def _refused(host: Host, root: Path, *lines: str) -> Refused:
    """A start that must fail; how."""
    text = over(host, root) + KERNEL_MOUNTS + "\n".join(lines) + "\n"
    with defined(host, text) as made:
        with pytest.raises(Refused) as caught:
            made.start()
        assert caught.value.reason == "START_FAILED", caught.value
        assert made.info().pid == 0
        return caught.value


# names and namespaces


def test_uts_name_is_the_host_name_inside_alone(start: Start) -> None:
    before = os.uname().nodename
    with start("lxc.uts.name = inside") as made:
        assert made.sh("hostname") == "inside"
    assert os.uname().nodename == before


def _namespace(made: Box, kind: str) -> tuple[str, str]:
    host_pid = made.info().pid
    return os.readlink(f"/proc/{host_pid}/ns/{kind}"), os.readlink(
        f"/proc/{made.host.machine.pid}/ns/{kind}"
    )


def test_by_default_every_namespace_but_user_and_time_is_its_own(start: Start) -> None:
    with start() as made:
        for kind in ("mnt", "pid", "uts", "ipc", "net", "cgroup"):
            inside, outside = _namespace(made, kind)
            assert inside != outside, kind
        for kind in ("user", "time"):
            inside, outside = _namespace(made, kind)
            assert inside == outside, kind
        assert made.sh("ls /sys/class/net") == "lo"
        assert "LOOPBACK,UP" in made.sh("ip link show lo")


def test_namespace_keep_leaves_those_alone(start: Start) -> None:
    with start("lxc.namespace.keep = net ipc") as made:
        for kind, same in (("net", True), ("ipc", True), ("pid", False), ("uts", False)):
            inside, outside = _namespace(made, kind)
            assert (inside == outside) == same, kind


def test_namespace_clone_makes_only_those(shared_host: Host, busybox_root: Path) -> None:
    config = over(shared_host, busybox_root) + "lxc.namespace.clone = mnt pid ipc uts\n"
    with box(shared_host, config) as made:
        for kind, same in (("net", True), ("cgroup", True), ("pid", False), ("ipc", False)):
            inside, outside = _namespace(made, kind)
            assert (inside == outside) == same, kind


def test_a_container_without_a_mount_namespace_is_refused(
    shared_host: Host, busybox_root: Path
) -> None:
    with pytest.raises(Refused) as caught:
        Box(shared_host, "box", over(shared_host, busybox_root) + "lxc.namespace.keep = mnt\n")
    assert caught.value.code == "INVALID_ARGUMENT"
    assert "box" not in shared_host.ctl("list", "-1").stdout.split()


def test_time_offsets_move_the_clocks_inside(start: Start) -> None:
    with start("lxc.time.offset.boot = 1000h", "lxc.time.offset.monotonic = 500h") as made:
        hours = float(made.sh("cut -d' ' -f1 /proc/uptime")) / 3600
        assert hours >= 1000
        assert float(Path("/proc/uptime").read_text().split()[0]) / 3600 < hours - 999
        offsets = [line.split() for line in made.sh("cat /proc/self/timens_offsets").splitlines()]
        assert {word: int(seconds) for word, seconds, _ in offsets} == {
            "monotonic": 500 * 3600,
            "boottime": 1000 * 3600,
        }


_KEYRING = """\
import ctypes
print(ctypes.CDLL(None).syscall(250, 0, -3, 0))  # keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, do not make)
"""


def _session_keyrings(host: Host, *lines: str) -> list[bytes]:
    """Which session keyring the command of each of two lives has."""
    found = []
    config = "lxc.rootfs.path = /\n" + "\n".join(lines) + "\n"
    with defined(host, config) as made:
        for generation in (1, 2):
            made.start("/usr/bin/python3", "-c", _KEYRING, stdio=container_pb2.STDIO_PIPES)
            assert made.wait(generation=generation).exit.code == 0
            found.append(made.log("stdout").strip())
    assert all(int(number) > 0 for number in found)
    return found


def test_keyring_session_decides_whose_keys_are_seen(shared_host: Host) -> None:
    first, second = _session_keyrings(shared_host)
    assert first != second
    # The name is LXC's, and says the opposite: 1 is to go without a keyring of its own.
    first, second = _session_keyrings(shared_host, "lxc.keyring.session = 1")
    assert first == second


# the first process


def test_init_cmd_cwd_uid_gid_groups(start: Start) -> None:
    lines = [
        "lxc.init.cmd = /bin/sh -c 'id; pwd; echo \"two  words\"; exec sleep 1000'",
        "lxc.init.cwd = /tmp",
        "lxc.init.uid = 1000",
        "lxc.init.gid = 1001",
        "lxc.init.groups = 1002,1003",
    ]
    with start(*lines) as made:
        shown = made.shows("two  words").decode()
        assert "uid=1000 gid=1001" in shown
        assert "/tmp\r\n" in shown
        assert _status(made, "Uid").split() == ["1000"] * 4
        assert _status(made, "Gid").split() == ["1001"] * 4
        assert set(_status(made, "Groups").split()) == {"1002", "1003"}
        assert made.info().command[0] == "/bin/sh"


def test_a_cwd_that_is_not_there_fails_with_its_line(shared_host: Host, busybox_root: Path) -> None:
    refused = _refused(shared_host, busybox_root, "lxc.init.cwd = /not/there")
    assert refused.metadata["errno"] == "ENOENT"
    assert "/not/there" in refused.text


def test_environment_of_init_and_of_execs(start: Start) -> None:
    lines = [
        "lxc.environment = BOTH=a b=c",
        "lxc.environment.runtime = RUNTIME=yes",
        "lxc.environment.hooks = HOOK=no",
        "lxc.environment = EMPTY=",
    ]
    with start(*lines) as made:
        init = made.sh("tr '\\0' '\\n' </proc/1/environ").splitlines()
        assert {"BOTH=a b=c", "RUNTIME=yes", "EMPTY=", "container=lxc"} <= set(init)
        assert not any(line.startswith(("HOOK=", "LXCD_", "PYTHON", "HOME=/tmp")) for line in init)
        joined = made.run("/bin/sh", "-c", "echo $BOTH-$HOOK-$MORE", env=["MORE=here"]).stdout
        assert joined == b"a b=c--here\n"


def test_environment_without_a_value_is_inherited(start: Start, shared_host: Host) -> None:
    with start("lxc.environment = LANG", "lxc.environment = NOT_SET_ANYWHERE") as made:
        init = made.sh("tr '\\0' '\\n' </proc/1/environ").splitlines()
        assert f"LANG={shared_host.environment['LANG']}" in init
        assert not any(line.startswith("NOT_SET_ANYWHERE") for line in init)


def test_personality_of_an_old_machine(start: Start) -> None:
    with start("lxc.arch = i686", "lxc.init.cmd = /bin/sh -c 'uname -m; exec sleep 1000'") as made:
        made.shows("i686")
        assert made.sh("cat /proc/1/personality") == "00000008"


def test_personality_also_in_exec(start: Start) -> None:
    with start("lxc.arch = i686") as made:
        assert made.sh("uname -m") == "i686"


def test_signal_halt_is_what_a_stop_sends(start: Start) -> None:
    script = 'trap "echo asked; exit 3" USR2; echo ready; while :; do sleep 1 & wait $!; done'
    line = f"lxc.init.cmd = /bin/sh -c '{script}'"
    with start(line, "lxc.signal.halt = SIGUSR2") as made:
        made.shows("ready")
        stopped = made.stop()
        assert stopped.method == "SIGUSR2 (lxc.signal.halt)"
        assert not stopped.killed
        assert stopped.exit.code == 3
        assert b"asked" in made.log()


def test_signal_stop_is_what_a_kill_sends(start: Start) -> None:
    script = 'trap "exit 9" TERM; echo ready; while :; do sleep 1 & wait $!; done'
    with start(f"lxc.init.cmd = /bin/sh -c '{script}'", "lxc.signal.stop = SIGTERM") as made:
        made.shows("ready")
        assert made.stop(kill=True).exit.code == 9


# rights


def _capabilities(made: Box, field: str = "CapBnd") -> set[int]:
    mask = int(_status(made, field), 16)
    return {bit for bit in range(64) if mask >> bit & 1}


_SYS_MODULE, _SYS_ADMIN, _SYS_TIME, _CHOWN, _KILL = 16, 21, 25, 0, 5


def test_cap_drop_takes_them_from_init_and_from_execs(start: Start) -> None:
    with start("lxc.cap.drop = sys_module sys_time", "lxc.cap.drop = mac_admin") as made:
        for field in ("CapBnd", "CapPrm", "CapEff"):
            assert not _capabilities(made, field) & {_SYS_MODULE, _SYS_TIME, 33}, field
            assert {_SYS_ADMIN, _CHOWN} <= _capabilities(made, field)
        mask = int(made.sh("grep CapBnd /proc/self/status").split()[1], 16)
        assert not mask >> _SYS_TIME & 1


def test_cap_keep_leaves_only_those(start: Start) -> None:
    with start("lxc.cap.keep = chown kill") as made:
        for field in ("CapBnd", "CapPrm", "CapEff"):
            assert _capabilities(made, field) == {_CHOWN, _KILL}, field


def test_cap_keep_none_leaves_none(start: Start) -> None:
    with start("lxc.cap.keep = none", "lxc.init.cmd = /bin/sleep 1000") as made:
        assert _capabilities(made) == set()
        assert "not permitted" in made.fails("chown 1 /tmp")


def test_no_new_privs_also_in_exec(start: Start) -> None:
    with start("lxc.no_new_privs = 1") as made:
        assert _status(made, "NoNewPrivs") == "1"
        assert made.sh("grep NoNewPrivs /proc/self/status").split()[1] == "1"
    with start() as made:
        assert _status(made, "NoNewPrivs") == "0"


def test_prlimit_sets_soft_and_hard(start: Start) -> None:
    with start("lxc.prlimit.nofile = 200:300", "lxc.prlimit.core = 0") as made:
        limits = made.sh("cat /proc/1/limits")
        (files,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
        assert files.split()[3:5] == ["200", "300"]
        (core,) = [line for line in limits.splitlines() if line.startswith("Max core file")]
        assert core.split()[4:6] == ["0", "0"]


def test_sysctl_is_written_inside_alone(start: Start) -> None:
    host_value = Path("/proc/sys/kernel/shmmni").read_text()
    with start("lxc.sysctl.kernel.shmmni = 77", "lxc.sysctl.net.ipv4.ip_forward = 1") as made:
        assert made.sh("cat /proc/sys/kernel/shmmni") == "77"
        assert made.sh("cat /proc/sys/net/ipv4/ip_forward") == "1"
    assert Path("/proc/sys/kernel/shmmni").read_text() == host_value


def test_a_sysctl_that_does_not_exist_fails_with_its_line(
    shared_host: Host, busybox_root: Path
) -> None:
    refused = _refused(shared_host, busybox_root, "lxc.sysctl.kernel.no_such = 1")
    assert refused.metadata["step"] == "write_sysctl"
    assert refused.metadata["errno"] == "ENOENT"
    assert refused.metadata["origin"].endswith("config:3")


def test_proc_writes_a_file_of_init(start: Start, shared_host: Host, busybox_root: Path) -> None:
    with start("lxc.proc.oom_score_adj = 123") as made:
        assert made.sh("cat /proc/1/oom_score_adj") == "123"
    refused = _refused(shared_host, busybox_root, "lxc.proc.oom_score_adj = nonsense")
    assert refused.metadata["errno"] == "EINVAL"
    assert refused.metadata["origin"].endswith("config:3")


# cgroups


@pytest.mark.vm(short=True)
def test_the_cgroup_is_named_after_the_container_and_gone_with_it(start: Start) -> None:
    with start() as made:
        places = list(made.info().cgroups.values())
        assert places
        for place in places:
            assert place.endswith("/lxc.payload.box")
            # On version 2 one level below its limits.
            inner = Path(place, "inner")
            home = inner if inner.exists() else Path(place)
            assert str(made.info().pid) in (home / "cgroup.procs").read_text().split()
        made.stop(kill=True)
        assert not any(Path(place).exists() for place in places)


def test_cgroup_dir_and_dir_container_say_where(start: Start) -> None:
    with start("lxc.cgroup.dir = lxcd-tests-above/below") as made:
        places = list(made.info().cgroups.values())
        assert all(place.endswith("/lxcd-tests-above/below/lxc.payload.box") for place in places)
        made.stop(kill=True)
        # The parents were made for it, and nobody else is in them.
        assert not any(Path(place).parent.parent.exists() for place in places)
    with start("lxc.cgroup.dir.container = lxcd-tests-own") as made:
        assert all(place.endswith("/lxcd-tests-own") for place in made.info().cgroups.values())


def test_cgroup_dir_container_inner_is_where_it_begins(start: Start) -> None:
    with start(
        "lxc.cgroup.dir.container = lxcd-tests-own\nlxc.cgroup.dir.container.inner = a/deep",
        "lxc.cgroup.pids.max = 99",
    ) as made:
        places = made.info().cgroups
        for place in places.values():
            assert place.endswith("/lxcd-tests-own")
            # Lists of devices can be begun only where nothing is below.
            home = place if "/devices/" in place else f"{place}/a/deep"
            assert str(made.info().pid) in Path(home, "cgroup.procs").read_text().split()
        assert Path(places["pids"], "pids.max").read_text() == "99\n"
        assert {line.split(":", 2)[2] for line in made.sh("cat /proc/self/cgroup").split()} == {"/"}
        made.stop(kill=True)
        assert not any(Path(place).exists() for place in places.values())


def test_cgroup_relative_is_below_the_daemon_s_own(start: Start) -> None:
    with start("lxc.cgroup.relative = 1") as made:
        own = {}
        for line in Path(f"/proc/{made.host.daemon}/cgroup").read_text().splitlines():
            _, key, path = line.split(":", 2)
            own[key or "unified"] = path.rstrip("/")
        for key, place in made.info().cgroups.items():
            assert place.endswith(f"{own[key]}/lxc.payload.box")


@pytest.mark.vm(short=True)
def test_inside_the_cgroup_is_the_root_of_what_is_seen(start: Start) -> None:
    with start() as made:
        busybox_up(made)
        for line in made.sh("cat /proc/1/cgroup").splitlines():
            assert line.split(":", 2)[2] == "/"
