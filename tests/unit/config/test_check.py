from __future__ import annotations

import pytest

from lxcd.config.check import check, not_in_force, rules
from lxcd.config.loader import load


def told(text: str) -> list[tuple[str, str, str]]:
    config, _ = load(text.encode(), "c")
    assert config.problems == ()
    return [(p.severity, p.origin, p.key) for p in rules(config)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lxc.cap.drop = kill\nlxc.cap.keep = none\n", [("error", "c:1", "lxc.cap.drop")]),
        (
            "lxc.namespace.clone = net\nlxc.namespace.keep = pid\n",
            [("error", "c:1", "lxc.namespace.clone")],
        ),
        (
            "lxc.cgroup.dir = a\nlxc.cgroup.dir.monitor = b\n",
            [("error", "c:2", "lxc.cgroup.dir.monitor")],
        ),
        (
            "lxc.cgroup.dir.container.inner = b\n",
            [("warning", "c:1", "lxc.cgroup.dir.container.inner")],
        ),
        ("lxc.rootfs.path = rel/ative\n", [("error", "c:1", "lxc.rootfs.path")]),
        ("lxc.rootfs.path = dir:/dev/vg/lv\n", [("warning", "c:1", "lxc.rootfs.path")]),
        ("lxc.rootfs.path = /dev/vg/lv\n", []),
        ("lxc.rootfs.path = loop:vm.img\n", [("error", "c:1", "lxc.rootfs.path")]),
        ("lxc.rootfs.path = loop:/vm.img\nlxc.rootfs.options = partition=2,ro\n", []),
        ("lxc.rootfs.path = /vm.img\nlxc.rootfs.options = partition=0\n", []),
        (
            "lxc.rootfs.path = dir:/r\nlxc.rootfs.options = partition=2\n",
            [("warning", "c:2", "lxc.rootfs.options")],
        ),
        ("lxc.rootfs.path = /dev/shm/r\n", []),
        ("lxc.rootfs.path = zfs:tank/c\n", []),
        (
            "lxc.rootfs.backend = zfs\nlxc.rootfs = tank/c\n",
            [("warning", "c:2", "lxc.rootfs.path")],
        ),
        ("lxc.rootfs.options = ro\n", [("warning", "c:1", "lxc.rootfs.options")]),
        (
            "lxc.rootfs.path = /r\nlxc.mount.entry = a /s/b none bind\n",
            [("warning", "c:2", "lxc.mount.entry")],
        ),
        (
            "lxc.rootfs.path = /r\nlxc.mount.entry = a /r/b none bind\nlxc.mount.entry = a b none bind\n",
            [],
        ),
        (
            "lxc.rootfs.path = /r\nlxc.mount.entry = a /rest none bind\n",
            [("warning", "c:2", "lxc.mount.entry")],
        ),
        ("lxc.rootfs.path = /r\nlxc.rootfs.mount = /m\nlxc.mount.entry = a /m/b none bind\n", []),
        ("lxc.idmap = u 0 1 1\nlxc.idmap = g 0 1 1\n", []),
        (
            (
                "lxc.idmap = u 0 1 1\nlxc.idmap = g 0 1 1\n"
                "lxc.mount.entry = /usr usr none bind,ro,idmap=container\n"
                "lxc.mount.entry = /data data none bind,idmap=container\n"
                "lxc.mount.entry = /bin bin none bind,ro\n"
            ),
            [("warning", "c:3", "lxc.mount.entry")],
        ),
        (
            "lxc.idmap = u 0 1 0\nlxc.idmap = g 0 1 1\n",
            [("error", "c:1", "lxc.idmap"), ("warning", "c:1", "lxc.idmap")],
        ),
        ("lxc.idmap = u 0 1 1\n", [("warning", "c:1", "lxc.idmap")]),
        ("lxc.idmap = u 0 1 1\nlxc.idmap = g 5 1 1\n", [("warning", "c:2", "lxc.idmap")]),
        (
            "lxc.rootfs.path = /r\nlxc.idmap = u 0 1 1\nlxc.idmap = g 0 1 1\n",
            [("warning", "c:2", "lxc.idmap")],
        ),
        (
            "lxc.rootfs.path = /r\nlxc.rootfs.options = idmap=container\nlxc.idmap = u 0 1 1\nlxc.idmap = g 0 1 1\n",
            [],
        ),
        (
            "lxc.idmap = u 0 1 1\nlxc.idmap = g 0 1 1\nlxc.namespace.keep = user\n",
            [("error", "c:3", "lxc.namespace.keep")],
        ),
        (
            "lxc.time.offset.boot = 1h\nlxc.namespace.clone = pid\n",
            [("error", "c:2", "lxc.namespace.clone")],
        ),
        (
            "lxc.rootfs.path = /r\nlxc.namespace.clone = pid\n",
            [("error", "c:2", "lxc.namespace.clone")],
        ),
        ("lxc.uts.name = a\nlxc.namespace.keep = uts\n", [("error", "c:2", "lxc.namespace.keep")]),
        (
            "lxc.net.0.type = empty\nlxc.namespace.keep = net\n",
            [("warning", "c:2", "lxc.namespace.keep")],
        ),
        (
            "lxc.namespace.clone = net\nlxc.namespace.share.net = c2\n",
            [("error", "c:2", "lxc.namespace.share.net")],
        ),
        (
            "lxc.net.0.type = veth\nlxc.net.0.ipv4.gateway = 1.2.3.4\n",
            [("error", "c:2", "lxc.net.0.ipv4.gateway")] * 2,
        ),
        (
            "lxc.net.0.type = veth\nlxc.net.0.flags = up\nlxc.net.0.ipv6.gateway = auto\nlxc.net.0.ipv6.address = ::1\n",
            [("error", "c:3", "lxc.net.0.ipv6.gateway")],
        ),
        (
            "lxc.net.0.type = ipvlan\nlxc.net.0.link = a\nlxc.net.0.flags = up\nlxc.net.0.ipv4.gateway = dev\n",
            [],
        ),
        (
            "lxc.net.0.type = empty\nlxc.net.0.veth.pair = a\n",
            [("warning", "c:2", "lxc.net.0.veth.pair")],
        ),
        ("lxc.net.0.type = phys\n", [("error", "c:1", "lxc.net.0.link")]),
        ("lxc.net.0.type = vlan\nlxc.net.0.link = a\n", [("error", "c:1", "lxc.net.0.vlan.id")]),
        ("lxc.autodev = 0\nlxc.tty.dir = lxc\n", [("warning", "c:2", "lxc.tty.dir")]),
        (
            "lxc.autodev = 0\nlxc.autodev.tmpfs.size = 1\n",
            [("warning", "c:2", "lxc.autodev.tmpfs.size")],
        ),
        (
            "lxc.apparmor.raw = x\nlxc.apparmor.allow_nesting = 1\n",
            [
                ("warning", "c:1", "lxc.apparmor.raw"),
                ("warning", "c:2", "lxc.apparmor.allow_nesting"),
            ],
        ),
        ("lxc.apparmor.raw = x\nlxc.apparmor.profile = generated\n", []),
        ("", []),
    ],
)
def test_rules(text: str, expected: list[tuple[str, str, str]]) -> None:
    assert told(text) == expected


def later(text: str) -> list[str]:
    return [f"{p.origin} {p.key}" for p in not_in_force(load(text.encode(), "c")[0])]


def test_not_in_force() -> None:
    assert later("lxc.uts.name = a\nlxc.mount.auto = proc\n") == []
    assert later("lxc.net.0.type = veth\nlxc.network.type = phys\n") == []
    assert later("lxc.hook.start = a\nlxc.hook.start = b\nlxc.log.level = 1\n") == [
        "c:1 lxc.hook.start",
        "c:3 lxc.log.level",
    ]
    assert later("lxc.aa_profile = x\n") == ["c:1 lxc.aa_profile"]
    assert later("lxc.foo = 1\nlxc.kmsg = 1\nlxc.tty.max = x\n") == []
    assert later("lxc.mount.auto = shmounts:/a\n") == ["c:1 lxc.mount.auto"]
    assert later("lxc.rootfs.path = zfs:tank/x\n") == ["c:1 lxc.rootfs.path"]
    assert later("lxc.rootfs.path = lvm:/dev/x\n") == []
    assert later("lxc.rootfs.path = loop:/x.img\n") == []


@pytest.mark.parametrize(
    "text",
    [
        "lxc.hook.start = a\nlxc.hook.start =\n",
        "lxc.hook.start = a\nlxc.hook =\n",
        "lxc.net.0.type = veth\nlxc.net.0.link = a\nlxc.net =\n",
        "lxc.net.0.type = veth\nlxc.net.0.link = a\nlxc.net.0 =\n",
        "lxc.log.level = 1\nlxc.log.level =\n",
        "lxc.console.path = /dev/tty1\nlxc.console.path = none\n",
    ],
)
def test_what_is_cleared_is_not_told(text: str) -> None:
    assert later(text) == []


def test_clearing_a_family_leaves_its_relatives() -> None:
    assert later("lxc.hook.version = 1\nlxc.hook =\n") == ["c:1 lxc.hook.version"]


def test_check_returns_everything() -> None:
    config, _ = load(
        b"lxc.foo = 1\nlxc.cap.drop = kill\nlxc.cap.keep = kill\nlxc.hook.start = x\n", "c"
    )
    assert [(p.severity, p.origin) for p in check(config)] == [
        ("warning", "c:1"),
        ("error", "c:2"),
        ("warning", "c:4"),
    ]
