"""lxc-attach: what it asks the daemon for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lxc_compat.__main__ import dispatch

from lxcd.v1 import exec_pb2
from tests.unit.lxcctl.playing import EXEC, says

if TYPE_CHECKING:
    from tests.unit.lxcctl.conftest import FakeDaemon

pytestmark = pytest.mark.usefixtures("attaching")


@pytest.fixture
def attaching(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LXCD_ADDRESS", daemon.address)
    monkeypatch.setenv("FROM_HERE", "a=b c")
    monkeypatch.delenv("NOT_HERE", raising=False)
    daemon.on["CreateExec"] = lambda _: exec_pb2.Exec(id="e1")
    daemon.on["AttachExec"] = says(EXEC, EXEC.end(code=0))


def _asked(daemon: FakeDaemon, *arguments: str) -> exec_pb2.CreateExecRequest:
    assert dispatch("lxc-attach", ["-n", "box", *arguments]) == 0
    found: exec_pb2.CreateExecRequest = daemon.asked("CreateExec")[-1]
    return found


def test_a_shell_is_the_users_own(daemon: FakeDaemon) -> None:
    assert list(_asked(daemon).command) == []
    assert list(_asked(daemon, "--", "ls", "-l").command) == ["ls", "-l"]


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ([], True),
        (["--clear-env"], False),
        (["--clear-env", "--keep-env"], True),
        (["--keep-env", "--clear-env"], False),
        (["--clear-env", "--keep-env", "--clear-env"], False),
    ],
)
def test_the_last_word_on_the_environment_counts(
    daemon: FakeDaemon, arguments: list[str], *, kept: bool
) -> None:
    assert ("FROM_HERE=a=b c" in _asked(daemon, *arguments).env) == kept


def test_variables_that_are_kept(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"--keep-var={name}" for name in ("NOT_HERE", "FROM_HERE", "FROM_HERE=x", "")]
    # What is set is not what is kept.
    given = _asked(daemon, "-v", "FROM_HERE=other", "--clear-env", *names)
    assert list(given.env) == ["FROM_HERE=a=b c", "FROM_HERE=other"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("arguments", [[], ["--clear-env", "--keep-var", "LATIN"]])
def test_a_variable_that_no_string_can_hold_is_left_out(
    daemon: FakeDaemon,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.setenv("LATIN", "caf\udce9")
    found = _asked(daemon, *arguments)
    assert not any(text.startswith("LATIN") for text in found.env)
    assert capsys.readouterr().err == "lxcctl: LATIN is left out: it is not valid UTF-8\n"
