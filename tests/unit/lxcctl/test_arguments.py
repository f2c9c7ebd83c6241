"""The grammar of command lines, without a daemon."""

from __future__ import annotations

import argparse
import signal
from typing import TYPE_CHECKING

import pytest

from lxcctl import arguments, verbs, wire
from lxcctl.__main__ import _global_options, _verb_parser
from lxcctl.channel import normal_address
from lxcctl.errors import UsageError
from lxcd.v1 import container_pb2, types_pb2

if TYPE_CHECKING:
    from typing import Any


def parse(verb: str, *argv: str) -> Any:
    first, _, word = verb.partition(" ")
    module, form, line = verbs.FAMILIES[first][word] if word else verbs.VERBS[verb]
    parser, _ = _verb_parser(module, verb, form, line)
    return parser.read(argv)


@pytest.mark.parametrize(
    "verb", [v for v, row in verbs.VERBS.items() if row[0] and v not in verbs.FAMILIES]
)
def test_every_verb_has_a_parser(verb: str) -> None:
    module, form, line = verbs.VERBS[verb]
    parser, run = _verb_parser(module, verb, form, line)
    assert callable(run)
    assert parser.format_help().startswith(f"usage: lxcctl {verb}")


@pytest.mark.parametrize(
    "verb", [f"{first} {verb}" for first, family in verbs.FAMILIES.items() for verb in family]
)
def test_every_verb_below_a_verb_has_a_parser(verb: str) -> None:
    first, _, word = verb.partition(" ")
    module, form, line = verbs.FAMILIES[first][word]
    parser, run = _verb_parser(module, verb, form, line)
    assert callable(run)
    assert f"usage: lxcctl {verb}" in parser.format_help()


def test_tables_of_words_are_those_of_the_api() -> None:
    state, cause = types_pb2.State.DESCRIPTOR, types_pb2.Cause.DESCRIPTOR
    assert [f"STATE_{word}" for word in arguments.STATES] == [v.name for v in state.values]
    assert [v.number for v in state.values] == list(range(len(arguments.STATES)))
    assert [f"CAUSE_{word}" for word in wire.CAUSES] == [v.name for v in cause.values]
    assert wire.ERROR_SEVERITY == types_pb2.Problem.Severity.SEVERITY_ERROR


@pytest.mark.parametrize(
    ("argv", "command", "user"),
    [
        (["001", "ls", "-l"], ["ls", "-l"], ""),
        (["001", "--", "ls", "-l"], ["ls", "-l"], ""),
        (["--user", "bob", "001", "ls", "--user", "x"], ["ls", "--user", "x"], "bob"),
        (["001", "--user=bob", "ls", "--help"], ["ls", "--help"], "bob"),
        (["001", "--user", "bob", "--", "--", "x"], ["--", "x"], "bob"),
        (["001", "sh", "-c", "a -- b", "--", "c"], ["sh", "-c", "a -- b", "--", "c"], ""),
        (["--env", "A=-1", "001", "-"], ["-"], ""),
    ],
)
def test_exec_takes_its_command_with_and_without_dashes(
    argv: list[str], command: list[str], user: str
) -> None:
    args = parse("exec", *argv)
    assert args.name == "001"
    assert args.command == command
    assert args.user == user


def test_exec_without_a_command() -> None:
    assert parse("exec", "001", "--user", "bob").command is None
    with pytest.raises(UsageError, match="no command after --"):
        parse("exec", "001", "--")


def test_names_and_options_in_any_order() -> None:
    args = parse("stop", "001", "--timeout", "5", "002", "--kill", "003")
    assert args.names == ["001", "002", "003"]
    assert args.timeout == 5
    assert args.kill


def test_start_leaves_the_command_alone() -> None:
    args = parse("start", "001", "-s", "lxc.uts.name = x=y", "--", "sleep", "--ephemeral")
    assert args.define == [("lxc.uts.name", "x=y")]
    assert args.command == ["sleep", "--ephemeral"]
    assert not args.ephemeral
    assert parse("start", "001").command is None


@pytest.mark.parametrize(
    ("verb", "argv", "text"),
    [
        ("start", [], "required: NAME"),
        ("start", ["001", "--wait", "booted"], "not yet available"),
        ("start", ["001", "--wait", "sleeping"], "not running"),
        ("start", ["001", "--console=tty1"], "ignored explicit argument"),
        ("start", ["001", "-s", "novalue"], "not KEY=VALUE"),
        ("start", ["001", "--format", "xml"], "invalid choice"),
        ("stop", ["001", "--kill", "--no-kill"], "not allowed with"),
        ("stop", ["001", "--timeout", "soon"], "not a time span"),
        ("stop", ["001", "--timeout", "nan"], "not a time span"),
        ("stop", ["001", "--timeout=-1"], "not a time span"),
        ("stop", ["001", "--ki"], "unrecognized arguments"),
        ("wait", ["001"], "required: --for"),
        ("wait", ["001", "--for", "booted"], "not yet available"),
        ("wait", ["001", "--for", "RUNING"], "no such state"),
        ("logs", ["001", "--tail", "1", "--bytes", "2"], "not allowed with"),
        ("logs", ["001", "--since", "1h", "--tail", "1"], "not allowed with"),
        ("logs", ["001", "--tail", "-1"], "expected one argument|not a number"),
        ("exec", ["001", "--env", "=X", "--", "ls"], "not NAME=VALUE"),
        ("exec", ["001", "--env", "NOT_SET_HERE", "--", "ls"], "is not set here"),
        ("exec", ["001", "--umask", "8", "--", "ls"], "not an octal mask"),
        ("exec", ["001", "--umask", "1000", "--", "ls"], "not an octal mask"),
        ("exec", ["001", "--umask=-1", "--", "ls"], "not an octal mask"),
        ("exec", ["001", "--namespace", "net,nosuch", "--", "ls"], "no such namespace: 'nosuch'"),
        ("exec", ["001", "--elevate", "root", "--", "ls"], "no such privilege: 'root'"),
        ("exec", ["001", "-t", "-T", "--", "ls"], "not allowed with"),
        ("run", ["host", "-t", "--no-tty", "--", "ls"], "not allowed with"),
        ("console", ["001", "--tty", "-1"], "expected one argument|not a number"),
        ("attach", [], "required: ID"),
        ("events", ["--since", "yesterday"], "not a time"),
        ("rename", ["001"], "required: NEW"),
        ("config get", ["001"], "required: KEY"),
        ("config set", ["001", "lxc.x"], "required: VALUE"),
    ],
)
def test_usage_errors(verb: str, argv: list[str], text: str) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        parse(verb, *argv)
    assert caught.value.status == 2
    assert caught.value.usage.startswith(f"usage: lxcctl {verb}")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", signal.SIGTERM),
        ("SIGTERM", signal.SIGTERM),
        ("sigterm", signal.SIGTERM),
        ("15", 15),
        ("-9", 9),
        ("RTMIN+3", signal.SIGRTMIN + 3),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("RTMAX-1", signal.SIGRTMAX - 1),
        ("RTMIN", signal.SIGRTMIN),
    ],
)
def test_signals(text: str, number: int) -> None:
    assert parse("signal", "001", text).signal == number
    assert arguments.signal_number(wire.signal_name(number)) == number


@pytest.mark.parametrize("text", ["", "0", "65", "FOO", "RTMIN+99", "RTMIN+", "SIG", "RTMAX+1"])
def test_no_signals(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        arguments.signal_number(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("90", 90), ("1.5", 1.5), ("10m", 600), ("2h", 7200), ("1d", 86400), ("500ms", 0.5)],
)
def test_time_spans(text: str, value: Any) -> None:
    assert arguments.seconds(text) == value


def test_states() -> None:
    assert arguments.states("running|STOPPED,Frozen") == [
        types_pb2.STATE_RUNNING,
        types_pb2.STATE_STOPPED,
        types_pb2.STATE_FROZEN,
    ]
    with pytest.raises(argparse.ArgumentTypeError):
        arguments.states("UNSPECIFIED")
    assert parse("wait", "001", "--for", "exit").goal == ([], 0)
    assert parse("wait", "001", "--for", "network").goal == ([], container_pb2.CONDITION_NETWORK)


@pytest.mark.parametrize(
    ("address", "normal"),
    [
        ("unix:/run/lxcd/lxcd.sock", "unix:/run/lxcd/lxcd.sock"),
        ("unix:///run/lxcd/lxcd.sock", "unix:/run/lxcd/lxcd.sock"),
        ("/tmp/s", "unix:/tmp/s"),
        ("./s", "unix:./s"),
        ("unix:s", "unix:s"),
    ],
)
def test_addresses(address: str, normal: str) -> None:
    assert normal_address(address) == normal


@pytest.mark.parametrize("address", ["unix:", "tcp:host:8443", "host", "", "http://host/x"])
def test_no_addresses(address: str) -> None:
    with pytest.raises(UsageError):
        normal_address(address)


def test_global_options_before_the_verb() -> None:
    options, rest = _global_options(["--address", "a", "--format=json", "list", "--format", "csv"])
    assert options == {"address": "a", "format": "json"}
    assert rest == ["list", "--format", "csv"]
    with pytest.raises(UsageError):
        _global_options(["--address"])


def test_moments() -> None:
    now = 1_700_000_000 * 10**9
    assert wire.moment("10m", now) == now - 600 * 10**9
    assert wire.moment("2023-11-14T22:13:20.5Z", 0) == now + 5 * 10**8
    assert wire.moment("2023-11-15T07:13:20+09:00", 0) == now
    with pytest.raises(ValueError, match="yesterday"):
        wire.moment("yesterday", now)
