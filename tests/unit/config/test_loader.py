from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import pytest

from lxcd.config.check import check
from lxcd.config.loader import check_value, load
from lxcd.config.model import ContainerConfig
from lxcd.config.reader import FileAccess
from lxcd.errors import InvalidArgument

MakeFiles = Callable[[Mapping[str, bytes | list[str] | str]], FileAccess]


def read(text: str, **defines: str) -> ContainerConfig:
    return load(text.encode(), "c", defines=[(k.replace("_", "."), v) for k, v in defines.items()])[
        0
    ]


def test_nothing_says_the_defaults() -> None:
    assert read("") == ContainerConfig()


def test_last_scalar_counts_with_a_warning() -> None:
    config = read("lxc.tty.max = 1\nlxc.tty = 2\n")
    assert config.tty_max == 2
    assert config.origin("lxc.tty.max") == "c:2"
    (problem,) = config.problems
    assert (problem.severity, problem.origin, problem.key) == ("warning", "c:2", "lxc.tty")
    assert "c:1" in problem.message


def test_no_warning_after_a_reset_or_over_an_include(make_files: MakeFiles) -> None:
    assert read("lxc.tty.max = 1\nlxc.tty.max =\nlxc.tty.max = 2\n").problems == ()
    files = make_files({"/i": b"lxc.tty.max = 1\n"})
    config, _ = load(b"lxc.include = /i\nlxc.tty.max = 2\n", "c", files=files)
    assert (config.tty_max, config.problems) == (2, ())


def test_a_bad_value_leaves_the_good_one_before_it() -> None:
    config = read("lxc.tty.max = 1\nlxc.tty.max = x\n")
    assert config.tty_max == 1
    assert config.origin("lxc.tty.max") == "c:1"


def test_defines_come_last() -> None:
    config = read("lxc.tty.max = 1\nlxc.uts.name = a\n", lxc_tty_max="2", lxc_uts_name='"b"')
    assert (config.tty_max, config.uts_name, config.problems) == (2, "b", ())
    assert config.origin("lxc.tty.max") == "define"
    assert config.lines[-1].origin == "define"
    config = read("", lxc_uts_name="a\nlxc.tty.max = 5")
    assert config.tty_max == 0
    assert [p.origin for p in config.problems] == ["define"]


def test_all_problems_are_told_in_order() -> None:
    config = read(
        "lxc.foo = 1\nlxc.tty.max = x\nlxc.mount.auto = a proc b\nlxc.autodev\nlxc.idmap = u\n"
    )
    assert [(p.severity, p.origin) for p in config.problems] == [
        ("warning", "c:1"),
        ("error", "c:2"),
        ("error", "c:3"),
        ("error", "c:3"),
        ("error", "c:4"),
        ("error", "c:5"),
    ]
    assert [one.what for one in config.mount_auto] == ["proc"]


def test_mount_auto_later_word_of_a_kind_counts() -> None:
    config = read(
        "lxc.mount.auto = cgroup:mixed proc:mixed sys:mixed\nlxc.mount.auto = sys:rw cgroup-full\n"
    )
    assert [(one.what, one.mode) for one in config.mount_auto] == [
        ("cgroup-full", ""),
        ("proc", "mixed"),
        ("sys", "rw"),
    ]


def test_cap_keep() -> None:
    assert read("").cap_keep is None
    assert read("lxc.cap.keep = none").cap_keep == ()
    kept = read("lxc.cap.keep = kill\nlxc.cap.keep = none chown\nlxc.cap.keep = mknod\n").cap_keep
    assert kept is not None
    assert [one.value for one in kept] == ["chown", "mknod"]
    assert read("lxc.cap.keep = none\nlxc.cap.keep =\n").cap_keep is None


def test_families_clear_their_own_only() -> None:
    config = read(
        "lxc.hook.start = a\nlxc.hook.stop = b\nlxc.hook.version = 1\nlxc.hook =\n"
        "lxc.cgroup.cpu.shares = 1\nlxc.cgroup2.cpu.max = 1\nlxc.cgroup.dir = d\nlxc.cgroup =\n"
        "lxc.sysctl.a.b = 1\nlxc.sysctl =\nlxc.limit.nofile = 1\nlxc.limit =\n"
    )
    assert config.problems == ()
    assert config.hooks == ()
    assert config.hook_version == 1
    assert [one.version for one in config.cgroups] == [2]
    assert config.cgroup_dir == "d"
    assert (config.sysctls, config.prlimits) == ((), ())
    assert [p.severity for p in read("lxc.hook = x\n").problems] == ["error"]


def test_a_dropped_key_is_looked_at() -> None:
    assert [p.severity for p in read("lxc.kmsg = x\n").problems] == ["error"]
    assert read("lxc.kmsg =\nlxc.pivotdir =\n").problems == ()
    config = read("lxc.rootfs.backend = lvm\nlxc.rootfs.backend =\nlxc.rootfs = /r\n")
    assert config.rootfs is not None
    assert config.rootfs.kind == "dir"
    config = read("lxc.rootfs.backend = l\x01vm\nlxc.rootfs = /r\n")
    assert [p.origin for p in config.problems] == ["c:1"]


def test_one_cgroup_file_is_cleared_and_order_is_kept() -> None:
    config = read(
        "lxc.cgroup2.devices.deny = a\nlxc.cgroup2.devices.allow = b\nlxc.cgroup2.devices.deny = c\n"
        "lxc.cgroup2.memory.max = 1\nlxc.cgroup2.memory.max =\n"
    )
    assert [one.value for one in config.cgroups] == ["a", "b", "c"]


def test_maps_replace_in_place() -> None:
    config = read("lxc.sysctl.a = 1\nlxc.sysctl.b = 2\nlxc.sysctl.a = 3\n")
    assert [(one.name, one.value, one.origin) for one in config.sysctls] == [
        ("a", "3", "c:3"),
        ("b", "2", "c:2"),
    ]
    assert [p.severity for p in config.problems] == ["warning"]


def test_environment_narrow_keys_come_last() -> None:
    config = read(
        "lxc.environment.runtime = A=1\nlxc.environment = A=2\nlxc.environment.hooks = A=3\n"
    )
    assert [(one.value, one.scope) for one in config.environment] == [
        ("2", "all"),
        ("1", "runtime"),
        ("3", "hooks"),
    ]
    config = read("lxc.environment = A\nlxc.environment.runtime = B\nlxc.environment =\n")
    assert [one.name for one in config.environment] == ["B"]


def test_autodev_of_lxc_1() -> None:
    config = read("lxc.autodev = -1\n")
    assert config.autodev
    assert config.origin("lxc.autodev") == "c:1"


def test_keyring_has_an_inverted_name() -> None:
    assert not read("").keyring_disable_session
    assert read("lxc.keyring.session = 1").keyring_disable_session


def test_fstab_comes_first_with_its_own_lines(make_files: MakeFiles) -> None:
    files = make_files(
        {
            "/c/fstab": b"# x\n\n  proc proc proc nodev 0 0 \r\nshort\nbad b\x01d none x\n\xff b none x\n"
        }
    )
    text = b"lxc.mount.entry = a b none bind\nlxc.mount = fstab\n"
    config, stamps = load(text, "/c/config", files=files)
    assert [(one.source, one.origin) for one in config.mount_entries] == [
        ("proc", "/c/fstab:3"),
        ("a", "/c/config:1"),
    ]
    assert [(p.severity, p.origin) for p in config.problems] == [
        ("error", "/c/fstab:4"),
        ("error", "/c/fstab:5"),
        ("error", "/c/fstab:6"),
    ]
    assert [one.path for one in stamps] == ["/c/fstab"]


def test_missing_fstab(make_files: MakeFiles) -> None:
    config, _ = load(b"lxc.mount.fstab = /no\n", "c", files=make_files({}))
    assert [(p.severity, p.origin) for p in config.problems] == [("error", "c:1")]
    assert config.mount_fstab == "/no"


def test_fstab_problems_show_nothing_of_the_file(make_files: MakeFiles) -> None:
    # lxc.mount.fstab may name any file that root can read.
    files = make_files({"/etc/shadow": b"root:$6$SECRET:1:::\nSECRET b c d SECRET SECRET\n"})
    config, _ = load(b"lxc.mount.fstab = /etc/shadow\n", "c", files=files)
    assert len(config.problems) == 2
    assert "SECRET" not in repr(config)


def test_rootfs_knows_its_line() -> None:
    config = read("lxc.rootfs.options = ro\nlxc.rootfs = /r\n")
    assert config.rootfs is not None
    assert config.rootfs.origin == "c:2"
    assert config.rootfs.options == ("ro",)
    assert read("lxc.rootfs.options = ro\n").rootfs is None


def test_legacy() -> None:
    assert not read("lxc.uts.name = a\nlxc.cap.drop = kill\nlxc.cgroup.cpu.shares = 1\n").legacy
    assert read("lxc.utsname = a\n").legacy
    assert read("lxc.network.type = veth\n").legacy
    assert not read("lxc.net.0.type = veth\n").legacy


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lxc.tty.max", "1"),
        ("lxc.net.0.ipv4.address", "1.2.3.4/8"),
        ("lxc.hook", ""),
        ("lxc.utsname", "a"),
        ("lxc.include", "/x"),
    ],
)
def test_check_value(key: str, value: str) -> None:
    check_value(key, value)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("lxc.foo", "1", "UNKNOWN_KEY"),
        ("foo", "1", "UNKNOWN_KEY"),
        ("lxc.net.0.asdf", "1", "UNKNOWN_KEY"),
        ("lxc.net.2147483647.type", "veth", "UNKNOWN_KEY"),
        ("lxc.net.0.", "1", "UNKNOWN_KEY"),
        ("lxc.tty.max", "x", "INVALID_VALUE"),
        ("lxc.uts.name", "a\nb", "INVALID_VALUE"),
        ("lxc.uts.name", "a\rb", "INVALID_VALUE"),
        ("lxc.uts.name", "a\0b", "INVALID_VALUE"),
        ("lxc.environment", "A=\u2028", "INVALID_VALUE"),
        ("lxc.rootfs.path", "tar:/x", "INVALID_VALUE"),
        ("lxc.net.0.type", "wifi", "INVALID_VALUE"),
        ("lxc.hook", "x", "INVALID_VALUE"),
    ],
)
def test_check_value_refuses(key: str, value: str, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_value(key, value)
    assert caught.value.reason == reason
    assert caught.value.text.isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"lxc.sysctl.a{n} = 1\n" for n in range(20_000)),
        "lxc.network.type = veth\nlxc.network.link = a\n" * 10_000,
        "lxc.net.0.ipv4.address = 1.2.3.4\nlxc.net.0.mtu = 1\n" * 10_000,
        "".join(f"lxc.sysctl.a{n} = 1\nlxc.hook =\n" for n in range(10_000)),
        "lxc.cap.drop = kill\nlxc.cap.drop =\n" * 10_000,
    ],
    ids=["sysctl", "network", "addresses", "hook", "cap"],
)
def test_time_grows_with_the_text_only(text: str) -> None:
    begin = time.process_time()
    config, _ = load(text.encode(), "c")
    check(config)
    assert time.process_time() - begin < 4
