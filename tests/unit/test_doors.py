"""Who lets what into his process: the keeper and lxcctl are started, and their `sys.modules` looked at.

import-linter reads the source; this sees what is really loaded, through whatever package's `__init__`.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

# Code with threads, an event loop, or just weight. A keeper with them forks three times slower, and unsafely.
HEAVY = {
    *("asyncio", "concurrent", "logging", "multiprocessing", "threading"),
    *("google", "grpc", "pyroute2", "uvloop"),
}

# At the program's end, whichever way it takes (lxcctl leaves by os._exit, to be quick): what it had loaded, as the last
# line of stderr.
_PROGRAM = """\
import os, sys

def report(status, leave=os._exit):
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(2, " ".join(sorted(sys.modules)).encode())
    leave(status)

os._exit = report
sys.path[:0] = {path!r}
sys.argv = {argv!r}
status = 0
try:
{body}
except SystemExit as error:
    status = error.code or 0
report(status if isinstance(status, int) else 1)
"""


def _run(body: str, argv: list[str], packages: Iterable[str] = ()) -> tuple[int, set[str]]:
    """Run `body` in an isolated interpreter without site-packages; its exit status and the modules that it loaded."""
    program = _PROGRAM.format(path=[str(CHECKOUT), *packages], argv=argv, body=body)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        # An address where nobody listens: no verb may reach a daemon of this machine.
        env={"LXCD_ADDRESS": "unix:/nonexistent/lxcd.sock"},
        timeout=60,
    )
    lines = done.stderr.splitlines()
    assert lines, done
    assert "sys" in lines[-1].split(), done.stderr
    return done.returncode, set(lines[-1].split())


def _imports(*names: str) -> set[str]:
    status, loaded = _run("\n".join(f"    import {name}" for name in names), ["program"])
    assert status == 0
    return loaded


def _tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def _inside(names: set[str], package: str) -> set[str]:
    """Those of `names` that lie in `package`, the package itself not counted."""
    return {name for name in names if name.startswith(f"{package}.")}


def test_the_keeper_is_small() -> None:
    loaded = _imports("lxcd.keeper.__main__")
    assert not _tops(loaded) & HEAVY
    assert not {"lxcd.config", "lxcd.container.plan"} & loaded


@pytest.mark.parametrize(
    "path", sorted((CHECKOUT / "lxcd/keeper").glob("*.py")), ids=lambda path: path.stem
)
def test_every_part_of_the_keeper_is_small(path: Path) -> None:
    """Also what the keeper loads only later, or a child of it."""
    loaded = _imports("lxcd.keeper" if path.stem == "__init__" else f"lxcd.keeper.{path.stem}")
    assert not _tops(loaded) & HEAVY
    assert not {"lxcd.config", "lxcd.container.plan"} & loaded


def test_the_trustee_is_smaller() -> None:
    """It stays as long as a container runs, beside the keeper."""
    ours = _imports("lxcd.keeper.trustee") - _imports("os", "select", "_socket", "time")
    assert ours == {"__future__", "lxcd", "lxcd.keeper", "lxcd.keeper.trustee"}


def _lxcctl(*arguments: str) -> tuple[int, set[str]]:
    # As an installed lxcctl: site-packages are there, so that nothing is left out only because it cannot be found.
    return _run(
        "    from lxcctl.__main__ import main\n    sys.exit(main())",
        ["lxcctl", *arguments],
        [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")],
    )


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--version"], 0),
        (["--help"], 0),
        ([], 2),
        (["no-such-verb"], 2),
        (["list", "--no-such-option"], 2),
    ],
    ids=str,
)
def test_lxcctl_needs_neither_grpc_nor_lxcd_to_help(arguments: list[str], status: int) -> None:
    exited, loaded = _lxcctl(*arguments)
    assert exited == status
    assert not _tops(loaded) & {"grpc", "google", "asyncio", "logging"}
    assert not _inside(loaded, "lxcd")


def _no_containers(_request: bytes, _context: grpc.ServicerContext) -> bytes:
    return b""  # an empty message


def test_lxcctl_knows_of_lxcd_only_how_to_talk_to_it(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/lxcd.sock"
    service = grpc.method_handlers_generic_handler(
        "lxcd.v1.ContainerService",
        {"ListContainers": grpc.unary_unary_rpc_method_handler(_no_containers)},
    )
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers((service,))
        server.add_insecure_port(address)
        server.start()
        try:
            exited, loaded = _lxcctl("--address", address, "list")
        finally:
            server.stop(None).wait()
    assert exited == 0
    assert "grpc" in loaded
    assert {n for n in _inside(loaded, "lxcd") if not f"{n}.".startswith("lxcd.v1.")} == set()
