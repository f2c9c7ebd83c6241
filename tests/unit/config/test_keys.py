"""Every row of the tables: a good value arrives in its field, an empty one takes it away, a bad one is a problem."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from lxcd.config import keys, legacy_keys, nic_keys
from lxcd.config.loader import load
from lxcd.config.model import (
    CgroupSetting,
    ContainerConfig,
    Entry,
    Hook,
    IdMapping,
    MountAuto,
    MountEntry,
    ResourceLimit,
    Setting,
    Share,
    Variable,
)
from lxcd.config.reader import FileAccess
from lxcd.config.rootfs import split_path

HERE = "c:1"
# key, value, field, what the field holds then, a bad value if there is any
TABLE: list[tuple[str, str, str, object, str]] = [
    ("lxc.arch", "amd64", "arch", "x86_64", "vax"),
    ("lxc.uts.name", "001", "uts_name", "001", "a/b"),
    ("lxc.mount.auto", "proc:rw", "mount_auto", (MountAuto("proc", "rw", False, (), HERE),), "dev"),
    (
        "lxc.mount.entry",
        "a b none bind 0 0",
        "mount_entries",
        (MountEntry("a", "b", "none", ("bind",), HERE),),
        "a b",
    ),
    ("lxc.mount.fstab", "/f", "mount_fstab", "/f", ""),
    ("lxc.autodev", "0", "autodev", False, "2"),
    ("lxc.autodev.tmpfs.size", "1000000", "autodev_tmpfs_size_bytes", 1000000, "1MB"),
    ("lxc.pty.max", "1024", "pty_max", 1024, "-1"),
    ("lxc.tty.max", "4", "tty_max", 4, "four"),
    ("lxc.tty.dir", "lxc", "tty_dir", "lxc", "../lxc"),
    ("lxc.console.path", "none", "console_path", "none", ""),
    ("lxc.console.logfile", "/var/log/c", "console_logfile", "/var/log/c", ""),
    ("lxc.console.buffer.size", "64kB", "console_buffer_size_bytes", 65536, "64k"),
    ("lxc.console.size", "auto", "console_size_bytes", 131072, "much"),
    ("lxc.console.rotate", "1", "console_rotate", True, "yes"),
    (
        "lxc.cap.drop",
        "sys_time 13",
        "cap_drop",
        (Entry("sys_time", HERE), Entry("net_raw", HERE)),
        "sys_tim",
    ),
    ("lxc.cap.keep", "kill", "cap_keep", (Entry("kill", HERE),), "some"),
    ("lxc.init.cmd", "/bin/sh -c 'a b'", "init_cmd", ("/bin/sh", "-c", "a b"), "a 'b"),
    ("lxc.init.cwd", "/srv", "init_cwd", "/srv", "srv"),
    ("lxc.init.uid", "1000", "init_uid", 1000, "4294967295"),
    ("lxc.init.gid", "1000", "init_gid", 1000, "root"),
    ("lxc.init.groups", "1, 2,3", "init_groups", (1, 2, 3), "1,,2"),
    ("lxc.execute.cmd", "/bin/true", "execute_cmd", ("/bin/true",), '"'),
    ("lxc.environment", "A=b c", "environment", (Variable("A", "b c", "all", HERE),), "=b"),
    ("lxc.environment.runtime", "A", "environment", (Variable("A", None, "runtime", HERE),), "=b"),
    ("lxc.environment.hooks", "A=", "environment", (Variable("A", "", "hooks", HERE),), "=b"),
    ("lxc.idmap", "u 0 100000 65536", "idmap", (IdMapping("u", 0, 100000, 65536, HERE),), "u 0"),
    ("lxc.namespace.clone", "mount net", "namespace_clone", ("mnt", "net"), "mounts"),
    ("lxc.namespace.keep", "net net ipc", "namespace_keep", ("net", "ipc"), "all"),
    ("lxc.namespace.share.net", "c2", "namespace_share", (Share("net", "c2", HERE),), ""),
    ("lxc.time.offset.boot", "-10s", "time_offset_boot_ns", -(10**10), "10"),
    ("lxc.time.offset.monotonic", "1h", "time_offset_monotonic_ns", 3600 * 10**9, "1 hour"),
    ("lxc.no_new_privs", "1", "no_new_privs", True, "on"),
    ("lxc.keyring.session", "1", "keyring_disable_session", True, "x"),
    (
        "lxc.prlimit.nofile",
        "1024:unlimited",
        "prlimits",
        (ResourceLimit("nofile", 1024, None, HERE),),
        "2:1",
    ),
    (
        "lxc.sysctl.net.ipv4.ip_forward",
        "1",
        "sysctls",
        (Setting("net.ipv4.ip_forward", "1", HERE),),
        "",
    ),
    ("lxc.proc.oom_score_adj", "10", "procs", (Setting("oom_score_adj", "10", HERE),), ""),
    ("lxc.sched.core", "1", "sched_core", True, "2"),
    ("lxc.signal.halt", "SIGRTMIN+3", "signal_halt", 37, "SIGFOO"),
    ("lxc.signal.reboot", "INT", "signal_reboot", 2, "0"),
    ("lxc.signal.stop", "9", "signal_stop", 9, "65"),
    ("lxc.start.auto", "1", "start_auto", True, "-1"),
    ("lxc.start.delay", "5", "start_delay_seconds", 5, "5s"),
    ("lxc.start.order", "-3", "start_order", -3, "first"),
    ("lxc.group", "onboot web onboot", "groups", ("onboot", "web"), ""),
    ("lxc.ephemeral", "1", "ephemeral", True, "true"),
    ("lxc.cgroup.dir", "a/b", "cgroup_dir", "a/b", "/a"),
    ("lxc.cgroup.dir.container", "a", "cgroup_dir_container", "a", "a/../b"),
    ("lxc.cgroup.dir.container.inner", "a", "cgroup_dir_container_inner", "a", "."),
    ("lxc.cgroup.dir.monitor", "a", "cgroup_dir_monitor", "a", "a//b"),
    ("lxc.cgroup.dir.monitor.pivot", "a", "cgroup_dir_monitor_pivot", "a", ".."),
    ("lxc.cgroup.relative", "1", "cgroup_relative", True, "2"),
    ("lxc.cgroup.cpu.shares", "512", "cgroups", (CgroupSetting(1, "cpu.shares", "512", HERE),), ""),
    ("lxc.cgroup2.memory.max", "1G", "cgroups", (CgroupSetting(2, "memory.max", "1G", HERE),), ""),
    *(
        (f"lxc.hook.{kind}", "/bin/h 'x y'", "hooks", (Hook(kind, "/bin/h 'x y'", HERE),), "")
        for kind in keys.HOOKS
    ),
    ("lxc.hook.version", "1", "hook_version", 1, "2"),
    ("lxc.apparmor.profile", "generated", "apparmor_profile", "generated", ""),
    ("lxc.apparmor.allow_incomplete", "1", "apparmor_allow_incomplete", True, "x"),
    ("lxc.apparmor.allow_nesting", "1", "apparmor_allow_nesting", True, "x"),
    ("lxc.apparmor.raw", "deny /x rw,", "apparmor_raw", (Entry("deny /x rw,", HERE),), ""),
    ("lxc.selinux.context", "a:b:c", "selinux_context", "a:b:c", ""),
    ("lxc.selinux.context.keyring", "a:b:c", "selinux_context_keyring", "a:b:c", ""),
    ("lxc.seccomp.profile", "/p", "seccomp_profile", "/p", ""),
    ("lxc.seccomp.allow_nesting", "1", "seccomp_allow_nesting", True, "x"),
    ("lxc.seccomp.notify.proxy", "unix:/p", "seccomp_notify_proxy", "unix:/p", "tcp:x"),
    ("lxc.seccomp.notify.cookie", "c", "seccomp_notify_cookie", "c", ""),
    ("lxc.log.level", "0", "log_level", "TRACE", "9"),
    ("lxc.log.file", "/l", "log_file", "/l", ""),
    ("lxc.log.syslog", "local3", "log_syslog", "local3", "local8"),
    ("lxc.monitor.unshare", "1", "monitor_unshare", True, "x"),
    ("lxc.monitor.signal.pdeath", "SIGTERM", "monitor_signal_pdeath", 15, "x"),
]
ROOT: list[tuple[str, str, str, object, str]] = [
    ("lxc.rootfs.path", "/r", "path", "/r", "tar:/x"),
    ("lxc.rootfs.mount", "/m", "mount", "/m", "m"),
    ("lxc.rootfs.options", "ro,idmap=container", "options", ("ro", "idmap=container"), ""),
    ("lxc.rootfs.managed", "0", "managed", False, "x"),
]
IDS = [row[0] for row in TABLE]


@pytest.fixture
def files(make_files: Callable[[dict[str, bytes]], FileAccess]) -> FileAccess:
    return make_files({"/f": b"", "/i": b""})


def read(text: str, files: FileAccess) -> ContainerConfig:
    return load(text.encode(), "c", files=files)[0]


@pytest.mark.parametrize(("key", "value", "field", "expected", "bad"), TABLE, ids=IDS)
def test_set_reset_and_bad(
    key: str, value: str, field: str, expected: object, bad: str, files: FileAccess
) -> None:
    default = getattr(ContainerConfig(), field)
    config = read(f"{key} = {value}\n", files)
    assert config.problems == ()
    assert getattr(config, field) == expected
    assert type(getattr(config, field)) is type(expected)
    assert default != expected
    found = keys.find(key)
    assert found is not None
    (line,) = config.lines
    assert (line.key, line.name, line.value, line.origin) == (key, key, value, HERE)
    assert line.in_force == found.row.acts_on(value)
    assert config.origin(key) == (HERE if found.row.shape != "list" else "default")
    again = read(f"{key} = {value}\n{key} =\n", files)
    assert getattr(again, field) == default
    assert again.origin(key) == "default"
    assert again.problems == ()
    if bad:
        wrong = read(f"{key} = {bad}\n", files)
        assert getattr(wrong, field) == default
        assert [(p.severity, p.origin, p.key) for p in wrong.problems] == [("error", HERE, key)]
        assert not wrong.lines[0].in_force


@pytest.mark.parametrize(("key", "value", "field", "expected", "bad"), ROOT)
def test_rootfs(
    key: str, value: str, field: str, expected: object, bad: str, files: FileAccess
) -> None:
    base = "" if key == "lxc.rootfs.path" else "lxc.rootfs.path = /r\n"
    config = read(base + f"{key} = {value}\n", files)
    assert config.problems == ()
    assert getattr(config.rootfs, field) == expected
    again = read(base + f"{key} = {value}\n{key} =\n", files)
    default = read(base, files)
    assert getattr(again.rootfs, field, None) == getattr(default.rootfs, field, None)
    if bad:
        assert [p.severity for p in read(base + f"{key} = {bad}\n", files).problems] == ["error"]


def test_the_table_is_whole() -> None:
    tried = {found.row.name for row in (*TABLE, *ROOT) if (found := keys.find(row[0]))}
    assert tried | {"lxc.include"} == {row.name for row in keys.KEYS}


def test_every_field_has_a_key() -> None:
    mine = {row.field.partition(".")[0] for row in keys.KEYS} | {"nics"}
    others = {"lines", "problems", "origins", "legacy"}
    assert mine - {""} == {f.name for f in dataclasses.fields(ContainerConfig)} - others


def test_rows_are_complete() -> None:
    names = [row.name for row in keys.KEYS]
    assert len(set(names)) == len(names)
    for row in keys.KEYS:
        assert row.help
        assert row.syntax
        assert row.name.startswith("lxc.")
        if row.shape == "map":
            assert row.prefix
    for nic in nic_keys.NIC_KEYS:
        assert nic.help
        assert nic.syntax


def test_defaults_of_the_table_are_those_of_the_model(files: FileAccess) -> None:
    for row in keys.KEYS:
        if row.default and not row.field.startswith("rootfs."):
            config = read(f"{row.name} = {row.default}\n", files)
            assert getattr(config, row.field) == getattr(ContainerConfig(), row.field), row.name


LEGACY = [
    ("lxc.utsname", "001", "uts_name", "001"),
    ("lxc.pts", "1024", "pty_max", 1024),
    ("lxc.tty", "4", "tty_max", 4),
    ("lxc.devttydir", "lxc", "tty_dir", "lxc"),
    ("lxc.console", "none", "console_path", "none"),
    ("lxc.mount", "/f", "mount_fstab", "/f"),
    ("lxc.aa_profile", "unconfined", "apparmor_profile", "unconfined"),
    ("lxc.aa_allow_incomplete", "1", "apparmor_allow_incomplete", True),
    ("lxc.se_context", "c", "selinux_context", "c"),
    ("lxc.seccomp", "/p", "seccomp_profile", "/p"),
    ("lxc.id_map", "u 0 1 1", "idmap", (IdMapping("u", 0, 1, 1, HERE),)),
    ("lxc.init_cmd", "/i x", "init_cmd", ("/i", "x")),
    ("lxc.init_uid", "5", "init_uid", 5),
    ("lxc.init_gid", "5", "init_gid", 5),
    ("lxc.logfile", "/l", "log_file", "/l"),
    ("lxc.loglevel", "1", "log_level", "DEBUG"),
    ("lxc.syslog", "daemon", "log_syslog", "daemon"),
    ("lxc.haltsignal", "SIGUSR1", "signal_halt", 10),
    ("lxc.rebootsignal", "SIGTERM", "signal_reboot", 15),
    ("lxc.stopsignal", "9", "signal_stop", 9),
    ("lxc.limit.nofile", "5", "prlimits", (ResourceLimit("nofile", 5, 5, HERE),)),
]


@pytest.mark.parametrize(("key", "value", "field", "expected"), LEGACY)
def test_legacy(key: str, value: str, field: str, expected: object, files: FileAccess) -> None:
    config = read(f"{key} = {value}\n", files)
    assert config.problems == ()
    assert getattr(config, field) == expected
    assert config.legacy == (not key.startswith("lxc.limit"))
    (line,) = config.lines
    assert line.key == key
    assert line.name == legacy_keys.modern_name(key) != key
    found = keys.find(line.name)
    assert found is not None
    assert line.in_force == found.row.acts_on(value)
    assert getattr(read(f"{key} = {value}\n{key} =\n", files), field) == getattr(
        ContainerConfig(), field
    )


def test_every_legacy_name_is_tried() -> None:
    tried = {row[0] for row in LEGACY} | {
        "lxc.rootfs",
        "lxc.limit.",
        "lxc.limit",
        "lxc.rootfs.backend",
    }
    assert {row.name for row in legacy_keys.LEGACY} - tried == {"lxc.kmsg", "lxc.pivotdir"}


@pytest.mark.parametrize("line", ["lxc.kmsg = 1", "lxc.kmsg = 0", "lxc.pivotdir = lxc_putold"])
def test_dropped_keys_are_understood(line: str, files: FileAccess) -> None:
    config = read(line, files)
    assert [p.severity for p in config.problems] == ["warning"]
    assert config.legacy


@pytest.mark.parametrize(
    ("text", "kind", "path"),
    [
        ("lxc.rootfs = /lxc/rootfs/001", "dir", "/lxc/rootfs/001"),
        ("lxc.rootfs.path = dir:/r", "dir", "/r"),
        ("lxc.rootfs.path = overlay:/l:/u", "overlay", "/l:/u"),
        ("lxc.rootfs = overlayfs:/l:/u", "overlay", "/l:/u"),
        ("lxc.rootfs = aufs:/l:/u", "overlay", "/l:/u"),
        ("lxc.rootfs.path = overlay:/l1:/l2:/u", "overlay", "/l1:/l2:/u"),
        ("lxc.rootfs.path = zfs:tank/c", "zfs", "tank/c"),
        ("lxc.rootfs.path = nbd:/f:1", "nbd", "/f:1"),
        ("lxc.rootfs = /dev/vg/lv", "dir", "/dev/vg/lv"),
        ("lxc.rootfs = /odd:path", "dir", "/odd:path"),
        ("lxc.rootfs.backend = lvm\nlxc.rootfs = /dev/vg/lv", "lvm", "/dev/vg/lv"),
        ("lxc.rootfs = /l:/u\nlxc.rootfs.backend = overlayfs", "overlay", "/l:/u"),
        ("lxc.rootfs.backend = lvm\nlxc.rootfs = dir:/r", "dir", "/r"),
    ],
)
def test_storage(text: str, kind: str, path: str, files: FileAccess) -> None:
    config = read(text, files)
    assert config.problems == ()
    assert config.rootfs is not None
    assert (config.rootfs.kind, config.rootfs.path) == (kind, path)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("lxc.rootfs.path = /r", True),
        ("lxc.rootfs = /r:with/colon", True),
        ("lxc.rootfs.path = dir:/r", False),
        ("lxc.rootfs.path = loop:/r", False),
        ("lxc.rootfs.backend = loop\nlxc.rootfs = /r", False),
    ],
)
def test_a_path_without_a_type_may_be_anything(text: str, plain: bool, files: FileAccess) -> None:  # noqa: FBT001
    root = read(text, files).rootfs
    assert root is not None
    assert root.plain == plain


@pytest.mark.parametrize(
    ("options", "partition", "rest"),
    [
        ("ro,noatime", None, ("ro", "noatime")),
        ("partition=2,ro,noatime", 2, ("ro", "noatime")),
        ("ro,partition=0", 0, ("ro",)),
        ("partition=128", 128, ()),
        ("partition=3,partition=3", 3, ()),
    ],
)
def test_the_partition_of_an_image(
    options: str, partition: int | None, rest: tuple[str, ...], files: FileAccess
) -> None:
    config = read(f"lxc.rootfs.path = loop:/i\nlxc.rootfs.options = {options}\n", files)
    assert config.problems == ()
    assert config.rootfs is not None
    assert (config.rootfs.partition, config.rootfs.options) == (partition, rest)


@pytest.mark.parametrize(
    "word", ["", "x", "-1", "+1", "1.5", "1 2", "٣", "1025", "9" * 5000, "1,partition=2"]
)
def test_what_is_no_partition(word: str, files: FileAccess) -> None:
    config = read(f"lxc.rootfs.path = loop:/i\nlxc.rootfs.options = partition={word}\n", files)
    assert [(p.severity, p.key) for p in config.problems] == [("error", "lxc.rootfs.options")]
    assert "partition=" in config.problems[0].message
    assert config.problems[0].origin.endswith(":2")


@pytest.mark.parametrize(
    "text", ["tar:/x", "dir:", "overlay:/l", "overlay:l:u", "overlay:", "overlay:/l:"]
)
def test_bad_storage(text: str, files: FileAccess) -> None:
    with pytest.raises(ValueError, match=r"storage|path|overlay"):
        split_path(text)
    config = read(f"lxc.rootfs.path = {text}\n", files)
    assert config.rootfs is None
    assert [p.severity for p in config.problems] == ["error"]


def test_bad_backend(files: FileAccess) -> None:
    config = read("lxc.rootfs = /r\nlxc.rootfs.backend = floppy\n", files)
    assert [(p.origin, p.key) for p in config.problems] == [("c:2", "lxc.rootfs.backend")]


IN_FORCE = [
    "lxc.arch",
    "lxc.autodev",
    "lxc.autodev.tmpfs.size",
    "lxc.cap.drop",
    "lxc.cap.keep",
    "lxc.console.buffer.size",
    "lxc.console.logfile",
    "lxc.console.rotate",
    "lxc.console.size",
    "lxc.environment",
    "lxc.environment.runtime",
    "lxc.ephemeral",
    "lxc.execute.cmd",
    "lxc.idmap",
    "lxc.include",
    "lxc.init.cmd",
    "lxc.init.cwd",
    "lxc.init.uid",
    "lxc.init.gid",
    "lxc.init.groups",
    "lxc.keyring.session",
    "lxc.mount.auto",
    "lxc.mount.entry",
    "lxc.mount.fstab",
    "lxc.namespace.clone",
    "lxc.namespace.keep",
    "lxc.time.offset.boot",
    "lxc.namespace.share.",
    "lxc.time.offset.monotonic",
    "lxc.no_new_privs",
    "lxc.prlimit.",
    "lxc.pty.max",
    "lxc.rootfs.path",
    "lxc.rootfs.mount",
    "lxc.rootfs.options",
    "lxc.rootfs.managed",
    "lxc.sched.core",
    "lxc.signal.halt",
    "lxc.signal.reboot",
    "lxc.signal.stop",
    "lxc.tty.dir",
    "lxc.tty.max",
    "lxc.uts.name",
    "lxc.sysctl.",
    "lxc.proc.",
    "lxc.cgroup.dir",
    "lxc.cgroup.dir.container",
    "lxc.cgroup.dir.container.inner",
    "lxc.cgroup.relative",
    "lxc.cgroup.",
    "lxc.cgroup2.",
    "lxc.group",
    "lxc.console.path",
]


def test_what_is_in_force() -> None:
    assert {row.name for row in keys.KEYS if row.in_force} == set(IN_FORCE)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lxc.console.path = none", True),
        ("lxc.console.path = /dev/tty9", False),
        ("lxc.mount.auto = proc sys", True),
        ("lxc.mount.auto = proc shmounts:/a", False),
        ("lxc.rootfs.path = overlay:/l:/u", True),
        ("lxc.rootfs.path = btrfs:/l", False),
        ("lxc.rootfs.path = /a:b", True),
        ("lxc.net.0.type = veth", True),
        ("lxc.unknown = 1", False),
        ("lxc.start.auto = 1", False),
    ],
)
def test_in_force_by_value(line: str, *, expected: bool, files: FileAccess) -> None:
    assert read(line, files).lines[0].in_force is expected


@pytest.mark.parametrize(
    "name",
    [
        "lxc.cgroup.dir.contaner",
        "lxc.cgroup.relative.x",
        "lxc.sysctl.",
        "lxc.",
        "lxc.uts",
        "lxc.hook.foo",
        "lxc.utsname.x",
    ],
)
def test_unknown(name: str, files: FileAccess) -> None:
    config = read(f"{name} = 1\n", files)
    assert [(p.severity, p.key) for p in config.problems] == [("warning", name)]
