"""The harness itself, without lxcd: a machine starts, restarts and ends things; the ledger sees what is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.system import ledger, roots
from tests.system.host import Host
from tests.system.machine import until


def _namespaces(pid: int) -> list[str]:
    return [os.readlink(f"/proc/{pid}/ns/{name}") for name in ("net", "mnt")]


def test_a_machine_has_its_own_network_and_mounts(cold_host: Host) -> None:
    machine = cold_host.machine
    (link,) = json.loads(machine.run("ip", "-j", "link").stdout)
    assert link["ifname"] == "lo"
    assert "UP" in link["flags"]
    assert machine.run("ls", "/sys/class/net").stdout.split() == ["lo"]
    assert machine.run("ls", "/sys/fs/cgroup").stdout.split() == sorted(
        os.listdir("/sys/fs/cgroup")
    )
    assert not set(_namespaces(machine.pid)) & set(_namespaces(os.getpid()))


def test_what_is_spawned_later_lives_on_the_same_machine(cold_host: Host) -> None:
    machine = cold_host.machine
    argv = ["/bin/sleep", "1000"]
    first = machine.spawn(argv, {}, cold_host.log)
    machine.kill(first, signal.SIGTERM)
    assert machine.wait(first) == -signal.SIGTERM
    second = machine.spawn(argv, {}, cold_host.log)
    assert _namespaces(second) == _namespaces(machine.pid)
    assert machine.poll(second) is None
    machine.kill(second)
    assert machine.wait(second) == -signal.SIGKILL
    # Nobody's child any more: the number may be a stranger's by now.
    machine.kill(second)


def test_a_daemon_that_detaches_itself_stays_below_init(cold_host: Host) -> None:
    machine = cold_host.machine
    script = "setsid sleep 1000 & exit 3"
    assert machine.wait(machine.spawn(["/bin/sh", "-c", script], {}, cold_host.log)) == 3
    until(lambda: any("sleep 1000" in line for line in machine.processes()), "sleep runs")
    (orphan,) = ledger.descendants(machine.pid)
    assert orphan.parent == machine.pid
    machine.kill(orphan.pid)
    assert machine.wait(orphan.pid) == -signal.SIGKILL


def test_a_mount_or_a_device_left_on_the_machine_is_named(cold_host: Host) -> None:
    machine = cold_host.machine
    machine.run("mount", "-t", "tmpfs", "none", str(cold_host.temporary))
    machine.run("ip", "link", "add", "lxcbr9", "type", "bridge")
    mount, link = machine.traces()
    assert str(cold_host.temporary) in mount
    assert "lxcbr9" in link
    assert not any(str(cold_host.temporary) in line for line in ledger.mounts(os.getpid()))
    machine.run("umount", str(cold_host.temporary))
    machine.run("ip", "link", "del", "lxcbr9")
    assert machine.traces() == []


def test_a_daemon_that_ends_at_once_is_reported_with_its_output(cold_host: Host) -> None:
    cold_host.environment["PYTHONPATH"] = str(cold_host.temporary)
    cold_host.environment["PYTHONDONTWRITEBYTECODE"] = "1"
    (cold_host.temporary / "lxcd.py").write_text("raise SystemExit('no, thank you')")
    with pytest.raises(AssertionError, match=r"ended with 1 instead of starting:\nno, thank you"):
        cold_host.start_daemon()
    os.unlink(cold_host.temporary / "lxcd.py")


def test_halting_a_machine_kills_what_is_left() -> None:
    before = ledger.take()
    host = Host()
    left = host.machine.spawn(["/bin/sh", "-c", "setsid sleep 1000 & sleep 1000"], {}, host.log)
    until(lambda: len(ledger.descendants(host.machine.pid)) == 3, "both sleeps run")
    assert any(p.pid == left for p in ledger.take().processes.values())
    host.machine.halt()
    ledger.settle(before)
    os.rmdir(host.run_dir)
    subprocess.run(["rm", "-r", "--one-file-system", host.root], check=True)


@contextmanager
def _process() -> Generator[None]:
    with subprocess.Popen(["/bin/sleep", "1000"]) as child:
        yield
        child.kill()


@contextmanager
def _detached_process() -> Generator[None]:
    script = "import os, sys, time\nif os.fork(): sys.exit()\nos.setsid(); print(os.getpid(), flush=True); time.sleep(1000)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        yield
        os.kill(pid, signal.SIGKILL)


@contextmanager
def _mount() -> Generator[None]:
    place = roots.cache() / "a mount"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    yield
    subprocess.run(["umount", place], check=True)
    place.rmdir()


@contextmanager
def _cgroup() -> Generator[None]:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        trees = [line.split()[4] for line in file if " - cgroup" in line]
    place = f"{trees[-1]}/lxc.payload.forgotten"
    os.mkdir(place)
    yield
    os.rmdir(place)


@contextmanager
def _device() -> Generator[None]:
    subprocess.run(["ip", "link", "add", "lxcd-forgot", "type", "bridge"], check=True)
    yield
    subprocess.run(["ip", "link", "del", "lxcd-forgot"], check=True)


@contextmanager
def _file() -> Generator[None]:
    with socket.socket(socket.AF_UNIX) as forgotten:
        forgotten.bind("/run/lxcd-forgotten.sock")
        yield
    os.unlink("/run/lxcd-forgotten.sock")


@contextmanager
def _loop(image: Path) -> Generator[None]:
    image.write_bytes(bytes(1 << 20))
    done = subprocess.run(
        ["losetup", "--find", "--show", image], check=True, capture_output=True, text=True
    )
    yield
    subprocess.run(["losetup", "--detach", done.stdout.strip()], check=True)


@pytest.mark.parametrize(
    ("leak", "word"),
    [
        (_process, "process"),
        (_detached_process, "process"),
        (_mount, "mount"),
        (_cgroup, "cgroup"),
        (_device, "network device"),
        (_file, "file"),
    ],
)
def test_the_ledger_names(leak: Callable[[], AbstractContextManager[None]], word: str) -> None:
    before = ledger.take()
    with leak():
        with pytest.raises(AssertionError, match="outlived the test") as caught:
            ledger.settle(before, deadline=0)
        assert f"\n  {word} " in str(caught.value)
    ledger.settle(before)


def test_the_ledger_names_a_loop_device(tmp_path: Path) -> None:
    before = ledger.take()
    with ExitStack() as stack:
        stack.enter_context(_loop(tmp_path / f"{ledger.OWN_PREFIX}image"))
        assert any(
            line.startswith("loop device") for line in ledger.differences(before, ledger.take())
        )
    ledger.settle(before)


@pytest.mark.parametrize(
    ("build", "init"),
    [
        (roots.debian, "lib/systemd/systemd"),
        (roots.sysv, "sbin/init"),
        (roots.busybox, "bin/busybox"),
    ],
)
def test_a_root_is_whole(build: Callable[[], Path], init: str) -> None:
    root = build()
    link = root / "sbin/init"
    target = os.readlink(link) if link.is_symlink() else "/sbin/init"
    assert target.lstrip("/") == init
    subprocess.run(
        ["chroot", root, "/bin/sh", "-c", "ls /etc/passwd"], check=True, capture_output=True
    )
    # Nothing of this machine's: empty, or a link to what systemd-resolved will write.
    resolver = root / "etc/resolv.conf"
    assert resolver.is_symlink() or resolver.read_bytes() == b""
    assert not (root / "etc/hostname").exists()
    assert not any(str(root) in mount for mount in ledger.mounts(os.getpid()))
