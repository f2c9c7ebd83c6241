"""Exit statuses, messages, and what is imported when."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import lxcctl as package
from lxcctl.errors import errno_words
from lxcd.v1 import container_pb2, exec_pb2
from tests.unit.lxcctl.playing import CONSOLE, EXEC, says

if TYPE_CHECKING:
    from typing import Any

    from tests.unit.lxcctl.conftest import FakeDaemon, Lxcctl, Refusal

ROOT = Path(package.__file__).parent.parent


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("NOT_FOUND", 3),
        ("FAILED_PRECONDITION", 4),
        ("ABORTED", 4),
        ("ALREADY_EXISTS", 4),
        ("PERMISSION_DENIED", 5),
        ("UNAUTHENTICATED", 5),
        ("INVALID_ARGUMENT", 2),
        ("INTERNAL", 1),
        ("RESOURCE_EXHAUSTED", 1),
        ("UNKNOWN", 1),
    ],
)
@pytest.mark.parametrize("reason", ["", "SOME_REASON"])
def test_exit_status_by_code(
    daemon: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal], code: str, status: int, reason: str
) -> None:
    def refuse(_request: Any) -> None:
        raise refusal(code, "no \x1b[31mway", reason)

    daemon.on["GetContainer"] = refuse
    result = lxcctl("info", "001")
    assert result.status == status
    assert result.out == ""
    assert result.err == "lxcctl: 001: no \\x1b[31mway\n"


def test_daemon_that_cannot_now_is_not_a_missing_daemon(
    daemon: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]
) -> None:
    def refuse(_request: Any) -> None:
        raise refusal("UNAVAILABLE", "the keeper is away", "UNAVAILABLE")

    daemon.on["GetHost"] = refuse
    result = lxcctl("host")
    assert result.status == 1
    assert "the keeper is away" in result.err


def test_no_daemon(lxcctl: Lxcctl, tmp_path: Path) -> None:
    result = lxcctl("list")
    assert result.status == 69
    assert f"no daemon at unix:{tmp_path}/nobody: No such file" in result.err
    assert result.err.count("\n") == 1


def test_no_daemon_is_said_once_for_many(lxcctl: Lxcctl) -> None:
    result = lxcctl("start", "001", "002", "003")
    assert result.status == 69
    assert result.err.count("no daemon") == 1


def test_dead_socket(lxcctl: Lxcctl, daemon: FakeDaemon) -> None:
    daemon.stop()
    assert lxcctl("logs", "001", "--follow").status == 69
    assert lxcctl("events", "--follow").status == 69


def test_forbidden_socket(daemon: FakeDaemon) -> None:
    daemon.path.chmod(0)
    # Root may connect to everything, unless it gives that right up: capabilities(7).
    humble = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    result = subprocess.run(
        [
            *(humble if os.geteuid() == 0 else []),
            *(sys.executable, "-m", "lxcctl", "--address", f"unix:{daemon.path}", "list"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (result.returncode, result.stdout) == (5, "")
    assert "permission denied" in result.stderr


def test_address_by_option_before_and_after_the_verb(
    daemon: FakeDaemon, lxcctl: Lxcctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LXCD_ADDRESS", "unix:/nonexistent/s")
    daemon.on["ListContainers"] = lambda _: container_pb2.ListContainersResponse()
    assert lxcctl("list").status == 69
    assert lxcctl("--address", str(daemon.path), "list").status == 0
    assert lxcctl("list", "--address", daemon.address).status == 0
    result = lxcctl("--address", "/nonexistent/x", "list", "--address", daemon.address)
    assert result.status == 0


def test_failed_start_in_words(daemon: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]) -> None:
    def refuse(_request: Any) -> None:
        raise refusal(
            "FAILED_PRECONDITION",
            "001 did not start",
            "START_FAILED",
            step="mount_proc",
            index="12",
            syscall="fsmount",
            errno="EPERM",
            origin="/var/lib/lxc/001/config:7",
        )

    daemon.on["StartContainer"] = refuse
    result = lxcctl("start", "001")
    assert result.status == 1
    assert result.err.splitlines() == [
        "lxcctl: 001 did not start",
        "  failed at step 12 mount_proc",
        "  system call fsmount: EPERM (Operation not permitted)",
        "  asked for at /var/lib/lxc/001/config:7",
        "  lxcctl plan 001 shows every step",
    ]


def test_errno_words() -> None:
    assert errno_words("13") == "EACCES (Permission denied)"
    assert errno_words(2) == "ENOENT (No such file or directory)"
    assert errno_words("weird") == "weird"


def test_arguments_that_are_not_utf8(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    assert not daemon.requests
    result = lxcctl("info", "\udcff")
    assert result.status == 2
    assert "UTF-8" in result.err


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        ([], 2),
        (["help"], 0),
        (["--help"], 0),
        (["-h"], 0),
        (["--version"], 0),
        (["version"], 0),
        (["version", "x"], 2),
        (["help", "start"], 0),
        (["help", "config"], 0),
        (["help", "config", "set"], 0),
        (["help", "nonsense"], 2),
        (["start", "--help"], 0),
        (["config", "--help"], 0),
        (["config"], 2),
        (["config", "nonsense"], 2),
        (["nonsense"], 2),
        (["--nonsense"], 2),
        (["--format", "xml", "list"], 2),
        (["shutdown"], 2),
    ],
)
def test_help_and_usage(lxcctl: Lxcctl, argv: list[str], status: int) -> None:
    result = lxcctl(*argv)
    assert result.status == status
    assert bool(result.out) == (status == 0)
    assert bool(result.err) == (status != 0)


def test_misspelt_verb(lxcctl: Lxcctl) -> None:
    assert "did you mean start?" in lxcctl("satrt").err


def test_version_is_the_project_s() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert package.__version__ == project["version"]


_IMPORTS = """
import sys
before = set(sys.modules)
from lxcctl.__main__ import dispatch
for argv in (["help"], ["--version"], ["nonsense"], ["start", "--help"], ["exec"],
             ["start"], ["wait", "001", "--for", "x"], ["run", "host"], ["config"],
             ["list", "--address", "tcp:x"], ["config", "set", "--help"]):
    dispatch(argv)
print("MODULES", *sorted(set(sys.modules) - before))
"""


@pytest.mark.slow
def test_what_is_not_imported_before_the_arguments_are_understood() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.insert(0, {str(ROOT)!r}){_IMPORTS}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    modules = done.stdout.split("MODULES ")[1].split()
    families = {name.split(".")[0] for name in modules}
    assert not families & {
        "grpc", "google", "lxcd", "asyncio", "logging", "typing", "dataclasses", "click", "rich",
        "threading", "subprocess", "json", "shutil", "socket",
    }  # fmt: skip


_CALL = """
import sys
from lxcctl.__main__ import dispatch
status = dispatch(["list"])
print("MODULES", status, *sorted(m for m in sys.modules if m.split(".")[0] in ("lxcd", "lxcctl")))
"""


@pytest.mark.slow
def test_a_call_imports_nothing_of_the_daemon_but_the_messages(daemon: FakeDaemon) -> None:
    daemon.on["ListContainers"] = lambda _: container_pb2.ListContainersResponse()
    done = subprocess.run(
        [sys.executable, "-c", _CALL],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "LXCD_ADDRESS": daemon.address},
    )
    status, *modules = done.stdout.split("MODULES ")[1].split()
    assert status == "0"
    assert {m for m in modules if m.startswith("lxcd")} == {
        "lxcd",
        "lxcd.v1",
        "lxcd.v1.container_pb2",
        "lxcd.v1.types_pb2",
    }
    assert [m for m in modules if m.startswith("lxcctl.commands.")] == [
        "lxcctl.commands.addresses",
        "lxcctl.commands.look",
        "lxcctl.commands.several",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("target", "status"), [("/dev/full", 1), ("closed", 0)])
def test_output_that_cannot_be_written(target: str, status: int) -> None:
    command = [sys.executable, "-m", "lxcctl", "help"]
    shell = f'exec "$@" >{target}' if target != "closed" else 'exec "$@" >&-'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", *command], cwd=ROOT, check=False, stderr=subprocess.PIPE
    )
    assert done.returncode == status
    assert (b"No space left" in done.stderr) == (status == 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "argv",
    [
        ["console", "001"],
        ["create", "001", "--config", "-"],
        ["config", "edit", "001"],
        ["exec", "001"],
        ["top"],
    ],
)
def test_an_input_that_is_closed(
    daemon: FakeDaemon, refusal: type[Refusal], argv: list[str], tmp_path: Path
) -> None:
    daemon.on["GetContainer"] = lambda _: container_pb2.Container(name="001", config_text="# 1\n")
    daemon.on["CreateContainer"] = lambda _: iter(
        [container_pb2.CreateContainerResponse(container=container_pb2.Container(name="001"))]
    )
    daemon.on["CreateExec"] = lambda _: exec_pb2.Exec(id="e1")
    daemon.on["AttachConsole"] = says(CONSOLE, CONSOLE.end(code=0))
    daemon.on["AttachExec"] = says(EXEC, EXEC.end(code=0))

    def refuse(_: Any) -> Any:
        raise refusal("INVALID_ARGUMENT", "no", "INVALID_CONFIG")

    daemon.on["UpdateContainer"] = refuse
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-m", "lxcctl", *argv],
        cwd=ROOT,
        env={
            **os.environ,
            "LXCD_ADDRESS": daemon.address,
            "EDITOR": "sed -i s/1/2/",
            "TMPDIR": str(tmp_path),
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == {"config": 2, "top": 1}.get(argv[0], 0), done.stderr
