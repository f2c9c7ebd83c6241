"""Options as getopt_long(3) reads them."""

from __future__ import annotations

import getopt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxc_compat.options import Given, Option, read, usage

from lxcctl.errors import UsageError

OPTIONS = (
    Option("name", "n", "NAME", "its name"),
    Option("nowait", "W", "", "at once"),
    Option("nokill", "", "", "never"),
    Option("timeout", "t", "T", "so long"),
    Option("nesting", "", "NUM", "how deep", optional=True),
    Option("elevated", "e", "LIST", "more", optional=True),
)


def _read(*argv: str, foreign: bool = False) -> Given:
    return read(OPTIONS, argv, foreign=foreign)


@pytest.mark.parametrize(
    "argv",
    [
        ("-n", "002"),
        ("-n002",),
        ("--name", "002"),
        ("--name=002",),
        ("--na", "002"),
        ("--na=002",),
        ("-Wn", "002"),
        ("-Wn002",),
        ("-n", "x", "--name=002"),
    ],
)
def test_every_way_to_give_a_name(argv: tuple[str, ...]) -> None:
    assert _read(*argv).last("name") == "002"


def test_options_may_stand_behind_words_and_dashes_end_them() -> None:
    found = _read("one", "-W", "two", "-", "--", "-t", "--", "--nokill")
    assert found.words == ("one", "two", "-", "-t", "--", "--nokill")
    assert found.has("nowait")
    assert not found.has("timeout")


def test_a_value_may_look_like_an_option() -> None:
    assert _read("-t", "-1").last("timeout") == "-1"
    assert _read("--timeout", "--").last("timeout") == "--"
    assert _read("--name=").last("name", "x") == ""


def test_values_that_may_be_left_out() -> None:
    assert _read("--nesting", "3").values["nesting"] == ("",)
    assert _read("--nesting=3").last("nesting") == "3"
    assert _read("-e", "CAP").words == ("CAP",)
    assert _read("-eCAP").last("elevated") == "CAP"


def test_all_values_are_there_in_order() -> None:
    found = _read("-t", "1", "--timeout=2", "-t3")
    assert found.all("timeout") == ("1", "2", "3")
    assert found.all("name") == ()


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (("--nonsense",), "unrecognized option '--nonsense'"),
        (("--nonsense=1",), "unrecognized option '--nonsense'"),
        (("-x",), "invalid option -- 'x'"),
        (("-Wx",), "invalid option -- 'x'"),
        (("-n",), "option requires an argument -- 'n'"),
        (("--name",), "option '--name' requires an argument"),
        (("--tim",), "option '--timeout' requires an argument"),
        (("--nowait=1",), "option '--nowait' doesn't allow an argument"),
        (("--no",), "option '--no' is ambiguous; possibilities: '--nowait' '--nokill'"),
        (("--=x",), "unrecognized option '--'"),
    ],
)
def test_what_is_wrong_is_said_as_getopt_does(argv: tuple[str, ...], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        _read(*argv)
    assert caught.value.text == text


def test_a_foreign_command_line_keeps_what_is_not_ours() -> None:
    found = _read("--name", "002", "-an", "-n", "-W", "--numeric", "-t", foreign=True)
    assert found.last("name") == "002"
    assert found.words == ("-an", "-n", "-W", "--numeric", "-t")
    found = _read("-n", "002", "-n", "--nowait", "--", "--name", foreign=True)
    assert found.last("name") == "002"
    assert found.words == ("-n", "--name")
    assert found.has("nowait")


_WORDS = st.sampled_from(
    (
        *("-W", "-n", "-nx", "-Wt", "-WW", "-x", "-tW", "--", "-", "", "a", "b c"),
        *("--nowait", "--name", "--name=", "--t", "--timeout=5", "--no", "--nok", "--zz"),
        "--nowait=1",
    )
)


@given(st.lists(_WORDS, max_size=8))
def test_as_pythons_own_getopt_reads_it(argv: list[str]) -> None:
    options = OPTIONS[:4]  # that knows no value which may be left out
    expected: Any
    try:
        pairs, rest = getopt.gnu_getopt(argv, "n:Wt:", ["name=", "nowait", "nokill", "timeout="])
        short = {f"-{option.short}": option.long for option in options}
        expected = [(short.get(key, key.removeprefix("--")), value) for key, value in pairs], rest
    except getopt.GetoptError:
        expected = None
    try:
        found = read(options, argv)
    except UsageError:
        assert expected is None
        return
    assert expected is not None
    pairs, rest = expected
    assert list(found.words) == rest
    assert found.values == {
        name: tuple(value for key, value in pairs if key == name) for name in dict(pairs)
    }


def test_usage_has_a_line_for_each() -> None:
    lines = list(usage(OPTIONS))
    assert lines[0] == "  -n, --name=NAME        its name"
    assert lines[2] == "      --nokill           never"
    assert lines[5] == "  -e, --elevated[=LIST]  more"
