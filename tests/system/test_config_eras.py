"""Configurations of every era start unchanged, and what is not in force is said."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lxcd.v1 import container_pb2
from tests.system import roots
from tests.system.boxes import Box, Refused, box, busybox_up, defined, tree_hash
from tests.system.host import Host
from tests.system.machine import DEADLINE
from tests.system.wires import addresses_inside, device

# As LXC 0.7 was used: every key by its name of then, mount targets absolute below the rootfs.
_ERA_0_7 = """\
# network configuration
lxc.utsname = old
lxc.network.type = veth
lxc.network.name = eth0
lxc.network.flags = up
lxc.network.link = br0
lxc.network.ipv4 = 192.168.122.102/24
lxc.tty = 2
lxc.pts = 32
# file system configuration
lxc.rootfs = {root}
lxc.mount.entry = proc {root}/proc proc nodev,noexec,nosuid 0 0
lxc.mount.entry=sysfs {root}/sys sysfs defaults  0 0
lxc.mount.entry = {shared} {root}/mnt/ none bind,ro 0 0
# resource allocations
lxc.cgroup.cpuset.cpus = 0
lxc.cgroup.cpu.shares = 512
lxc.cgroup.devices.deny = a *:* rwm
lxc.cgroup.devices.allow = c 1:3 rwm
lxc.cgroup.devices.allow = c 5:* rwm
lxc.cgroup.devices.allow = c 136:* rwm
lxc.cap.drop = sys_module mac_admin
"""
# 002.conf of the article, with another place for /dev and the root.
_ARTICLE = """\
# network configuration
lxc.utsname = 002
lxc.network.type = veth
lxc.network.name = eth0
lxc.network.flags = up
lxc.network.link = br0
lxc.network.ipv4 = 192.168.122.102/24

# file system configuration
# file system configuration
lxc.rootfs = {root}
lxc.mount.entry={dev} {root}/dev/ none bind 0 0
lxc.mount.entry=devpts {root}/dev/pts devpts gid=5,mode=620,newinstance,ptmxmode=0666 0 0
lxc.mount.entry=proc {root}/proc proc nodev,noexec,nosuid 0 0
lxc.mount.entry=sysfs {root}/sys sysfs defaults  0 0
"""
_NODES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
    "console": (5, 1),
    "tty0": (4, 0),
    "tty1": (4, 1),
    "tty2": (4, 2),
    "loop7": (7, 7),
}


def test_a_config_of_0_7_starts_unchanged_and_its_limits_count(
    host: Host, busybox_root: Path
) -> None:
    root = roots.copy(busybox_root, host.root / "copy")
    shared = host.root / "shared"
    shared.mkdir()
    (shared / "file").write_text("from the host\n")
    text = _ERA_0_7.format(root=root, shared=shared)
    with device(host, "br0", "type", "bridge"), defined(host, text, "old") as made:
        assert made.info().config_text == text
        reply = made.start()
        busybox_up(made)
        assert made.sh("hostname") == "old"
        assert made.sh("cat /mnt/file") == "from the host"
        assert "Read-only" in made.fails("echo no > /mnt/file")
        assert made.sh("mount | grep -c ' on /proc type proc'") == "1"
        assert made.sh("ls /dev/tty1 /dev/tty2 /dev/ptmx") == "/dev/ptmx\n/dev/tty1\n/dev/tty2"
        assert {"console", "tty1", "tty2"} == set(made.info().streams)
        odd = {problem.key for problem in reply.problems}
        assert not odd & {"lxc.utsname", "lxc.rootfs", "lxc.tty", "lxc.pts", "lxc.mount.entry"}
        assert not [key for key in odd if key.startswith(("lxc.network", "lxc.cgroup"))]
        assert addresses_inside(host, made.info().pid, "eth0") == {"192.168.122.102/24"}
        assert odd <= {problem.key for problem in made.info().problems}
        assert not [item.key for item in made.info().config if item.not_in_force]
        assert made.sh("grep Cpus_allowed_list /proc/self/status").split() == [
            "Cpus_allowed_list:",
            "0",
        ]
        assert "not permitted" in made.fails("mknod /tmp/zero c 1 5")
        assert (made.directory / "config").read_text() == text


def _root_without_getty(host: Host, busybox_root: Path) -> Path:
    """Where /dev is the host's, /dev/tty1 is the host's screen: a getty would take it, and change its mode."""
    root = roots.copy(busybox_root, host.root / "copy")
    inittab = root / "etc/inittab"
    kept = [line for line in inittab.read_text().splitlines() if not line.startswith("tty1:")]
    inittab.write_text("\n".join(kept) + "\n")
    return root


def _private_dev(host: Host) -> Path:
    """A /dev to bind: nodes, a pts, links as the article's host has them. Nobody else writes to it."""
    dev = host.root / "dev"
    dev.mkdir()
    for name, (major, minor) in _NODES.items():
        os.mknod(dev / name, stat.S_IFCHR | 0o600, os.makedev(major, minor))
    for name in ("pts", "shm", "net"):
        (dev / name).mkdir()
    (dev / "ptmx").symlink_to("pts/ptmx")
    (dev / "fd").symlink_to("/proc/self/fd")
    (dev / "log").touch()
    return dev


def test_the_article_s_002_conf_leaves_the_dev_that_it_binds_as_it_was(
    host: Host, busybox_root: Path
) -> None:
    dev = _private_dev(host)
    root = _root_without_getty(host, busybox_root)
    before = tree_hash(dev)
    text = _ARTICLE.format(root=root, dev=dev)
    with device(host, "br0", "type", "bridge"), defined(host, text, "002") as made:
        made.start()
        busybox_up(made)
        assert made.sh("hostname") == "002"
        assert made.sh("ls /dev/loop7") == "/dev/loop7"
        assert made.sh("ls /dev/pts") == "ptmx"
        assert tree_hash(dev) == before
        # The pseudo-terminals inside are not the host's: a new one is number 0 there.
        assert made.sh("mount | grep ' on /dev/pts '").startswith("devpts on /dev/pts type devpts")
        made.stop()
        assert tree_hash(dev) == before
    assert tree_hash(dev) == before


def test_the_real_dev_keeps_every_node_when_a_container_binds_it(
    host: Host, busybox_root: Path
) -> None:
    def listing() -> set[tuple[str, int, int]]:
        found = set()
        with os.scandir("/dev") as entries:
            for entry in entries:
                # Other tests make loop devices meanwhile.
                if not entry.name.startswith(("loop", "dm-")):
                    node = entry.stat(follow_symlinks=False)
                    found.add((entry.name, node.st_rdev, node.st_mode))
        return found

    root = _root_without_getty(host, busybox_root)
    before = listing()
    text = _ARTICLE.format(root=root, dev="/dev")
    with device(host, "br0", "type", "bridge"), box(host, text, "002") as made:
        busybox_up(made)
        assert listing() == before
        made.stop()
    assert listing() == before


@pytest.mark.parametrize("outside", ["/somewhere/else", "{root}-2/mnt"])
def test_an_absolute_target_that_is_not_below_the_rootfs_fails_with_its_line(
    host: Host, busybox_root: Path, outside: str
) -> None:
    root = roots.copy(busybox_root, host.root / "copy")
    config = f"lxc.rootfs = {root}\nlxc.mount.entry = tmpfs {outside.format(root=root)} tmpfs defaults 0 0\n"
    with defined(host, config) as made:
        with pytest.raises(Refused) as caught:
            made.start()
        assert caught.value.reason == "START_FAILED"
        assert caught.value.metadata["step"] == "mount_entry"
        assert caught.value.metadata["origin"].endswith("config:2")


def test_a_key_that_nobody_knows_is_told_and_does_not_keep_it_from_starting(
    host: Host, busybox_root: Path
) -> None:
    root = roots.copy(busybox_root, host.root / "copy")
    with defined(host, f"lxc.rootfs.path = {root}\n") as made:
        config = made.directory / "config"
        # By hand, as an editor does it: counts at the next command.
        config.write_text(config.read_text() + "lxc.no.such.key = 1\nlxc.kmsg = 0\n")
        reply = made.start()
        assert {"lxc.no.such.key", "lxc.kmsg"} <= {problem.key for problem in reply.problems}
        assert any(problem.origin == f"{config}:3" for problem in made.info().problems)


def test_a_hand_edit_counts_at_the_next_command(host: Host, busybox_root: Path) -> None:
    root = roots.copy(busybox_root, host.root / "copy")
    with defined(host, f"lxc.rootfs.path = {root}\n") as made:
        path = made.directory / "config"
        path.write_text(path.read_text().replace("lxc.uts.name = box", "lxc.uts.name = edited"))
        assert "edited" in host.ctl("config", "get", "box", "lxc.uts.name").stdout
        made.start()
        assert made.sh("hostname") == "edited"


def test_includes_are_read_and_their_lines_are_named(host: Host, busybox_root: Path) -> None:
    root = roots.copy(busybox_root, host.root / "copy")
    folder = host.root / "common.conf.d"
    folder.mkdir()
    (folder / "20-b.conf").write_text("lxc.tty.max = 2\nlxc.hook.mount = /bin/true\n")
    (folder / "10-a.conf").write_text("lxc.tty.max = 1\n")
    with box(host, f"lxc.rootfs.path = {root}\nlxc.include = {folder}\n") as made:
        assert {"tty1", "tty2"} <= set(made.info().streams)
        (problem,) = [p for p in made.info().problems if p.key == "lxc.hook.mount"]
        assert problem.origin == f"{folder}/20-b.conf:2"


def test_a_container_without_any_definition_runs_from_a_text(
    host: Host, busybox_root: Path
) -> None:
    root = roots.copy(busybox_root, host.root / "copy")
    api = host.channel()
    request = container_pb2.StartContainerRequest(
        name="001",
        config_text=f"lxc.utsname = 001\nlxc.rootfs = {root}\n",
        config_origin="001.conf",
    )
    api.container.StartContainer(request, timeout=DEADLINE)
    assert "001" in host.ctl("list", "-1").stdout.split()
    assert "Defined:" in host.ctl("info", "001").stdout
    assert host.ctl("exec", "001", "--", "hostname").stdout == "001\n"
    made = Box.__new__(Box)
    made.host, made.name, made.api = host, "001", api
    busybox_up(made)
    host.ctl("stop", "001")
    assert "001" not in host.ctl("list", "-1").stdout.split()
    assert not (host.lxcpath / "001").exists()
    assert (root / "bin/busybox").exists()
