"""The table of commands: what each knows, what it refuses, what needs no daemon."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from pathlib import Path

import pytest
from lxc_compat import command as commands
from lxc_compat.__main__ import MODULES, dispatch
from lxc_compat.command import Command

from lxcctl.verbs import VERBS
from lxcd.v1.types_pb2 import Problem

BIN = Path(__file__).resolve().parents[3] / "contrib/lxc-compat/bin"
NAMES = pytest.mark.parametrize("name", sorted(MODULES))
UNSERVED = {name for name, module in MODULES.items() if module == "unserved"}


def _command(name: str) -> Command:
    found: Command = importlib.import_module(f"lxc_compat.{MODULES[name]}").COMMANDS[name]
    return found


def test_the_directory_has_each_command_and_nothing_else() -> None:
    assert {path.name for path in BIN.iterdir()} == {f"lxc-{name}" for name in MODULES}
    assert {path.resolve() for path in BIN.iterdir()} == {BIN.parent / "run"}
    assert (BIN.parent / "run").stat().st_mode & 0o111 == 0o111


@NAMES
def test_no_option_stands_for_two_things(name: str) -> None:
    known = _command(name).known
    for words in ([one.long for one in known], [one.short for one in known if one.short]):
        assert [word for word, count in Counter(words).items() if count > 1] == []


@NAMES
def test_help_usage_and_version_need_no_daemon(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LXCD_COMPAT", raising=False)
    assert dispatch(f"lxc-{name}", ["--help"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"Usage: lxc-{name}")
    assert all(f"--{option.long}" in err for option in _command(name).options)
    assert dispatch(f"lxc-{name}", ["--usage"]) == 0
    out, err = capsys.readouterr()
    assert all(f"--{option.long}" in err for option in _command(name).known)
    assert max(map(len, err.splitlines())) < 80
    assert dispatch(f"lxc-{name}", ["--version"]) == 0
    assert capsys.readouterr().out == "7.0.0\n"


@pytest.mark.parametrize(
    ("era", "status", "version"),
    [("", 1, "7.0.0"), ("7.0", 1, "7.0.0"), ("0.7", 255, "0.7.4.2")],
)
def test_the_eras(
    era: str,
    status: int,
    version: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LXCD_COMPAT", era)
    assert dispatch("lxc-start", []) == status
    assert "No container name specified" in capsys.readouterr().err
    assert dispatch("lxc-version", []) == 0
    assert capsys.readouterr().out == f"lxc version: {version}\n"


def test_a_question_mark_is_help_and_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch("lxc-start", ["-?"]) == 1
    assert capsys.readouterr().err.startswith("Usage: lxc-start")


@NAMES
def test_what_cannot_be_served_is_refused_by_name(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, reason in _command(name).refused:
        value = [] if option.optional or not option.value else ["x"]
        assert dispatch(f"lxc-{name}", ["x", f"--{option.long}", *value]) == 1
        err = capsys.readouterr().err
        assert f"--{option.long}: {reason}" in err
        assert len(err.splitlines()) == 1


def test_priorities_of_a_log() -> None:
    assert commands.tells_errors("trace")
    assert commands.tells_errors("ERROR")
    assert not commands.tells_errors("CRIT")


_UNNAMED = {"ls", "ps", "version", "checkconfig", *UNSERVED}
_ERAS = pytest.mark.parametrize(("era", "status"), [("7.0", 1), ("0.7", 255)])


@NAMES
@_ERAS
def test_no_name(
    name: str,
    era: str,
    status: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name in _UNNAMED:
        return
    monkeypatch.setenv("LXCD_COMPAT", era)
    assert dispatch(f"lxc-{name}", []) == status
    assert capsys.readouterr().err == "lxcctl: No container name specified\n"


@NAMES
@_ERAS
def test_an_unknown_option(
    name: str,
    era: str,
    status: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if _command(name).foreign:
        return
    monkeypatch.setenv("LXCD_COMPAT", era)
    assert dispatch(f"lxc-{name}", ["--nonsense"]) == status
    lines = capsys.readouterr().err.splitlines()
    first = "lxcctl: unrecognized option '--nonsense'"
    if name == "ls" and era == "0.7":
        # Those were the options of another program, whose usage is not ours.
        assert len(lines) == 1
        assert lines[0].startswith(f"{first}: of ls(1)")
        return
    assert lines[0] == first
    assert lines[1].startswith(f"Usage: lxc-{name}")


@NAMES
@_ERAS
def test_no_daemon(
    name: str,
    era: str,
    status: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if name == "version" or name in UNSERVED:
        return
    arguments = {
        "create": ["-n", "x", "-t", "none"],
        "execute": ["-n", "x", "/bin/true"],
        "wait": ["-n", "x", "-s", "RUNNING", "-t", "0"],
        "ls": [],
        "ps": [],
        "checkconfig": [],
    }.get(name, ["-n", "x"])
    monkeypatch.setenv("LXCD_COMPAT", era)
    monkeypatch.setenv("LXCD_ADDRESS", f"unix:{tmp_path}/no.sock")
    assert dispatch(f"lxc-{name}", arguments) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"lxcctl: no daemon at unix:{tmp_path}/no.sock")
    # An option of lxcctl's is none of these.
    assert "--address" not in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "arguments", "text"),
    [
        ("start", ("-p", "file", "x"), "--pidfile"),
        ("start", ("-d", "-F", "x"), "--daemon"),
        ("create", ("x",), "template"),
        ("create", ("x", "-t", "none", "-B", "btrfs"), "btrfs"),
        ("create", ("x", "-t", "none", "--lvname", "v"), "--lvname"),
        ("create", ("x", "-t", "none", "--", "more"), "no arguments"),
        ("destroy", ("-s", "x"), "--snapshots"),
        ("stop", ("-k", "-t", "3", "x"), "--timeout"),
        ("stop", ("-k", "-r", "x"), "--reboot"),
        ("stop", ("--nolock", "x"), "--nolock"),
        ("wait", ("x",), "--state"),
        ("wait", ("x", "-s", "BLA"), "BLA"),
        ("wait", ("x", "-s", "RUNNING", "-t", "soon"), "soon"),
        ("kill", ("x", "KILL"), "KILL"),
        ("kill", ("x", "65"), "65"),
        ("ls", ("--nesting",), "--nesting"),
        ("ls", ("--filter", "("), "("),
        ("ls", ("-f", "-F", "name,shoe"), "SHOE"),
        ("attach", ("-R", "x"), "--remount-sys-proc"),
        ("attach", ("-s", "MOUNT|SHOE", "x"), "SHOE"),
        ("console", ("-e", "shoe", "x"), "shoe"),
        ("console", ("-t", "first", "x"), "first"),
        ("start", ("-c", "/dev/tty8", "x"), "-L FILE logs it, lxc-console shows it"),
        ("start", ("-c", "file", "x"), "--console"),
        ("info", ("x", "y"), "y"),
        ("info", ("-l", "LOUD", "x"), "LOUD"),
        ("info", ("--rcfile", "/no/such.conf", "x"), "/no/such.conf"),
        ("create", ("x", "-t", "none", "--rcfile", "/dev/null"), "-f FILE"),
        ("destroy", ("x", "--rcfile=/dev/null"), "--rcfile"),
        ("info", ("-P", "/a", "-P", "/b", "x"), "-P"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    command: str, arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch(f"lxc-{command}", list(arguments)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("name", sorted(UNSERVED))
@_ERAS
@pytest.mark.parametrize("arguments", [(), ("-n", "x"), ("-a", "--list", "x", "--", "y")])
def test_what_is_not_served_is_refused_by_name(
    name: str,
    era: str,
    status: int,
    arguments: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LXCD_COMPAT", era)
    assert dispatch(f"lxc-{name}", list(arguments)) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"lxcctl: lxcd does not serve lxc-{name} yet")
    assert len(err.splitlines()) == 1


def test_what_is_named_in_place_of_a_command_is_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for name in sorted(UNSERVED):
        dispatch(f"lxc-{name}", [])
    found = re.findall(r"lxcctl (\w+)", capsys.readouterr().err)
    assert set(found) == {
        *("start", "config", "host", "device", "network", "events", "restart", "stop"),
        *("run", "top"),
    }
    assert set(found) <= set(VERBS)


@pytest.mark.parametrize("arguments", [("-l",), ("-la",), ("-l", "002"), ("-t",)])
def test_options_of_ls_are_refused_in_one_sentence(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LXCD_COMPAT", "0.7")
    assert dispatch("lxc-ls", list(arguments)) == 255
    letter = arguments[0][1]
    assert capsys.readouterr().err == (
        f"lxcctl: invalid option -- '{letter}': of ls(1) there is -1 alone, as lxcd lists no"
        " directory\n"
    )


def test_of_problems_only_unknown_keys_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    severity = Problem.Severity.SEVERITY_WARNING
    known = Problem(
        severity=severity, origin="x:1", key="lxc.rebootsignal", message="has no effect: old"
    )
    unknown = Problem(
        severity=severity, origin="x:2", key="lxc.bogus", message="not a key of LXC: ignored"
    )
    commands.warn([known, unknown])
    assert capsys.readouterr().err == (
        "lxcctl: x:2: warning: lxc.bogus: not a key of LXC: ignored\n"
    )


@NAMES
def test_another_configuration_is_taken_or_refused_with_a_reason(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if _command(name).foreign:
        return
    command = _command(name)
    assert "rcfile" in {option.long for option in command.known}
    assert dispatch(f"lxc-{name}", ["--help"]) == 0
    told = "--rcfile" in capsys.readouterr().err
    assert told == ("rcfile" not in {option.long for option, _ in command.refused})


def test_a_log_that_is_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LXCD_ADDRESS", f"unix:{tmp_path}/no.sock")
    assert dispatch("lxc-info", ["-n", "x", "-o", "none"]) == 1
    assert "no daemon" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
