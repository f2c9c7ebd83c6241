"""Texts as LXC's commands show them."""

from __future__ import annotations

import pytest
from lxc_compat import words

from tests import article

# What lxcd calls it where all is there.
_ALL = frozenset(
    line.partition(":")[0] for line in article.CHECKCONFIG.splitlines() if ":" in line
) | {"Mount namespace"}


def test_the_articles_report_word_for_word() -> None:
    found = words.old_report(_ALL, "/proc/config.gz", "/boot/config-2.6.32-71.el6.x86_64")
    first = (
        "Kernel config /proc/config.gz not found, looking in other places...\n"
        "Found kernel config file /boot/config-2.6.32-71.el6.x86_64\n"
    )
    assert "".join(f"{line}\n" for line in found) == first + article.CHECKCONFIG


def test_a_kernel_that_has_its_own_configuration_has_no_more_lines() -> None:
    assert "".join(f"{line}\n" for line in words.old_report(_ALL, "", "")) == article.CHECKCONFIG


def test_what_is_not_there() -> None:
    lines = list(words.old_report({"Device programs"}, "/proc/config.gz", ""))
    assert lines[1].startswith("No kernel config file found")
    assert "Namespaces: required" in lines
    assert "Pid namespace: required" in lines
    assert "User namespace: missing" in lines
    assert "Cgroup: required" in lines
    # What version 2 has in its place does.
    assert "Cgroup device: enabled" in lines
    assert "Vlan: missing" in lines


def test_names_in_columns() -> None:
    names = ["003", "longername", "x"]
    # Off a terminal one below the other.
    assert list(words.in_columns(names, 0)) == ["003       ", "longername", "x         "]
    assert list(words.in_columns(names, 21)) == ["003        longername", "x         "]
    assert list(words.in_columns(names, 200)) == ["003        longername x         "]
    assert list(words.in_columns([], 80)) == []
    assert list(words.in_columns(["a\x1b[2J"], 80)) == [r"a\x1b[2J"]


def test_a_table_has_a_blank_behind_every_cell() -> None:
    assert list(words.fancy(("NAME", "GROUPS"), [("a", "x, y"), ("longer", "")])) == [
        "NAME   GROUPS ",
        "a      x, y   ",
        "longer -      ",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.00 KiB"),
        (831488, "812.00 KiB"),
        (3 << 29, "1.50 GiB"),
        (1 << 60, "1024.00 PiB"),
    ],
)
def test_sizes(value: int, text: str) -> None:
    assert words.size(value) == text


def test_megabytes_of_a_column() -> None:
    assert words.megabytes(565248) == "0.54MB"
    assert words.megabytes(None) == ""


def test_fields_of_info() -> None:
    assert words.field("Name", "003") == "Name:           003"
    assert words.field(" TX bytes", "1") == " TX bytes:      1"
