"""lxcctl at a real terminal: what a person does all day, and how the terminal is left."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.boxes import KERNEL_MOUNTS, Box, box, over
from tests.system.calls import idle
from tests.system.host import Host
from tests.system.machine import until
from tests.system.seat import Seat

MIB = 1 << 20
DETACH = "\x01q"


@pytest.fixture(scope="module")
def debian(shared_host: Host, debian_root: Path) -> Iterator[Box]:
    config = over(shared_host, debian_root, "deb")
    vi = shared_host.root / "upper/deb/delta/usr/local/bin/vi"
    vi.parent.mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, vi)
    with box(shared_host, config + KERNEL_MOUNTS + "lxc.tty.max = 1\n", "deb") as made:
        made.shows("login:")
        done = made.run("/usr/sbin/chpasswd", stdin=b"root:secret\n")
        assert done.exit.code == 0, done.stderr
        yield made


@pytest.fixture(scope="module")
def app(shared_host: Host, busybox_root: Path) -> Iterator[Box]:
    with idle(shared_host, busybox_root, "app") as made:
        yield made


@pytest.fixture
def seat(shared_host: Host) -> Iterator[Seat]:
    made = Seat(shared_host)
    yield made
    made.close()


def paste(seat: Seat, made: Box, shell: str) -> None:
    """A megabyte of all bytes, whole, through a terminal that a program has made raw."""
    blob = bytes(range(256)) * (MIB // 256)
    assert b"\x01q" not in blob
    # Each Ctrl-a is typed twice where that is the first of the keys that leave.
    typed = blob.replace(b"\x01", b"\x01\x01") if shell == "console" else blob
    seat.type(f"stty raw -echo; echo rea''dy; head -c {MIB} > /tmp/blob; stty sane; echo don''e\r")
    seat.shows("ready")
    seat.type(typed)
    seat.shows("done")
    found = made.sh("sha256sum /tmp/blob").split()[0]
    assert found == hashlib.sha256(blob).hexdigest()


def edit(seat: Seat, made: Box) -> None:
    seat.type("TERM=linux vi /tmp/letter\r")
    seat.until(lambda: seat.text.count("~") > 10, "vi shows an empty file")
    seat.type("iDear all,\rall is well.\x1b")
    seat.shows("all is well.")
    seat.type(":wq\r")
    until(
        lambda: made.run("/bin/cat", "/tmp/letter").stdout == b"Dear all,\nall is well.\n",
        "vi has written it",
    )


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_day_at_the_console_of_debian(debian: Box, seat: Seat) -> None:
    before = seat.modes()
    seat.run("console", "deb")
    # What it says first may have gone up with the history of the boot.
    seat.shows("login:")
    seat.until(lambda: seat.is_raw, "the terminal is raw")
    seat.type("root\r")
    seat.shows("Password:")
    seat.type("secret\r")
    seat.shows("root@")
    seat.type("PS1='deb# '; stty size; tput reset\r")
    seat.type("echo on $((6 * 7)); stty size\r")
    seat.shows("on 42").shows("24 80")
    edit(seat, debian)
    seat.type("top\r")
    seat.shows("load average").shows("PID")
    seat.resize(40, 132)
    seat.until(lambda: "COMMAND" in seat.text and _rows(debian) == "40 132", "top knows it")
    seat.type("q")
    # It throws away what is typed before it has ended.
    seat.until(lambda: seat.screen.display[seat.screen.cursor.y].startswith("deb#"), "top is over")
    seat.type("stty size\r")
    seat.shows("40 132")
    seat.type("sleep 100000; echo status $?\r")
    until(lambda: "sleep 100000" in debian.sh("ps -eo args"), "it sleeps")
    seat.type("\x03")
    until(lambda: "sleep 100000\n" not in debian.sh("ps -eo args"), "Ctrl-C has ended it")
    paste(seat, debian, "console")
    seat.type("clear; echo last wo''rds\r")
    seat.shows("last words")
    seat.type(DETACH)
    seat.prompts()
    assert seat.modes() == before
    seat.screen.reset()
    # What was shown is shown again, and the session goes on where it was.
    seat.run("console", "deb")
    seat.shows("last words")
    seat.type("echo still he''re\r")
    seat.shows("still here")
    seat.type("exit\r")
    seat.shows("login:")
    # Ctrl-a twice is one; with another key both are sent.
    seat.type("\x01\x01")
    seat.type("\x01x")
    seat.type(DETACH)
    seat.prompts()
    assert seat.modes() == before


def _rows(made: Box) -> str:
    return made.sh("stty size < /dev/console")


def test_a_command_on_a_terminal(app: Box, seat: Seat) -> None:
    before = seat.modes()
    seat.run("exec", "app", "--", "sh")
    seat.shows("~ #")
    seat.until(lambda: seat.is_raw, "the terminal is raw")
    seat.type("stty size; tty\r")
    seat.shows("24 80").shows("/dev/pts/")
    seat.resize(30, 100)
    seat.until(lambda: _size_of(app) == "30 100", "the size has arrived")
    edit(seat, app)
    paste(seat, app, "exec")
    seat.type("clear; echo the cat li''stens; cat\r")
    seat.shows("the cat listens")
    seat.type("to the cat\r")
    seat.until(lambda: seat.text.count("to the cat") == 2, "cat answers")
    seat.type("\x04")
    seat.type("sleep 4242\r")
    until(lambda: _sleeps(app), "it sleeps")
    seat.type("\x03")
    until(lambda: not _sleeps(app), "Ctrl-C has ended it")
    seat.type("exit 42\r")
    seat.prompts()
    assert seat.modes() == before
    seat.type("echo status $?\r")
    seat.shows("status 42")


def _sleeps(made: Box) -> bool:
    return "sleep 4242" in made.sh("ps -o args")


def _size_of(made: Box) -> str:
    return made.sh("for t in /dev/pts/[0-9]*; do stty size < $t; done | tail -n 1")


def test_leaving_a_command_and_coming_back_to_it(app: Box, seat: Seat) -> None:
    seat.run("exec", "app", "--detach-keys", "ctrl-p,q", "-t", "--", "sh")
    seat.shows("~ #")
    seat.type("echo first wo''rds\r")
    seat.shows("first words")
    seat.type("\x10q")
    seat.shows("running; back with: lxcctl attach exec-")
    seat.prompts()
    name = seat.text.split("lxcctl: left ")[1].split()[0]
    seat.type("clear\r")
    seat.until(lambda: "words" not in seat.text, "the screen is empty")
    seat.run("attach", name)
    seat.shows("first words")
    seat.type("exit 3\r")
    seat.prompts()
    seat.type("echo status $?\r")
    seat.shows("status 3")


@pytest.mark.slow
def test_an_application_on_a_terminal(shared_host: Host, seat: Seat) -> None:
    before = seat.modes()
    seat.run("run", "host", "--name", "ran", "--rm", "-t", "--", "bash", "--norc")
    seat.shows("bash-")
    seat.type("stty size; echo $TERM $((6 * 7))\r")
    seat.shows("24 80").shows("linux 42")
    seat.resize(33, 99)
    # What is typed may overtake the size.
    seat.type("until stty size | grep '33'' 99'; do sleep 0.1; done\r")
    seat.shows("33 99")
    seat.type("exit 5\r")
    seat.prompts()
    assert seat.modes() == before
    seat.type("echo status $?\r")
    seat.shows("status 5")
    until(lambda: "ran" not in shared_host.ctl("list", "-1").stdout, "it has gone")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("verb", ["exec", "console"])
def test_the_terminal_is_left_as_it_was_found(app: Box, seat: Seat, verb: str, number: int) -> None:
    before = seat.modes()
    if verb == "exec":
        seat.run("exec", "app", "-t", "--", "cat")
        seat.until(lambda: seat.is_raw, "the terminal is raw")
        seat.type("cat is on\r")
        seat.until(lambda: seat.text.count("cat is on") == 2, "cat answers")
    else:
        seat.run("console", "app")
        seat.shows("connected to")
    seat.until(lambda: seat.is_raw, "the terminal is raw")
    client = seat.client()
    os.kill(client, number)
    until(lambda: not os.path.exists(f"/proc/{client}"), "lxcctl has ended")
    until(lambda: seat.modes() == before, "it is as it was")
    # The shell asked for more while the terminal was still raw: once more, from a line of its own.
    seat.type("\r")
    seat.type("echo status $?\r")
    seat.shows(f"status {128 + number}")


def test_a_client_that_is_suspended_gives_the_terminal_back(app: Box, seat: Seat) -> None:
    before = seat.modes()
    seat.run("exec", "app", "-t", "--", "cat")
    seat.until(lambda: seat.is_raw, "the terminal is raw")
    seat.type("cat is on\r")
    seat.until(lambda: seat.text.count("cat is on") == 2 and seat.is_raw, "cat answers")
    os.kill(seat.client(), signal.SIGTSTP)
    seat.prompts()
    assert seat.modes() == before
    seat.type("fg\r")
    seat.until(lambda: seat.is_raw, "the terminal is raw again")
    seat.type("again\r")
    seat.until(lambda: seat.text.count("again") == 2, "cat answers again")
    seat.type("\x04")
    seat.prompts()
    assert seat.modes() == before
