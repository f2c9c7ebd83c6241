from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcd.cgroup import devices
from lxcd.cgroup.devices import ALL, EVERYTHING, MKNOD, READ, WRITE, Kind, Policy, Rule
from lxcd.config.loader import load
from tests.article import RESOURCES
from tests.device_rules import ACCESSES, policies, rule_lists


def policy(text: str) -> Policy:
    config, _ = load(text.encode(), "c")
    assert config.problems == ()
    assert [one for one in devices.problems(config.cgroups) if one.severity == "error"] == []
    return devices.policy_of(config.cgroups)


def told(text: str) -> list[tuple[str, str, str, str]]:
    config, _ = load(text.encode(), "c")
    found = devices.problems(config.cgroups)
    return [(one.severity, one.origin, one.key, one.message) for one in found]


@pytest.mark.parametrize("version", ["cgroup", "cgroup2"])
def test_the_articles_list(version: str) -> None:
    text = RESOURCES.replace("cgroup", version)
    found = policy(text)
    assert told(text) == []
    assert not found.allows
    assert len(found.exceptions) == 10
    assert found.permits("c", 1, 3, ALL)
    assert found.permits("c", 4, 63, READ | WRITE)
    assert not found.permits("c", 1, 7, READ)
    assert not found.permits("b", 8, 0, READ)
    assert not found.permits("b", 1, 3, MKNOD)
    assert found.exceptions[0].origin == "c:14"


def test_nothing_said_is_the_default() -> None:
    found = policy("lxc.cgroup.cpu.shares = 512\n")
    assert found == devices.DEFAULT
    for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, 9)):
        assert found.permits("c", major, minor, ALL)
    for minor in (200, 229):
        assert found.permits("c", 10, minor, READ | WRITE)
    assert found.permits("c", 4, 1, MKNOD)
    assert not found.permits("c", 4, 1, READ)
    assert not any(found.permits("b", 8, 0, access) for access in (READ, WRITE, MKNOD))
    # A configuration that clears what it has included says nothing either.
    assert policy(f"{RESOURCES}lxc.cgroup.devices.deny =\nlxc.cgroup.devices.allow =\n") == found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lxc.cgroup.devices.allow = c 1:3 r", EVERYTHING),
        ("lxc.cgroup.devices.deny = b *:* rwm", Policy(True, (Rule(False, "b"),))),
        ("lxc.cgroup2.devices.allow = c 1:3 r", Policy(False, (Rule(True, "c", 1, 3, READ),))),
        ("lxc.cgroup2.devices.deny = c 1:3 r", Policy(False)),
        ("lxc.cgroup2.devices.allow = a", EVERYTHING),
        ("lxc.cgroup.devices.deny = a", Policy(False)),
        (
            "lxc.cgroup2.devices.allow = c 1:3 r\nlxc.cgroup.devices.allow = c 1:3 w",
            Policy(False, (Rule(True, "c", 1, 3, READ | WRITE),)),
        ),
        (
            (
                "lxc.cgroup.devices.deny = a\nlxc.cgroup.devices.allow = c 1:3 rw\n"
                "lxc.cgroup.devices.deny = c 1:* rw\nlxc.cgroup.devices.deny = c 1:3 w"
            ),
            Policy(False, (Rule(True, "c", 1, 3, READ),)),
        ),
        (
            "lxc.cgroup.devices.deny = c 1:3 rwm\nlxc.cgroup.devices.allow = c 1:3 r",
            Policy(True, (Rule(False, "c", 1, 3, WRITE | MKNOD),)),
        ),
    ],
)
def test_what_lines_come_to(text: str, expected: Policy) -> None:
    assert policy(text) == expected


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("c 1:3", "lacks the access"),
        ("c", "lacks MAJOR:MINOR"),
        ("x 1:3 rwm", "none of a, b and c"),
        ("c 99999999:0 r", "major number 99999999: it is at most 4095"),
        ("c 0:1048576 r", "minor number 1048576: it is at most 1048575"),
        ("c 1:3 rwx", "is no device rule"),
        ("c 1:3 rwmr", "is no device rule"),
        ("c -1:3 r", "is no device rule"),
        ("c 1 3 r", "is no device rule"),
        ("c  1:3 r", "is no device rule"),
        ("c 1:3 r w", "is no device rule"),
        ("a 1:3 rwm", "all devices with every access"),
        ("a *:* r", "all devices with every access"),
        ("all", "none of a, b and c"),
    ],
)
def test_what_does_not_parse(value: str, match: str) -> None:
    ((severity, origin, key, message),) = told(
        f"lxc.uts.name = x\nlxc.cgroup2.devices.allow = {value}\n"
    )
    assert (severity, origin, key) == ("error", "c:2", "lxc.cgroup2.devices.allow")
    assert re.search(match, message), message


def test_another_file() -> None:
    ((severity, _, key, message),) = told("lxc.cgroup.devices.list = a\n")
    assert (severity, key) == ("error", "lxc.cgroup.devices.list")
    assert "devices.allow" in message


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("lxc.cgroup.devices.allow = c 1:3 r\n", ["c:1"]),
        ("lxc.cgroup2.devices.deny = c 1:3 r\n", ["c:1"]),
        ("lxc.cgroup.devices.deny = c 1:3 r\nlxc.cgroup.devices.allow = c 1:3 r\n", []),
        ("lxc.cgroup.devices.deny = a\nlxc.cgroup.devices.allow = c 1:3 r\n", []),
        ("lxc.cgroup2.devices.allow = c 1:3 r\n", []),
    ],
)
def test_a_line_without_effect(text: str, lines: list[str]) -> None:
    assert [(one[0], one[1]) for one in told(text)] == [("warning", line) for line in lines]


@given(st.text(max_size=20))
def test_any_text_is_a_rule_or_an_error(text: str) -> None:
    try:
        rule = devices.read_rule(text, allow=True)
    except ValueError:
        return
    assert devices.read_rule(rule.text, allow=True) == rule


@given(rule_lists())
def test_rules_are_read_as_they_are_written(rules: list[Rule]) -> None:
    for rule in rules:
        assert devices.read_rule(rule.text, allow=rule.allow) == rule


@given(policies())
def test_a_policy_is_read_as_it_is_written(found: Policy) -> None:
    assert devices.read_lines(devices.lines(found)) == found
    assert EVERYTHING.but(found.rules()) == found
    if not found.allows:
        shown = "".join(f"{rule.text}\n" for rule in found.exceptions)
        assert devices.read_list(shown) == found


@given(policies(), policies())
def test_changes_make_one_the_other(old: Policy, new: Policy) -> None:
    assert old.but(devices.changes(old, new)) == new
    assert devices.changes(new, new) == ()


@given(policies(), policies(), st.sampled_from(ACCESSES))
def test_a_change_never_denies_what_both_permit(
    old: Policy, new: Policy, access: tuple[Kind, int, int, int]
) -> None:
    kind, major, minor, bits = access
    if old.allows != new.allows:
        return
    same = [p.permits(kind, major, minor, bits) for p in (old, new)]
    if not all(same):
        return
    exact = [rule for rule in devices.changes(old, new) if rule.minor is not None]
    if exact == list(devices.changes(old, new)):
        now = old
        for rule in devices.changes(old, new):
            now = now.but([rule])
            assert now.permits(kind, major, minor, bits)
