"""Texts that people have: the article of 2011 word for word, and what Debian ships with LXC 5."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from lxcd.config.check import check, not_in_force
from lxcd.config.loader import load
from lxcd.config.model import Nic, Setting
from lxcd.config.reader import FileAccess
from tests.article import CONF_001, CONF_002, RESOURCES

MakeFiles = Callable[[Mapping[str, bytes | list[str] | str]], FileAccess]

DEBIAN_COMMON = """\
# Default configuration shared by all containers

# Setup the LXC devices in /dev/lxc/
lxc.tty.dir = lxc

# Allow for 1024 pseudo terminals
lxc.pty.max = 1024

# Setup 4 tty devices
lxc.tty.max = 4

# Drop some harmful capabilities
lxc.cap.drop = mac_admin mac_override sys_time sys_module sys_rawio

# Ensure hostname is changed on clone
lxc.hook.clone = /usr/share/lxc/hooks/clonehostname

# Default legacy cgroup configuration
#
# CGroup allowlist
lxc.cgroup.devices.deny = a
## Allow any mknod (but not reading/writing the node)
lxc.cgroup.devices.allow = c *:* m
lxc.cgroup.devices.allow = b *:* m
## Allow specific devices
### /dev/null
lxc.cgroup.devices.allow = c 1:3 rwm
### /dev/zero
lxc.cgroup.devices.allow = c 1:5 rwm
### /dev/full
lxc.cgroup.devices.allow = c 1:7 rwm
### /dev/tty
lxc.cgroup.devices.allow = c 5:0 rwm
### /dev/console
lxc.cgroup.devices.allow = c 5:1 rwm
### /dev/ptmx
lxc.cgroup.devices.allow = c 5:2 rwm
### /dev/random
lxc.cgroup.devices.allow = c 1:8 rwm
### /dev/urandom
lxc.cgroup.devices.allow = c 1:9 rwm
### /dev/pts/*
lxc.cgroup.devices.allow = c 136:* rwm
### fuse
lxc.cgroup.devices.allow = c 10:229 rwm

# Default unified cgroup configuration
#
# CGroup allowlist
lxc.cgroup2.devices.deny = a
## Allow any mknod (but not reading/writing the node)
lxc.cgroup2.devices.allow = c *:* m
lxc.cgroup2.devices.allow = b *:* m
## Allow specific devices
### /dev/null
lxc.cgroup2.devices.allow = c 1:3 rwm
### /dev/zero
lxc.cgroup2.devices.allow = c 1:5 rwm
### /dev/full
lxc.cgroup2.devices.allow = c 1:7 rwm
### /dev/tty
lxc.cgroup2.devices.allow = c 5:0 rwm
### /dev/console
lxc.cgroup2.devices.allow = c 5:1 rwm
### /dev/ptmx
lxc.cgroup2.devices.allow = c 5:2 rwm
### /dev/random
lxc.cgroup2.devices.allow = c 1:8 rwm
### /dev/urandom
lxc.cgroup2.devices.allow = c 1:9 rwm
### /dev/pts/*
lxc.cgroup2.devices.allow = c 136:* rwm
### fuse
lxc.cgroup2.devices.allow = c 10:229 rwm

# Setup the default mounts
lxc.mount.auto = cgroup:mixed proc:mixed sys:mixed
lxc.mount.entry = /sys/fs/fuse/connections sys/fs/fuse/connections none bind,optional 0 0

# Block some syscalls which are not safe in privileged
# containers
lxc.seccomp.profile = /usr/share/lxc/config/common.seccomp

# Lastly, include all the configs from /usr/share/lxc/config/common.conf.d/
lxc.include = /usr/share/lxc/config/common.conf.d/
"""

DEBIAN_USERNS = """\
# CAP_SYS_ADMIN in init-user-ns is required for cgroup.devices
#
# Default legacy cgroup configuration
#
lxc.cgroup.devices.deny =
lxc.cgroup.devices.allow =

# Default unified cgroup configuration
#
lxc.cgroup2.devices.deny =
lxc.cgroup2.devices.allow =

# Start with a full set of capabilities in user namespaces.
lxc.cap.drop =
lxc.cap.keep =

# We can't move bind-mounts, so don't use /dev/lxc/
lxc.tty.dir =

# Setup the default mounts
lxc.mount.auto = sys:rw

# Lastly, include all the configs from /usr/share/lxc/config/userns.conf.d/
lxc.include = /usr/share/lxc/config/userns.conf.d/
"""

DEBIAN_DEFAULT = """\
lxc.net.0.type = veth
lxc.net.0.link = lxcbr0
lxc.net.0.flags = up

lxc.apparmor.profile = generated
lxc.apparmor.allow_nesting = 1
"""


def nic(config: str, line: int, address: str) -> Nic:
    return Nic(
        0,
        "veth",
        (
            Setting("name", "eth0", f"{config}:{line + 1}"),
            Setting("flags", "up", f"{config}:{line + 2}"),
            Setting("link", "br0", f"{config}:{line + 3}"),
            Setting("ipv4.address", address, f"{config}:{line + 4}"),
        ),
        f"{config}:{line}",
    )


def test_article_001() -> None:
    config, files = load(CONF_001.encode(), "001.conf")
    assert config.problems == ()
    assert files == ()
    assert config.legacy
    assert config.uts_name == "001"
    assert config.nics == (nic("001.conf", 3, "192.168.122.101/24"),)
    assert config.rootfs is not None
    assert (config.rootfs.kind, config.rootfs.path) == ("dir", "/lxc/rootfs/001")
    assert [(m.source, m.target, m.fstype, m.options) for m in config.mount_entries] == [
        ("/dev", "/lxc/rootfs/001/dev/", "none", ("bind",)),
        ("/dev/pts", "/lxc/rootfs/001/dev/pts", "none", ("bind",)),
    ]
    assert check(config) == ()


def test_article_002() -> None:
    config, _ = load(CONF_002.encode(), "002.conf")
    assert config.problems == ()
    assert config.uts_name == "002"
    assert config.nics == (nic("002.conf", 3, "192.168.122.102/24"),)
    assert [(m.source, m.target, m.fstype, m.options) for m in config.mount_entries] == [
        ("/dev", "/lxc/rootfs/002/dev/", "none", ("bind",)),
        (
            "devpts",
            "/lxc/rootfs/002/dev/pts",
            "devpts",
            ("gid=5", "mode=620", "newinstance", "ptmxmode=0666"),
        ),
        ("proc", "/lxc/rootfs/002/proc", "proc", ("nodev", "noexec", "nosuid")),
        ("sysfs", "/lxc/rootfs/002/sys", "sysfs", ("defaults",)),
        ("none", "/lxc/rootfs/002/proc/sys/fs/binfmt_misc", "binfmt_misc", ("defaults",)),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_article_with_cgroups(end: str) -> None:
    config, _ = load((CONF_002 + RESOURCES).replace("\n", end).encode(), "002.conf")
    assert config.problems == ()
    found = [(one.version, one.name, one.value) for one in config.cgroups]
    assert found[:5] == [
        (1, "cpuset.cpus", "0"),
        (1, "cpu.shares", "512"),
        (1, "memory.limit_in_bytes", "268435456"),
        (1, "memory.memsw.limit_in_bytes", "536870912"),
        (1, "devices.deny", "a *:* rwm"),
    ]
    assert found[-1] == (1, "devices.allow", "c 254:0 rwm")
    assert len(found) == 15
    assert not [p for p in not_in_force(config) if p.key.startswith("lxc.cgroup")]


@pytest.fixture
def debian(make_files: MakeFiles) -> FileAccess:
    base = "/usr/share/lxc/config"
    return make_files(
        {
            f"{base}/common.conf": DEBIAN_COMMON.encode(),
            f"{base}/common.conf.d": ["README"],
            f"{base}/userns.conf": DEBIAN_USERNS.encode(),
            f"{base}/userns.conf.d": [],
        }
    )


PRIVILEGED = """\
# Template used to create this container: /usr/share/lxc/templates/lxc-download
# For additional config options, please look at lxc.container.conf(5)

lxc.include = /usr/share/lxc/config/common.conf
lxc.arch = linux64
lxc.rootfs.path = dir:/var/lib/lxc/c1/rootfs
lxc.uts.name = c1
"""


def test_debian_container(debian: FileAccess) -> None:
    config, files = load(
        (PRIVILEGED + DEBIAN_DEFAULT).encode(), "/var/lib/lxc/c1/config", files=debian
    )
    assert config.problems == ()
    assert not config.legacy
    assert (config.tty_dir, config.tty_max, config.pty_max, config.arch) == (
        "lxc",
        4,
        1024,
        "x86_64",
    )
    assert [one.value for one in config.cap_drop] == [
        "mac_admin",
        "mac_override",
        "sys_time",
        "sys_module",
        "sys_rawio",
    ]
    assert [(one.what, one.mode) for one in config.mount_auto] == [
        ("cgroup", "mixed"),
        ("proc", "mixed"),
        ("sys", "mixed"),
    ]
    assert config.mount_entries[0].options == ("bind", "optional")
    assert config.origin("lxc.tty.max") == "/usr/share/lxc/config/common.conf:10"
    assert config.apparmor_profile == "generated"
    assert config.nics[0].kind == "veth"
    assert len(config.cgroups) == 26
    assert len(files) == 2
    assert {p.severity for p in check(config)} == {"warning"}


def test_debian_unprivileged_container(debian: FileAccess) -> None:
    text = PRIVILEGED + (
        "lxc.include = /usr/share/lxc/config/userns.conf\n"
        "lxc.idmap = u 0 100000 65536\nlxc.idmap = g 0 100000 65536\n"
    )
    config, _ = load(text.encode(), "/var/lib/lxc/c1/config", files=debian)
    assert config.problems == ()
    assert config.cgroups == ()
    assert config.cap_drop == ()
    assert config.cap_keep is None
    assert config.tty_dir == ""
    assert [(one.what, one.mode) for one in config.mount_auto] == [
        ("cgroup", "mixed"),
        ("proc", "mixed"),
        ("sys", "rw"),
    ]
    # What was cleared is not told as missing.
    assert [p.key for p in not_in_force(config)] == ["lxc.hook.clone", "lxc.seccomp.profile"]
