"""lxc-console: a terminal of a container."""

from __future__ import annotations

import os
import re

from lxc_compat import command
from lxc_compat.command import Call, Command
from lxc_compat.options import Option
from lxcctl import foreground
from lxcctl.commands.console import Viewer
from lxcctl.errors import CallError, ClientError, UsageError
from lxcctl.keys import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxcctl.signals import SignalThread

_STDIN = 0
_LEAVES = b"q"
_CONTROL = 0x1F


def _console(call: Call) -> int:
    keys = bytes([_prefix(call.given.last("escape", "^a"))]) + _LEAVES
    text = call.given.last("tty", "-1")
    if not re.fullmatch(r"-1|[0-9]{1,4}", text):
        raise UsageError(f"--tty: not a number: {text!r}")
    # Before the first call, whose threads must not have them.
    with foreground.signals() as signals:
        found = command.find(call)
        if found is None or not found.pid:
            raise ClientError(f"{call.name} is not running")
        if not os.isatty(_STDIN):
            raise ClientError("stdin is no terminal")
        if text != "-1":
            _sit(call, int(text), keys, signals)
            return 0
        number = 1
        while not _is_free(call, number, keys, signals):
            number += 1
    return 0


def _is_free(call: Call, number: int, keys: bytes, signals: SignalThread) -> bool:
    """Whether nobody had this tty, and we did, until now."""
    try:
        _sit(call, number, keys, signals)
    except CallError as error:
        if error.reason == "CONTROL_TAKEN":
            return False
        if error.reason == "STREAM_NOT_FOUND":
            raise ClientError(f"{call.name} has no free tty (lxc.tty.max)") from error
        raise
    return True


def _sit(call: Call, number: int, keys: bytes, signals: SignalThread) -> None:
    terminal = f"tty{number}" if number else "console"
    words = describe(keys[:1])
    greeting = (
        f"Connected to tty {number}\n"
        f"  Type <{words} q> to exit the console, <{words} {words}> to enter {words} itself"
    )
    viewer = Viewer(call.session, call.name, terminal, greeting)
    # A prompt that nobody has seen waits at a tty; the console has told its story.
    viewer.watch(keys, signals, generation=0, live=number == 0)


def _prefix(text: str) -> int:
    """`^a`, `^A` or `a`: each is Ctrl-a."""
    letter = text.removeprefix("^") if len(text) > 1 else text
    if not (len(letter) == 1 and letter.isascii() and letter.isalpha()):
        raise UsageError(f"--escape: not a key: {text!r} (^a or a)")
    return ord(letter) & _CONTROL


COMMANDS = {
    "console": Command(
        "--name=NAME",
        "opens a terminal of the container NAME",
        (
            Option("tty", "t", "NUMBER", "Which; 0 is the console, -1 the first free (default)"),
            Option("escape", "e", "PREFIX", "The first of the keys that leave (^a)"),
        ),
        _console,
    )
}
