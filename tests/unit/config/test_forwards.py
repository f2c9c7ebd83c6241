"""Forwards in a container's lxcd.toml: read, added, removed; all else stays."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.config import forwards
from lxcd.config.daemon import load_container_settings
from lxcd.config.forwards import Forward

STEADY = settings(deadline=None, derandomize=True, database=None)
PORT_NUMBERS = st.integers(1, 65535)
FORWARDS = st.builds(
    Forward,
    st.sampled_from(forwards.PROTOCOLS),
    PORT_NUMBERS,
    PORT_NUMBERS,
    st.sampled_from(["", "127.0.0.1", "2001:db8::1"]),
)
BEFORE = st.sampled_from(
    [
        "",
        'image = "host"\n',
        'image = "host"',
        '# mine\n[labels]\na = "[[forward]]"\n',
        '[[forward]]\nlisten = 1 # kept\nconnect = 2\n\n# of labels\n[labels]\na = "b"\n',
        '[[forward]]\nlisten = 1\n[[forward]]\nlisten = 2\nprotocol = "udp"\n',
    ]
)


@STEADY
@given(BEFORE, FORWARDS)
def test_what_is_added_can_be_removed_again(text: str, forward: Forward) -> None:
    there, _ = forwards.read(tomllib.loads(text).get("forward", []))
    if any(forward.clashes(one) for one in there):
        return
    added = forwards.with_forward(text, forward)
    assert added.startswith(text)
    assert load_container_settings(added.encode(), "x")[0].forwards == (*there, forward)
    removed = forwards.without_forward(added, forward)
    assert removed.rstrip("\n") == text.rstrip("\n")


def test_one_among_others_goes_alone() -> None:
    text = '[[forward]]\nlisten = 1 # kept\n\n[[forward]]\nlisten = 2\n\n# of labels\n[labels]\na = "b"\n'
    made = forwards.without_forward(text, Forward("tcp", 2, 2))
    assert made == '[[forward]]\nlisten = 1 # kept\n\n[labels]\na = "b"\n'


def test_what_is_written_unusually_is_for_its_owner_to_edit() -> None:
    inline = "forward = [{listen = 1}]\n"
    with pytest.raises(ValueError, match="by hand"):
        forwards.without_forward(inline, Forward("tcp", 1, 1))
    with pytest.raises(ValueError, match="by hand"):
        forwards.with_forward(inline, Forward("tcp", 2, 2))
    with pytest.raises(ValueError, match="by hand"):
        forwards.with_forward("nonsense", Forward("tcp", 2, 2))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("forward = 5", "tables"),
        ("forward = [5]", "tables"),
        ("[[forward]]\nconnect = 5", "listen must be a port"),
        ("[[forward]]\nlisten = 0", "listen must be a port"),
        ("[[forward]]\nlisten = true", "listen must be a port"),
        ("[[forward]]\nlisten = 5\nconnect = 65536", "connect must be a port"),
        ('[[forward]]\nlisten = 5\nprotocol = "sctp"', "protocol must be"),
        ('[[forward]]\nlisten = 5\nlisten_address = "x"', "not appear to be"),
        ('[[forward]]\nlisten = 5\nlisten_address = "224.0.0.1"', "not an address of the host"),
        ('[[forward]]\nlisten = 5\nlisten_address = "::1"', "nothing can be led on from ::1"),
        ("[[forward]]\nlisten = 5\nto = 6", "not a setting of a forward: to"),
        ("[[forward]]\nlisten = 5\n[[forward]]\nlisten = 5\nconnect = 6", "taken by another"),
    ],
)
def test_what_cannot_be_is_told_with_its_line(text: str, problem: str) -> None:
    found, problems = load_container_settings(text.encode(), "lxcd.toml")
    assert len(found.forwards) <= 1
    (told,) = problems
    assert told.severity == "error"
    assert told.origin == "lxcd.toml:1"
    assert problem in told.message


def test_who_wants_the_same_port() -> None:
    one = Forward("tcp", 80, 80)
    assert one.clashes(Forward("tcp", 80, 8080, "192.0.2.1"))
    assert not one.clashes(Forward("udp", 80, 80))
    assert not Forward("tcp", 80, 1, "192.0.2.1").clashes(Forward("tcp", 80, 1, "192.0.2.2"))
    assert forwards.forward("tcp", 80, 80, "0.0.0.0") == one
    assert str(Forward("tcp", 80, 81, "fd00::1")) == "tcp [fd00::1]:80:81"
