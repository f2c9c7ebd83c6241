"""Which devices a container may use: the lines `devices.allow` and `devices.deny`, and what they
come to. Pure.

Both versions of the key hold one language, that of version 1: security/device_cgroup.c and
admin-guide/cgroup-v1/devices.rst of the kernel. Rules count in the order of their lines. `a` stands
for all devices: denied, what follows is the list of what may be used; allowed, the list of what may
not. An access is granted by an exception that covers all of it, and refused by one that overlaps
it. A rule about the very device of an earlier one changes that; another leaves it alone.

What counts before the first line, if that is not about `a`, is LXC's in either language:
`lxc.cgroup.devices` begins with everything, as a directory of version 1 does; `lxc.cgroup2.devices`
with nothing, as LXC's programs do. A configuration without a line has DEFAULT.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, cast

from lxcd.config.model import DEFAULT as BY_DEFAULT
from lxcd.config.model import CgroupSetting, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Kind = Literal["a", "b", "c"]

MKNOD, READ, WRITE = 1, 2, 4
ALL = MKNOD | READ | WRITE
_LETTERS = {"r": READ, "w": WRITE, "m": MKNOD}

# What fits into a device number: MINORBITS of linux/kdev_t.h. The kernel would take more, for a
# device that cannot be.
LARGEST_MAJOR = (1 << 12) - 1
LARGEST_MINOR = (1 << 20) - 1

_NAMES = {"devices.allow": True, "devices.deny": False}
_RULE = re.compile(
    r"(?P<kind>[abc])[ \t](?P<major>\*|[0-9]{1,10}):(?P<minor>\*|[0-9]{1,10})[ \t]"
    r"(?P<access>[rwm]{1,3})"
)
_FORM = "TYPE MAJOR:MINOR ACCESS, as in `c 1:3 rwm`"


@dataclass(frozen=True, slots=True)
class Rule:
    """One line. Equal are those that say the same, wherever they stand."""

    allow: bool
    kind: Kind
    major: int | None = None  # None: every
    minor: int | None = None
    access: int = ALL
    origin: str = field(default=BY_DEFAULT, compare=False)

    @property
    def text(self) -> str:
        """As the kernel takes and shows it."""
        numbers = ":".join("*" if n is None else str(n) for n in (self.major, self.minor))
        return f"{self.kind} {numbers} {letters(self.access)}"

    @property
    def line(self) -> str:
        """The same with the word that goes before it in a record."""
        return f"{'allow' if self.allow else 'deny'} {self.text}"

    @property
    def file(self) -> str:
        """Which file of version 1 it is written to."""
        return "devices.allow" if self.allow else "devices.deny"


@dataclass(frozen=True, slots=True)
class Policy:
    """What rules come to: whether a device may be used that no exception is about, and the
    exceptions, of which no two are about the same device.
    """

    allows: bool
    exceptions: tuple[Rule, ...] = ()
    origin: str = field(default=BY_DEFAULT, compare=False)  # of the line about `a`

    def permits(self, kind: Kind, major: int, minor: int, access: int) -> bool:
        """Whether a device may be used so: the kernel's devcgroup_check_permission."""
        for rule in self.exceptions:
            if (
                rule.kind != kind
                or rule.major not in (None, major)
                or rule.minor not in (None, minor)
            ):
                continue
            if self.allows and access & rule.access:
                return False
            if not self.allows and not access & ~rule.access:
                return True
        return self.allows

    def but(self, rules: Iterable[Rule]) -> Policy:
        """What it comes to with more rules behind it: the kernel's devcgroup_update_access."""
        allows, origin = self.allows, self.origin
        found = {_device(rule): rule for rule in self.exceptions}
        for rule in rules:
            if rule.kind == "a":
                allows, origin = rule.allow, rule.origin
                found.clear()
                continue
            key = _device(rule)
            before = found.get(key)
            if rule.allow != allows:
                access = rule.access | (before.access if before is not None else 0)
                found[key] = replace(rule, access=access)
            elif before is not None:
                access = before.access & ~rule.access
                if access:
                    found[key] = replace(before, access=access)
                else:
                    del found[key]
        return Policy(allows, tuple(found[key] for key in sorted(found)), origin)

    def rules(self) -> tuple[Rule, ...]:
        """The shortest list of rules that comes to this."""
        return (Rule(self.allows, "a", origin=self.origin), *self.exceptions)


def _device(rule: Rule) -> tuple[str, int, int]:
    return (
        rule.kind,
        -1 if rule.major is None else rule.major,
        -1 if rule.minor is None else rule.minor,
    )


EVERYTHING = Policy(allows=True)

# LXC leaves every device open where the configuration says nothing, and a privileged container may
# then read the host's disks. These are the nodes that every /dev has, what lxc.autodev, terminals
# and devpts need; tun and fuse are for their users inside and reach nothing of the host. Character
# nodes may be made (tools unpack them), but not opened by that; of a block device not even that.
_DEFAULT_NODES = (
    (1, 3),  # null
    (1, 5),  # zero
    (1, 7),  # full
    (1, 8),  # random
    (1, 9),  # urandom
    (5, 0),  # tty
    (5, 1),  # console
    (5, 2),  # ptmx
    (136, None),  # pts/*
    (10, 200),  # net/tun
    (10, 229),  # fuse
)
DEFAULT = Policy(allows=False).but(
    (
        Rule(allow=True, kind="c", access=MKNOD),
        *(Rule(True, "c", major, minor) for major, minor in _DEFAULT_NODES),
    )
)


def policy_of(settings: Iterable[CgroupSetting]) -> Policy:
    """What a configuration asks for. Lines that are wrong are passed over: see `problems`."""
    version: int = 0
    rules: list[Rule] = []
    for setting in settings:
        if setting.name in _NAMES:
            try:
                rules.append(_rule(setting))
            except ValueError:
                continue
            version = version or setting.version
    return Policy(allows=version == 1).but(rules) if rules else DEFAULT


def problems(settings: Iterable[CgroupSetting]) -> tuple[Problem, ...]:
    """What is wrong with the lines about devices."""
    return tuple(_problems(settings))


def _problems(settings: Iterable[CgroupSetting]) -> Iterator[Problem]:
    begun = False
    for setting in settings:
        if not setting.name.startswith("devices."):
            continue
        key = f"lxc.cgroup{'' if setting.version == 1 else '2'}.{setting.name}"
        if setting.name not in _NAMES:
            text = f"devices has no file {setting.name} to write to: devices.allow, devices.deny"
            yield Problem("error", setting.origin, key, text)
            continue
        try:
            rule = _rule(setting)
        except ValueError as error:
            yield Problem("error", setting.origin, key, str(error))
            continue
        allows = setting.version == 1
        if not begun and rule.kind != "a" and rule.allow == allows:
            base = "may be used" if allows else "is denied"
            other = "lxc.cgroup.devices.deny" if allows else "lxc.cgroup2.devices.allow"
            text = f"has no effect: without {other} = a before it every device {base}"
            yield Problem("warning", setting.origin, key, text)
        begun = True


def _rule(setting: CgroupSetting) -> Rule:
    return read_rule(setting.value, allow=_NAMES[setting.name], origin=setting.origin)


def read_rule(text: str, *, allow: bool, origin: str = BY_DEFAULT) -> Rule:
    """Read a rule. ValueError says what is wrong with it."""
    # The kernel takes whatever stands behind `a` for all devices; LXC does not.
    if text == "a":
        return Rule(allow, "a", origin=origin)
    found = _RULE.fullmatch(text)
    if found is None:
        raise ValueError(_fault(text))
    kind = cast("Kind", found["kind"])
    access = read_access(found["access"])
    major = _number(found["major"], "major", LARGEST_MAJOR)
    minor = _number(found["minor"], "minor", LARGEST_MINOR)
    if kind == "a" and (major is not None or minor is not None or access != ALL):
        raise ValueError(f"{text!r}: `a` is all devices with every access: `a` or `a *:* rwm`")
    return Rule(allow, kind, major, minor, access, origin)


def _fault(text: str) -> str:
    """Why it is no rule."""
    words = text.split()
    if not words or words[0] not in ("a", "b", "c"):
        return f"{text!r} begins with none of a, b and c: {_FORM}"
    if len(words) < 3:  # noqa: PLR2004
        return f"{text!r} lacks {'MAJOR:MINOR' if len(words) == 1 else 'the access'}: {_FORM}"
    return f"{text!r} is no device rule: {_FORM}"


def _number(text: str, what: str, largest: int) -> int | None:
    if text == "*":
        return None
    if int(text) > largest:
        raise ValueError(f"no device has the {what} number {text}: it is at most {largest}")
    return int(text)


def read_access(text: str) -> int:
    """Read letters of r, w and m. ValueError."""
    access = 0
    for letter in text:
        if letter not in _LETTERS:
            raise ValueError(f"no access is called {letter!r}: r (read), w (write), m (mknod)")
        access |= _LETTERS[letter]
    return access


def letters(access: int) -> str:
    """The way back."""
    return "".join(letter for letter, bit in _LETTERS.items() if access & bit)


def read_list(text: str) -> Policy:
    """Read a `devices.list` of version 1. It does not show exceptions where all else is allowed."""
    rules = [read_rule(line, allow=True) for line in text.splitlines()]
    return Policy(allows=False).but(rules)


def lines(policy: Policy) -> tuple[str, ...]:
    """As it is kept in a record."""
    return tuple(rule.line for rule in policy.rules())


def read_lines(found: Iterable[str]) -> Policy:
    """The way back. ValueError."""
    rules: list[Rule] = []
    for line in found:
        word, _, text = line.partition(" ")
        rules.append(read_rule(text, allow=word == "allow"))
    return EVERYTHING.but(rules)


def changes(old: Policy, new: Policy) -> tuple[Rule, ...]:
    """Rules that make one the other, each a single write in version 1; what is granted comes
    first.
    """
    if old.allows != new.allows:
        return new.rules()
    before = {_device(rule): rule for rule in old.exceptions}
    after = {_device(rule): rule for rule in new.exceptions}
    found: list[Rule] = []
    for key in sorted({*before, *after}):
        one = after.get(key) or before[key]
        was = before[key].access if key in before else 0
        becomes = after[key].access if key in after else 0
        for bits, allow in ((becomes & ~was, not new.allows), (was & ~becomes, new.allows)):
            if bits:
                found.append(replace(one, allow=allow, access=bits))
    return tuple(sorted(found, key=lambda rule: not rule.allow))


@dataclass(frozen=True, slots=True)
class Node:
    """A device node that a running container was given."""

    path: str  # inside
    kind: Literal["b", "c"]
    major: int
    minor: int
    access: int
    there: bool = False  # it was seen to be hung up inside

    @property
    def rule(self) -> Rule:
        """The right that goes with it."""
        return Rule(True, self.kind, self.major, self.minor, self.access, "device add")
