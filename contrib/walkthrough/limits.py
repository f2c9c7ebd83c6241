"""Container 001 again, with the article's block of limits and devices."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from contrib.walkthrough import application, texts
from contrib.walkthrough.application import ADDRESS
from contrib.walkthrough.figures import Shown, lacks

if TYPE_CHECKING:
    from contrib.walkthrough.stage import Stage

CONF = "/lxc/conf/001-limits.conf"
# A block of so much memory at once, and gone. Its shell lives on to tell.
_TAKE = "exec 2>/dev/null; dd if=/dev/zero of=/dev/null bs={}M count=1; echo $?"
_KILLED = "137"
# Names of version 1, and what version 2 makes of them: shares of 1024 are a weight of 100, memory
# and swap are counted apart there.
_VALUES = (
    ("cpuset", "cpuset.cpus", "0", "cpuset.cpus", "0"),
    ("cpu", "cpu.shares", "512", "cpu.weight", "50"),
    ("memory", "memory.limit_in_bytes", "268435456", "memory.max", "268435456"),
    ("memory", "memory.memsw.limit_in_bytes", "536870912", "memory.swap.max", "268435456"),
)
_ALLOWED = {
    "null": (1, 3),
    "zero": (1, 5),
    "console": (5, 1),
    "tty": (5, 0),
    "tty0": (4, 0),
    "tty1": (4, 1),
    "tty63": (4, 63),
    "urandom": (1, 9),
    "random": (1, 8),
    "ptmx": (5, 2),
    "pts/0": (136, 0),
    "pts/255": (136, 255),
    "rtc0": (254, 0),
}
_REFUSED = {
    "mem": ("c", 1, 1),
    "full": ("c", 1, 7),
    "kmsg": ("c", 1, 11),
    "loop-control": ("c", 10, 237),
    "fuse": ("c", 10, 229),
    "loop0": ("b", 7, 0),
    "sda": ("b", 8, 0),
    "vda": ("b", 254, 0),
}
# Opening need not succeed, where there is no such hardware; being refused reads differently.
_TRY = """\
mkdir -p /var/tmp/devices && cd /var/tmp/devices && rm -f node
said=$(mknod node {kind} {major} {minor} 2>&1) && made=made || made="$said"
rm -f node
opened=none
for path in {path}; do
  [ -e "$path" ] || continue
  opened=$(perl -MFcntl -e '{perl}' "$path")
done
echo "{name}: mknod: $made; open: $opened"
"""
# A terminal of the host must not become that of a session.
_PERL = 'print sysopen(F, $ARGV[0], O_RDWR|O_NOCTTY|O_NONBLOCK) ? "opened" : "$!"'
_NO = "Operation not permitted"


def _values(stage: Stage) -> Shown:
    """Each file of the container's cgroups."""
    stage.write(CONF, texts.CONF_001 + texts.RESOURCES)
    application.start(stage, "limits", CONF)
    rows, wrong = [], []
    for controller, old, old_value, new, new_value in _VALUES:
        path = _cgroup(stage, controller)
        file, value = (old, old_value) if (path / old).exists() else (new, new_value)
        found = (path / file).read_text().strip()
        rows.append(f"{path / file}: {found}")
        wrong += [f"{file} is {found} and not {value}"] if found != value else []
    return Shown("\n".join(rows), wrong=tuple(wrong))


def _cgroup(stage: Stage, controller: str) -> Path:
    """The directory of 001 for a controller, of whichever version has it."""
    found = json.loads(stage.sh("lxcctl --format json info 001"))["cgroups"]
    # Several may be in one tree, and their names in its own.
    paths = {name: path for key, path in found.items() for name in key.split(",")}
    return Path(paths.get(controller) or paths["unified"])


def _cpus(stage: Stage) -> Shown:
    shown = stage.ask(ADDRESS, "nproc")
    return Shown(shown, typed="[root@001 ~]# nproc", wrong=() if shown == "1" else ("not one",))


def _memory(stage: Stage) -> Shown:
    """As much as there is swap for is to be had beyond memory, and no more."""
    swap = len(Path("/proc/swaps").read_text().splitlines()) > 1
    amounts = (200, 300, 600) if swap else (200, 300)
    found = {amount: stage.ask(ADDRESS, _TAKE.format(amount)) for amount in amounts}
    alive = stage.ask(ADDRESS, "hostname")
    wrong = [f"{amount} MB: {found[amount]}" for amount in amounts[:-1] if found[amount] != "0"]
    wrong += [] if found[amounts[-1]] == _KILLED else [f"{amounts[-1]} MB are to be had"]
    wrong += [] if alive == "001" else ["001 does not live on"]
    rows = [f"{amount} MB: {found[amount]}" for amount in amounts]
    return Shown(
        "\n".join(rows),
        typed=f"[root@001 ~]# {_TAKE.format('…')}",
        because="" if swap else "this machine has no swap: what exceeds memory has no place",
        wrong=tuple(wrong),
    )


def _try(stage: Stage, name: str, kind: str, major: int, minor: int) -> str:
    path = f"/dev/{name}"
    return stage.ask(
        ADDRESS, _TRY.format(name=name, kind=kind, major=major, minor=minor, path=path, perl=_PERL)
    )


def _devices_allowed(stage: Stage) -> Shown:
    rows = [_try(stage, name, "c", *numbers) for name, numbers in _ALLOWED.items()]
    wrong = [row for row in rows if "mknod: made" not in row or _NO in row]
    plain = ("null", "zero", "urandom", "random", "ptmx")
    wrong += [row for row in rows if row.split(":")[0] in plain and "open: opened" not in row]
    return Shown("\n".join(rows), wrong=tuple(wrong))


def _devices_refused(stage: Stage) -> Shown:
    rows = [_try(stage, name, *numbers) for name, numbers in _REFUSED.items()]
    wrong = [row for row in rows if f": {_NO}; open" not in row]
    present = [
        row for name, row in zip(_REFUSED, rows, strict=True) if os.path.exists(f"/dev/{name}")
    ]
    wrong += [row for row in present if not row.endswith(f"open: {_NO}")]
    return Shown("\n".join(rows), wrong=tuple(wrong))


def _by_hand(stage: Stage) -> Shown:
    """A share that stays, a limit that is obeyed from then on."""
    cpu, memory = _cgroup(stage, "cpu"), _cgroup(stage, "memory")
    share = cpu / ("cpu.shares" if (cpu / "cpu.shares").exists() else "cpu.weight")
    limit = memory / "memory.limit_in_bytes"
    limit = limit if limit.exists() else memory / "memory.max"
    swap = memory / "memory.swap.max"
    lines = [f"echo 256 > {share}", f"echo 134217728 > {limit}"]
    # Or it would take from there.
    lines += [f"echo 0 > {swap}"] if swap.exists() else []
    before = stage.ask(ADDRESS, _TAKE.format(200))
    stage.sh("\n".join(("set -e", *lines)))
    after = stage.ask(ADDRESS, _TAKE.format(600))
    # Whatever lxcd does meanwhile.
    stage.sh("lxcctl exec 001 -- true; lxcctl list; lxcctl info 001")
    kept = (share.read_text().strip(), limit.read_text().strip())
    application.finish(stage, "limits")
    wrong = [*lacks(before, "0"), *lacks(after, _KILLED)]
    wrong += [f"they are {kept}"] if kept != ("256", "134217728") else []
    return Shown(
        f"before: 200 MB: {before}\nafter: 600 MB: {after}\n"
        f"{share.name}: {kept[0]}\n{limit.name}: {kept[1]}",
        typed="\n".join(f"# {line}" for line in lines),
        wrong=tuple(wrong),
    )


ACTS = {
    "limits-values": _values,
    "limits-cpus": _cpus,
    "limits-memory": _memory,
    "limits-devices-allowed": _devices_allowed,
    "limits-devices-refused": _devices_refused,
    "limits-by-hand": _by_hand,
}
