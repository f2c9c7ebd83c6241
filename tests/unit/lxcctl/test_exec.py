"""exec: bytes in, bytes out, the command's own status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import lxcctl as package
from lxcd.v1 import exec_pb2, types_pb2

if TYPE_CHECKING:
    from typing import Any

    from tests.unit.lxcctl.conftest import FakeDaemon, Lxcctl, Refusal

EVERY_BYTE = bytes(range(256))


def cat(request: Any) -> Any:
    return exec_pb2.RunExecResponse(
        stdout=request.stdin, stderr=request.stdin[::-1], exit=types_pb2.Exit(code=0)
    )


def test_every_byte_passes(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["RunExec"] = cat
    result = lxcctl("exec", "001", "cat", stdin=EVERY_BYTE)
    assert result.status == 0
    assert result.raw == EVERY_BYTE
    assert result.raw_err == EVERY_BYTE[::-1]


def test_what_is_asked(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["RunExec"] = cat
    lxcctl(
        "exec", "001", "--user", "bob:staff", "--cwd", "/tmp", "--env", "A=b c", "--env", "B=",
        "--timeout", "2", "ls", "--env", "x",
    )  # fmt: skip
    (request,) = daemon.asked("RunExec")
    assert request.timeout.seconds == 2
    request.ClearField("timeout")
    assert request == exec_pb2.RunExecRequest(
        container="001",
        command=["ls", "--env", "x"],
        env=["A=b c", "B="],
        user="bob:staff",
        cwd="/tmp",
    )


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ({"code": 0}, 0),
        ({"code": 7}, 7),
        ({"code": 126}, 126),
        ({"code": 127}, 127),
        ({"code": 255}, 255),
        ({"signal": 9}, 137),
        ({"signal": 15}, 143),
        ({}, 1),
    ],
)
def test_status(daemon: FakeDaemon, lxcctl: Lxcctl, end: dict[str, Any], status: int) -> None:
    daemon.on["RunExec"] = lambda _: exec_pb2.RunExecResponse(exit=types_pb2.Exit(**end))
    assert lxcctl("exec", "001", "x").status == status


def test_killed_commands_are_explained(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["RunExec"] = lambda _: exec_pb2.RunExecResponse(
        exit=types_pb2.Exit(signal=9), timed_out=True, output_truncated=True, stderr=b"last words\n"
    )
    result = lxcctl("exec", "001", "x")
    assert result.status == 137
    assert result.err.startswith("last words\nlxcctl: ")
    assert "--timeout" in result.err


def test_not_found_is_not_the_command_s_status(
    daemon: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]
) -> None:
    def run(_request: Any) -> None:
        raise refusal("NOT_FOUND", "no container 001", "NOT_FOUND")

    daemon.on["RunExec"] = run
    result = lxcctl("exec", "001", "x")
    assert (result.status, result.err) == (3, "lxcctl: no container 001\n")


def test_megabytes(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["RunExec"] = cat
    data = EVERY_BYTE * 32768
    assert lxcctl("exec", "001", "cat", stdin=data).raw == data


@pytest.mark.slow
def test_closed_standard_input(daemon: FakeDaemon) -> None:
    daemon.on["RunExec"] = cat
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-m", "lxcctl", "exec", "001", "cat"],
        cwd=Path(package.__file__).parent.parent,
        env={**os.environ, "LXCD_ADDRESS": daemon.address},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
