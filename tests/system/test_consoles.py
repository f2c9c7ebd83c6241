"""Consoles with many who look and one who types: nothing blocks a container, nothing is lost untold, everyone knows why a session ended."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lxcd.v1 import console_pb2
from tests.system import sessions
from tests.system.boxes import Box, box, busybox_up, defined, over
from tests.system.calls import application, refused
from tests.system.host import Host
from tests.system.machine import DEADLINE, until
from tests.system.sessions import CONTROLLER, VIEWER

MIB = 1 << 20


@pytest.fixture(scope="module")
def shell(shared_host: Host, busybox_root: Path) -> Iterator[Box]:
    """A system whose console is a shell, and with two ttys."""
    config = over(shared_host, busybox_root, "shell") + "lxc.mount.auto = proc:mixed\n"
    with box(shared_host, config + "lxc.tty.max = 2\n", "shell") as made:
        busybox_up(made)
        yield made


def settled(attached: sessions.Attached) -> None:
    """Type something and see its result: all before it was done, too."""
    attached.type(b"echo set''tled\n")
    attached.shows(b"settled", "console")
    attached.data["console"].clear()


def test_one_types_and_the_others_watch(shell: Box) -> None:
    first = sessions.console(shell.api, "shell", role=CONTROLLER, label="first", live_only=True)
    settled(first)
    start: dict[str, Any] = {"role": CONTROLLER, "label": "second", "live_only": True}
    error = refused(lambda: sessions.console(shell.api, "shell", **start))
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "CONTROL_TAKEN")
    assert "first" in error.text
    viewer = sessions.console(shell.api, "shell", label="viewer", live_only=True)
    second = sessions.console(shell.api, "shell", steal=True, **start)
    assert second.started.role == CONTROLLER
    first.until(lambda: bool(first.roles))
    assert first.roles == [(VIEWER, "second")]
    assert {(each.label, each.role, each.terminal) for each in sessions.with_console(shell)} == {
        ("first", VIEWER, "console"),
        ("second", CONTROLLER, "console"),
        ("viewer", VIEWER, "console"),
    }
    assert all(each.attach_time.seconds > 0 for each in sessions.with_console(shell))
    # Everyone sees what is typed and what comes of it, once.
    second.type(b"echo a''b\n")
    for each in (first, second, viewer):
        each.shows(b"ab\r\n", "console")
        assert each.data["console"].count(b"ab\r\n") == 1
    # Who has lost control only watches; he may steal it back, or give it up.
    first.send(role={"role": CONTROLLER, "steal": True})
    second.until(lambda: bool(second.roles))
    first.until(lambda: len(first.roles) == 2)
    assert (second.roles, first.roles[1]) == ([(VIEWER, "first")], (CONTROLLER, "first"))
    first.send(role={"role": VIEWER})
    first.until(lambda: len(first.roles) == 3)
    second.send(role={"role": CONTROLLER})
    second.until(lambda: len(second.roles) == 2)
    # What one sends who had control is dropped; who never had it is refused.
    first.send(input=b"echo rob''bed\n")
    viewer.send(input=b"reboot\n")
    assert refused(viewer.to_the_end).reason == "NOT_THE_CONTROLLER"
    settled(second)
    assert b"robbed" not in shell.log()
    second.cancel()
    first.cancel()
    until(lambda: not sessions.with_console(shell), "nobody is listed any more")


def test_a_session_is_ended_by_somebody_else(shell: Box) -> None:
    attached = sessions.console(shell.api, "shell", role=CONTROLLER)
    (found,) = sessions.with_console(shell)
    assert found.id == attached.started.session_id
    end = console_pb2.EndConsoleSessionRequest(name="shell", session_id=found.id)
    shell.api.console.EndConsoleSession(end, timeout=DEADLINE)
    assert attached.to_the_end().reason == sessions.KICKED
    assert refused(lambda: shell.api.console.EndConsoleSession(end, timeout=DEADLINE)).reason == (
        "SESSION_NOT_FOUND"
    )


def test_leaving_is_told_apart(shell: Box) -> None:
    attached = sessions.console(shell.api, "shell", role=CONTROLLER)
    attached.send(detach={})
    assert attached.to_the_end().reason == sessions.DETACHED


def test_a_new_size_arrives_inside_and_with_the_others(
    shared_host: Host, busybox_root: Path
) -> None:
    script = "trap 'stty size' WINCH; stty size; while :; do sleep 0.02; done"
    with defined(shared_host, application(shared_host, busybox_root, "sized"), "sized") as made:
        made.start("/bin/sh", "-c", script)
        viewer = sessions.console(made.api, "sized")
        viewer.shows(b"24 80", "console")
        size: Any = {"rows": 33, "columns": 111}
        attached = sessions.console(made.api, "sized", role=CONTROLLER, live_only=True, size=size)
        attached.shows(b"33 111", "console")
        for rows, columns in ((2, 29999), (29999, 2), (24, 80)):
            attached.send(resize={"rows": rows, "columns": columns})
            attached.shows(b"%d %d\r\n" % (rows, columns), "console")
        viewer.until(lambda: viewer.sizes[-1:] == [(24, 80)])
        # A size that it has already is none that anybody is told of, or woken up for.
        attached.send(resize={"rows": 24, "columns": 80})
        # It is the terminal of its program: Ctrl-C ends that.
        attached.type(b"\x03")
        assert attached.to_the_end().exit.code == 128 + signal.SIGINT
        assert viewer.to_the_end().exit.code == 128 + signal.SIGINT
        assert viewer.sizes == [(33, 111), (2, 29999), (29999, 2), (24, 80)]
        assert attached.sizes == []
        assert attached.data["console"].count(b"24 80") == 1


def test_history_is_replayed_from_where_it_is_wanted(shell: Box) -> None:
    attached = sessions.console(shell.api, "shell", role=CONTROLLER)
    attached.type(b"echo his''tory\n")
    attached.shows(b"history", "console")
    settled(attached)
    attached.cancel()
    every = sessions.console(shell.api, "shell")
    head = every.started.streams[0].head_offset
    every.until(lambda: every.offsets.get("console", 0) >= head)
    text = bytes(every.data["console"])
    assert b"busybox is up" in text
    assert b"history" in text
    cases: tuple[tuple[dict[str, Any], bytes], ...] = (
        ({"tail_bytes": 10}, text[-10:]),
        ({"offset": 5}, text[5:]),
        ({"offsets": {"console": 7}, "tail_bytes": 1}, text[7:]),
        ({"tail_bytes": 1 << 40}, text),
    )
    for start, expected in cases:
        part = sessions.console(shell.api, "shell", **start)
        part.until(lambda part=part: part.offsets.get("console", 0) >= head)  # type: ignore[misc]
        assert bytes(part.data["console"]) == expected
        part.cancel()
    every.cancel()


@pytest.mark.slow
def test_a_megabyte_is_pasted_whole_into_a_program_that_reads_slowly(shell: Box) -> None:
    # Nothing of all that may be typed means anything in raw mode.
    blob = bytes(range(256)) * (MIB // 256)
    script = f"stty raw -echo; printf ready; for i in $(seq 64); do dd bs={MIB // 64} iflag=fullblock count=1 2>/dev/null; sleep 0.01; done > /tmp/blob; stty sane; printf got"
    viewer = sessions.console(shell.api, "shell", live_only=True)
    attached = sessions.console(shell.api, "shell", role=CONTROLLER, live_only=True)
    attached.type(script.replace("ready", "re''ady").replace("got", "g''ot").encode() + b"\n")
    attached.shows(b"ready", "console")
    before = attached.typed
    attached.type(blob)
    # Nothing else waits behind it.
    attached.send(resize={"rows": 40, "columns": 90})
    viewer.until(lambda: viewer.sizes == [(40, 90)])
    attached.shows(b"got", "console")
    attached.until(lambda: attached.acked == before + len(blob))
    attached.cancel()
    viewer.cancel()
    assert shell.sh("sha256sum < /tmp/blob").split()[0] == _sha256(blob)


def _sha256(data: bytes) -> str:
    done = subprocess.run(["sha256sum"], input=data, capture_output=True, check=True)
    return done.stdout.decode().split()[0]


def test_every_tty_is_a_terminal_of_its_own(shell: Box) -> None:
    tty = sessions.console(shell.api, "shell", terminal="tty1", role=CONTROLLER)
    other = sessions.console(shell.api, "shell", terminal="tty2", role=CONTROLLER)
    tty.shows(b"login:", "tty1")
    assert other.started.streams[0].head_offset == 0
    shell.run("/bin/sh", "-c", "echo here > /dev/tty2")
    other.shows(b"here\r\n", "tty2")
    other.type(b"back\n")
    assert shell.run("/bin/sh", "-c", "head -n 1 < /dev/tty2").stdout == b"back\n"
    assert {each.terminal for each in sessions.with_console(shell)} == {"tty1", "tty2"}
    assert b"here" not in tty.data["tty1"]
    tty.cancel()
    other.cancel()
