"""Scripts of the host that go with a device: what they are told, and what becomes of those that fail."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from lxcd.v1 import container_pb2
from tests.system import ledger
from tests.system.boxes import Box, Refused, defined
from tests.system.calls import state
from tests.system.host import Host
from tests.system.machine import DEADLINE, until
from tests.system.wires import config, device, links, nic, pair, refused, script, settled, start

# What a script was told, one file for each call.
_TELLS = """\
out=$(mktemp -p {told} told.XXXXXX)
{{ pwd; printf '%s\\n' "$#" "$@"; env | sort; }} > $out.new
mv $out.new $out.txt
"""


@pytest.fixture
def told(shared_host: Host) -> Iterator[Path]:
    """Where `script_of` writes to."""
    path = shared_host.root / "told"
    path.mkdir()
    yield path
    for each in path.iterdir():
        each.unlink()
    path.rmdir()


def _tells(host: Host, told: Path) -> Path:
    return script(host, "tells", _TELLS.format(told=told))


def _said(told: Path) -> list[tuple[list[str], dict[str, str]]]:
    """Arguments and environment of each call, as they came."""
    found: list[tuple[list[str], dict[str, str]]] = []
    for path in sorted(told.glob("*.txt"), key=lambda path: path.stat().st_mtime_ns):
        cwd, count, *lines = path.read_text().splitlines()
        assert cwd == "/"
        arguments = lines[: int(count)]
        pairs = (line.partition("=") for line in lines[int(count) :])
        found.append((arguments, {name: value for name, _, value in pairs}))
        path.unlink()
    return found


def _lines(program: Path, words: str, kind: str, *more: str, number: int = 0) -> str:
    return nic(
        f"script.up = {program} {words}",
        f"script.down = {program} {words}",
        *more,
        kind=kind,
        number=number,
    )


def test_they_are_told_by_arguments(shared_host: Host, busybox_root: Path, told: Path) -> None:
    host = shared_host
    program = _tells(host, told)
    text = (
        _lines(program, "-a 'b c'", "veth", "link = br0", "veth.pair = web0", "name = lan")
        + _lines(program, "", "veth", "veth.pair = web1", number=1)
        + _lines(program, "", "macvlan", "link = lan0", number=2)
        + _lines(program, "", "phys", "link = card0", "name = x", number=3)
        + _lines(program, "", "empty", number=4)
        + "lxc.environment = BLUE=1\n"
    )
    with (
        device(host, "br0", "type", "bridge"),
        pair(host, "lan0"),
        pair(host, "card0"),
        defined(host, config(host, busybox_root, text)) as made,
    ):
        pid = start(made)
        for what in ("up", "down"):
            said = _said(told)
            assert [arguments for arguments, _ in said] == [
                ["-a", "b c", "box", "net", what, "veth", "br0", "web0"],
                ["box", "net", what, "veth", "web1"],
                ["box", "net", what, "macvlan", "lan0"],
                ["box", "net", what, "phys", "card0"],
                ["box", "net", what, "empty"],
            ]
            for _, environment in said:
                assert environment["LXC_NAME"] == "box"
                assert environment["LXC_CONFIG_FILE"] == str(made.directory / "config")
                assert environment["LXC_HOOK_VERSION"] == "0"
                assert environment["BLUE"] == "1"
                assert environment["LXC_CGNS_AWARE"] == "1"
                assert environment["LXC_ROOTFS_PATH"].startswith("overlay:")
                assert "LXC_NET_TYPE" not in environment
                assert what == "down" or environment["LXC_PID"] == str(pid)
            if what == "up":
                made.stop(kill=True)


def test_they_are_told_by_their_environment(
    shared_host: Host, busybox_root: Path, told: Path
) -> None:
    host = shared_host
    program = _tells(host, told)
    text = (
        "lxc.hook.version = 1\n"
        + _lines(program, "own", "veth", "link = br0", "veth.pair = web0")
        + _lines(program, "", "empty", number=1)
    )
    with (
        device(host, "br0", "type", "bridge"),
        defined(host, config(host, busybox_root, text)) as made,
    ):
        start(made)
        for what in ("up", "down"):
            (first, of_veth), (second, of_empty) = _said(told)
            assert (first, second) == (["own"], [])
            wanted = {
                "LXC_HOOK_VERSION": "1",
                "LXC_HOOK_TYPE": what,
                "LXC_HOOK_SECTION": "net",
                "LXC_NET_TYPE": "veth",
                "LXC_NET_PARENT": "br0",
                "LXC_NET_PEER": "web0",
            }
            assert of_veth.items() >= wanted.items()
            assert of_empty["LXC_NET_TYPE"] == "empty"
            assert not {"LXC_NET_PARENT", "LXC_NET_PEER"} & of_empty.keys()
            if what == "up":
                # Another lxcd tells the same at the end.
                host.kill_daemon()
                host.start_daemon()
                made.stop(kill=True)


def test_they_see_the_device_on_the_host(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    out = host.root / "seen"
    program = script(host, "looks", f"ip -j link show dev $6 > {out}.$3")
    text = _lines(program, "", "veth", "link = br0", "veth.pair = web0", "flags = up")
    with (
        device(host, "br0", "type", "bridge"),
        defined(host, config(host, busybox_root, text)) as made,
    ):
        start(made)
        made.stop(kill=True)
    (shown,) = json.loads(Path(f"{out}.up").read_text())
    assert (shown["ifname"], shown["master"]) == ("web0", "br0")
    assert "UP" in shown["flags"]
    # Where the container has ended the kernel may have been quicker.
    for what in ("up", "down"):
        Path(f"{out}.{what}").unlink()


def test_one_that_fails_fails_the_start(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    down = host.root / "down"
    fails = script(host, "fails", "echo out of cheese >&2; exit 3")
    text = nic("veth.pair = web0", f"script.down = touch {down} --") + nic(
        "veth.pair = web1", f"script.up = {fails} now", number=1
    )
    with defined(host, config(host, busybox_root, text)) as made:
        error = refused(made, "script.up", r"lxc\.net\.1\.script\.up: .*/fails now: exit status 3")
        assert "out of cheese" in error.text
        # What was up goes down.
        assert down.exists()
        down.unlink()


@pytest.mark.parametrize(
    ("command", "match"),
    [
        ("/no/such/program", "exit status 127"),
        ("/dev/null", "exit status 126"),
        ("kill -9 $$;", "SIGKILL|exit status 137"),
        ("'unbalanced", "exit status 2"),
    ],
)
def test_one_that_cannot_be_run(
    shared_host: Host, busybox_root: Path, command: str, match: str
) -> None:
    text = nic(f"script.up = {command}")
    with defined(shared_host, config(shared_host, busybox_root, text)) as made:
        refused(made, "script.up", match)


def test_a_failing_end_is_told_and_passed_over(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    before = set(links(host))
    text = nic("veth.pair = web0", "script.down = false") + nic("veth.pair = web1", number=1)
    with defined(host, config(host, busybox_root, text)) as made:
        start(made)
        made.stop(kill=True)
        assert state(made.info()) == "STOPPED"
        assert set(links(host)) == before
    assert "lxc.net.0.script.down: false: exit status 1" in host.log_text()


# One that never ends


def _hangs(host: Host) -> tuple[Path, Path]:
    pid = host.root / "hanging"
    return script(host, "hangs", f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 100000"), pid


def _begin(made: Box) -> tuple[threading.Thread, list[Refused]]:
    """A start beside the test."""
    found: list[Refused] = []

    def go() -> None:
        try:
            made.start()
        except Refused as error:
            found.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    return thread, found


def test_one_that_hangs_keeps_nobody_else(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    before = set(links(host))
    program, noted = _hangs(host)
    text = nic(f"script.up = {program}", "veth.pair = web0")
    with (
        defined(host, config(host, busybox_root, text, "hangs"), "hangs") as hanging,
        defined(host, config(host, busybox_root, nic()), "box") as other,
    ):
        thread, found = _begin(hanging)
        until(noted.exists, "it hangs")
        pid = int(noted.read_text())
        assert start(other)
        other.stop(kill=True)
        assert state(hanging.info()) == "STARTING"
        # Whoever ends it ends the start.
        os.kill(pid, signal.SIGKILL)
        thread.join(DEADLINE)
        (error,) = found
        assert "script.up" in error.text
        assert error.metadata["step"] == "network"
        settled(host, before)
    noted.unlink()


def test_an_lxcd_that_dies_meanwhile(host: Host, busybox_root: Path) -> None:
    before = set(links(host))
    program, noted = _hangs(host)
    told = host.root / "told"
    told.mkdir()
    text = "lxc.hook.version = 1\n" + nic(
        f"script.up = {program}", f"script.down = {_tells(host, told)}", "veth.pair = web0"
    )
    with defined(host, config(host, busybox_root, text)) as made:
        thread, found = _begin(made)
        until(noted.exists, "it hangs")
        pid = int(noted.read_text())
        host.kill_daemon()
        thread.join(DEADLINE)
        assert found
        host.start_daemon()
        assert state(made.info()) == "STOPPED"
        settled(host, before)
        # The next lxcd tells what the one before would have.
        ((arguments, environment),) = _said(told)
        assert arguments == []
        assert environment["LXC_HOOK_TYPE"] == "down"
        assert environment["LXC_NET_PEER"] == "web0"
        # A program of the host's goes on without lxcd; what it belonged to is undone.
        left = [process for process in ledger.descendants(host.machine.pid) if process.pid == pid]
        for process in left:
            os.kill(process.pid, signal.SIGKILL)


@pytest.mark.long
def test_one_that_hangs_is_ended(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    program, noted = _hangs(host)
    text = nic(f"script.up = {program}")
    with defined(host, config(host, busybox_root, text)) as made:
        request: Any = container_pb2.StartContainerRequest(name="box")
        with pytest.raises(grpc.RpcError, match="killed after 60 s"):
            made.api.container.StartContainer(request, timeout=2 * DEADLINE)
        pid = int(noted.read_text())
        assert not os.path.exists(f"/proc/{pid}")
    noted.unlink()
