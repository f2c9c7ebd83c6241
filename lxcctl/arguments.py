"""The parser of one verb, and the grammar of the values that several verbs take.

argparse does the work; what is added is: global options after the verb, `-- CMD` apart from the
options, names and options in any order, and errors as exceptions. Nothing here imports grpc or
protobuf.
"""

from __future__ import annotations

import argparse
import os
import sys

from lxcctl.errors import ClientError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

FORMATS = ("table", "json", "yaml", "csv")

# LXC's words; the position is the number in the API (a test compares).
STATES = (
    "UNSPECIFIED",
    "STOPPED",
    "STARTING",
    "RUNNING",
    "STOPPING",
    "ABORTING",
    "FREEZING",
    "FROZEN",
    "THAWED",
)

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def _width() -> int:
    try:
        return max(os.get_terminal_size(sys.stdout.fileno()).columns - 2, 40)
    except (OSError, ValueError, AttributeError):
        return 78


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Asks the terminal for its width; argparse imports shutil for that, with the first option."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=_width())


class Parser(argparse.ArgumentParser):
    """The parser of one verb.

    `command_style` says where the command of a container begins: `none` (the verb takes no
    command), `dashes` (after the first `--`), `loose` (after `--`, or with the first word after the
    first positional that is no option).
    """

    def __init__(self, verb: str, form: str, line: str) -> None:
        self.command_style = "none"
        self._valued: set[str] = set()
        super().__init__(
            prog=f"lxcctl {verb}",
            usage=f"lxcctl {verb} {form}".rstrip(),
            description=line[:1].upper() + line[1:] + ".",
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        for name, metavar, text in (
            ("--address", "A", "socket of the daemon"),
            ("--lxcpath", "P", "where the containers are"),
        ):
            self.add_argument(name, metavar=metavar, default=argparse.SUPPRESS, help=text)
        self.add_argument(
            "--format",
            choices=FORMATS,
            metavar="F",
            default=argparse.SUPPRESS,
            help="table, json, yaml or csv",
        )

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:  # noqa: ANN401 - argparse's own signature
        """As argparse; remembers which options take a value, for the `loose` style."""
        action = super().add_argument(*args, **kwargs)
        if action.nargs != 0:
            self._valued.update(action.option_strings)
        return action

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing and leaving."""
        raise UsageError(f"{self.prog.removeprefix('lxcctl ')}: {message}", self.format_usage())

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse what follows the verb; `command` is what follows the `--`, None without one."""
        head, command = list(argv), None
        if self.command_style == "dashes" and "--" in head:
            cut = head.index("--")
            head, command = head[:cut], head[cut + 1 :]
        elif self.command_style == "loose":
            head, command = self._split_loose(head)
        namespace = self.parse_intermixed_args(head)
        if command is not None and not command:
            self.error("no command after --")
        namespace.command = command
        return namespace

    def _split_loose(self, argv: list[str]) -> tuple[list[str], list[str] | None]:
        position, positionals = 0, 0
        while position < len(argv):
            word = argv[position]
            if word == "--":
                return argv[:position], argv[position + 1 :]
            if word.startswith("-") and word != "-":
                position += 2 if word in self._valued else 1
                continue
            if positionals:
                return argv[:position], argv[position:]
            positionals += 1
            position += 1
        return argv, None


def seconds(text: str) -> float:
    """A time span: `90`, `1.5`, `10m`, `2h`, `500ms`."""
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(number) :] or "s"
    try:
        value = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        value = -1.0
    # A protobuf Duration ends at about 10000 years; nan fails this, too.
    if not 0 <= value <= 315_576_000_000:  # noqa: PLR2004 - the limit is explained one line above
        raise argparse.ArgumentTypeError(f"not a time span: {text!r} (try 90, 1.5, 10m, 2h)")
    return value


def interval(text: str) -> float:
    """The time between two samples: what the daemon allows, and not so long that nobody waits."""
    value = seconds(text)
    if not 0.1 <= value <= 86400:  # noqa: PLR2004 - said in the text
        raise argparse.ArgumentTypeError(f"not between 100ms and 1d: {text!r}")
    return value


def count(text: str) -> int:
    """A number of things, from 0."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):  # noqa: PLR2004 - fits uint64
        raise argparse.ArgumentTypeError(f"not a number: {text!r}")
    return int(text)


def key_value(text: str) -> tuple[str, str]:
    """`KEY=VALUE`, with or without blanks round the `=`."""
    key, equals, value = text.partition("=")
    if not (equals and key.strip()):
        raise argparse.ArgumentTypeError(f"not KEY=VALUE: {text!r}")
    return key.strip(), value.strip()


def state(text: str) -> int:
    """One of LXC's states, in any case, as the API's number."""
    word = text.strip().upper()
    if word not in STATES[1:]:
        known = " ".join(STATES[1:])
        raise argparse.ArgumentTypeError(f"no such state: {text!r} (one of {known})")
    return STATES.index(word)


def states(text: str) -> list[int]:
    """States with `|` or `,` between them."""
    return [state(word) for word in text.replace("|", ",").split(",")]


def signal_number(text: str) -> int:
    """`TERM`, `SIGTERM`, `15`, `-15`, `RTMIN+3`, `SIGRTMAX-1`."""
    import signal

    word = text.strip().upper().removeprefix("-").removeprefix("SIG")
    number = 0
    if word.isascii() and word.isdigit():
        number = int(word)
    elif word[:6] in {"RTMIN+", "RTMAX-"} and word[6:].isascii() and word[6:].isdigit():
        number = int(signal.SIGRTMIN) + int(word[6:])
        if word.startswith("RTMAX"):
            number = int(signal.SIGRTMAX) - int(word[6:])
        if not signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            number = 0
    else:
        known = signal.Signals.__members__.get(f"SIG{word}")
        number = int(known) if known is not None else 0
    if not 0 < number <= signal.SIGRTMAX:
        raise argparse.ArgumentTypeError(f"no such signal: {text!r}")
    return number


def add_names(parser: Parser, form: str = "+") -> None:
    """The containers that a verb is about."""
    parser.add_argument("names", metavar="NAME", nargs=form, help="name of a container")


def add_name(parser: Parser) -> None:
    """The one container that a verb is about."""
    parser.add_argument("name", metavar="NAME", help="name of the container")


def add_interval(parser: Parser) -> None:
    """How often a sample is taken."""
    parser.add_argument(
        "--interval", metavar="S", type=interval, default=1.0, help="between samples (1s)"
    )


def add_streams(parser: Parser) -> None:
    """What a command in the foreground has as its standard streams."""
    terminal = parser.add_mutually_exclusive_group()
    terminal.add_argument(
        *("-t", "--tty"),
        action="store_true",
        default=None,
        help="with a terminal (default: if stdin, stdout and stderr are one)",
    )
    terminal.add_argument(
        *("-T", "--no-tty"), dest="tty", action="store_false", help="without a terminal"
    )
    parser.add_argument(
        "--streamed", action="store_true", help="send bytes through the daemon, as from afar"
    )


def add_session(parser: Parser) -> None:
    """How to attach to what is there already."""
    from lxcctl.keys import DEFAULT

    parser.add_argument("--read-only", action="store_true", help="only watch")
    parser.add_argument("--steal", action="store_true", help="take control from whoever has it")
    parser.add_argument("--no-replay", action="store_true", help="only what comes from now on")
    parser.add_argument(
        "--detach-keys", metavar="K", default=DEFAULT, help=f"keys that leave ({DEFAULT})"
    )


def add_define(parser: Parser) -> None:
    """`-s KEY=VALUE`, as lxc-start has it."""
    parser.add_argument(
        "-s",
        "--define",
        dest="define",
        metavar="KEY=VALUE",
        type=key_value,
        action="append",
        default=[],
        help="set a key of the configuration",
    )


def read_text(path: str) -> tuple[str, str]:
    """The text of a configuration file and its origin; `-` is stdin, an empty path nothing."""
    if not path:
        return "", ""
    try:
        if path == "-":
            origin, data = "stdin", sys.stdin.buffer.read()
        else:
            origin = path
            with open(path, "rb") as file:
                data = file.read()
        return data.decode(), origin
    except OSError as error:
        raise ClientError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ClientError(f"{path}:{line}: not UTF-8") from error
