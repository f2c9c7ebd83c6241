"""Texts as LXC's commands show them. All pure."""

from __future__ import annotations

from lxcctl.output import columns_of, harmless

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

# Of 0.7's lxc-checkconfig: a title, and in lxcd's words what of it must be there. True: nothing
# works without.
_OLD_REPORT: tuple[tuple[str, tuple[tuple[str, tuple[str, ...], bool], ...]], ...] = (
    (
        "Namespaces",
        (
            ("Namespaces", ("Mount namespace",), True),
            ("Utsname namespace", ("Utsname namespace",), True),
            ("Ipc namespace", ("Ipc namespace",), True),
            ("Pid namespace", ("Pid namespace",), True),
            ("User namespace", ("User namespace",), False),
            ("Network namespace", ("Network namespace",), True),
            ("Multiple /dev/pts instances", ("Multiple /dev/pts instances",), True),
        ),
    ),
    (
        "Control groups",
        (
            ("Cgroup", ("Cgroup",), True),
            ("Cgroup namespace", ("Cgroup namespace",), False),
            # Version 2 has programs in its place.
            ("Cgroup device", ("Cgroup device", "Device programs"), False),
            ("Cgroup sched", ("Cgroup sched",), False),
            ("Cgroup cpu account", ("Cgroup cpu account",), False),
            ("Cgroup memory controller", ("Cgroup memory controller",), False),
            ("Cgroup cpuset", ("Cgroup cpuset",), False),
        ),
    ),
    (
        "Misc",
        (
            ("Veth pair device", ("Veth pair device",), False),
            ("Macvlan", ("Macvlan",), False),
            ("Vlan", ("Vlan",), False),
            ("File capabilities", ("File capabilities",), False),
        ),
    ),
)
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP = 1024


def old_report(available: Collection[str], own: str, found: str) -> Iterator[str]:
    """lxc-checkconfig of 0.7. `own`: where the running kernel's configuration should be, empty if
    it is there; `found`: where another is.
    """
    if own:
        yield f"Kernel config {own} not found, looking in other places..."
        if found:
            yield f"Found kernel config file {found}"
        else:
            yield "No kernel config file found; this is what the kernel itself says"
    for position, (group, lines) in enumerate(_OLD_REPORT):
        if position:
            yield ""
        yield f"--- {group} ---"
        for title, names, required in lines:
            verdict = "required" if required else "missing"
            yield f"{title}: {'enabled' if set(names) & set(available) else verdict}"


def in_columns(names: Sequence[str], width: int) -> Iterator[str]:
    """Names row by row, all as wide as the widest; as many in a row as have room."""
    shown = [harmless(name) for name in names]
    widest = max(map(columns_of, shown), default=0)
    count = max(1, (width + 1) // (widest + 1))
    for begin in range(0, len(shown), count):
        row = shown[begin : begin + count]
        yield " ".join(name + " " * (widest - columns_of(name)) for name in row)


def fancy(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table whose every cell has a blank behind it."""
    cells = [list(titles), *([harmless(cell) or "-" for cell in row] for row in rows)]
    widths = [max(map(columns_of, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "".join(
            f"{cell}{' ' * (width - columns_of(cell))} "
            for cell, width in zip(row, widths, strict=True)
        )


def field(label: str, value: str) -> str:
    """A line of lxc-info."""
    return f"{f'{label}:':<15} {harmless(value)}"


def size(value: int) -> str:
    """Bytes for a person: `812.00 KiB`."""
    amount, unit = float(value), 0
    while amount >= _STEP and unit < len(_UNITS) - 1:
        amount, unit = amount / _STEP, unit + 1
    return f"{amount:.2f} {_UNITS[unit]}" if unit else f"{value} {_UNITS[0]}"


def megabytes(value: int | None) -> str:
    """Bytes in a column: `0.54MB`."""
    return "" if value is None else f"{value / _STEP / _STEP:.2f}MB"
