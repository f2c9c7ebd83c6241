"""Hosts that limits are translated for: of version 1, of version 2, and others."""

from __future__ import annotations

from lxcd.cgroup.amounts import Host
from lxcd.cgroup.limits import Controllers, Translation, translate
from lxcd.config.loader import load

HOST = Host(frozenset(range(8)), frozenset({0, 1}), 4096, {"/dev/vda": "254:0"})
NAMES_1 = (
    *("cpu", "cpuacct", "cpuset", "memory", "blkio", "pids", "hugetlb", "net_cls", "net_prio"),
    *("perf_event", "freezer", "devices", "rdma", "misc"),
)
NAMES_2 = ("cpu", "cpuset", "memory", "io", "pids", "hugetlb", "rdma", "misc", "cgroup")
V1 = Controllers(dict.fromkeys(NAMES_1, 1), {})
V2 = Controllers(dict.fromkeys(NAMES_2, 2), {})
NONE = Controllers({}, {})


def translated(
    text: str, controllers: Controllers, sugar: str = "", host: Host = HOST
) -> Translation:
    """Translate the lines of a configuration; those of `sugar` are version 2's, by the key's last word."""
    config, _ = load(text.encode(), "c")
    assert config.problems == ()
    wishes = []
    for line in sugar.splitlines():
        wished, _ = load(f"lxc.cgroup2.{line.partition(': ')[2]}\n".encode(), "x")
        (one,) = wished.cgroups
        wishes.append(
            type(one)(
                one.version, one.name, one.value, f"lxcd.toml: limits.{line.partition(':')[0]}"
            )
        )
    return translate(config.cgroups, controllers, host, sugar=wishes)


def files(text: str, controllers: Controllers, sugar: str = "") -> list[tuple[str, str]]:
    """What is written, when nothing is wrong."""
    found = translated(text, controllers, sugar)
    assert found.problems == ()
    return [(one.file, one.value) for one in found.writes]


def problems(
    text: str, controllers: Controllers, sugar: str = ""
) -> list[tuple[str, str, str, str]]:
    """What is wrong."""
    return [
        (p.severity, p.origin, p.key, p.message)
        for p in translated(text, controllers, sugar).problems
    ]


def lines(text: str, version: int) -> str:
    """Lines of a configuration in one version's language."""
    prefix = "lxc.cgroup2." if version == 2 else "lxc.cgroup."
    return "".join(f"{prefix}{line}\n" for line in text.splitlines())
