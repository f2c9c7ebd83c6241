"""What a command is, and what all of them know."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from lxc_compat.options import Given, Option, usage
from lxcctl import output
from lxcctl.channel import LOOK_SECONDS
from lxcctl.errors import CallError, UsageError
from lxcctl.wire import problem_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lxcctl.channel import Session
    from lxcd.v1.container_pb2 import Container
    from lxcd.v1.types_pb2 import Problem

# The tools whose behaviour this is.
OLD_VERSION = "0.7.4.2"
VERSION = "7.0.0"
FAILED = 1
# How the daemon begins what it says of a key that nobody knows.
_UNKNOWN_KEY = "not a key of LXC"
# What a main() of 0.7 returned for its -1.
FAILED_OLD = 255

NAME = Option("name", "n", "NAME", "NAME of the container")
_PRIORITIES = ("TRACE", "DEBUG", "INFO", "NOTICE", "WARN", "ERROR", "CRIT", "ALERT", "FATAL")
COMMON = (
    Option("logfile", "o", "FILE", "Write messages to FILE, too; none: to no file"),
    Option("logpriority", "l", "LEVEL", f"of them: {' '.join(_PRIORITIES)}"),
    Option("quiet", "q", "", "Don't produce any messages"),
    Option("lxcpath", "P", "PATH", "Use specified container path"),
    Option("help", "h", "", "Give this help list"),
    Option("usage", "", "", "Give a short usage message"),
    Option("version", "", "", "Print the version number"),
)
# Of those commands that have no use of their own for it.
RCFILE = Option("rcfile", "", "FILE", "Must be there; what the container itself has counts")


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a command: of which container, with which words behind that; `old`: as 0.7."""

    session: Session
    name: str
    words: tuple[str, ...]
    given: Given
    old: bool

    @property
    def failed(self) -> int:
        """The exit status of a failure."""
        return FAILED_OLD if self.old else FAILED


@dataclass(frozen=True, slots=True)
class Command:
    """`form` is what follows its name in the help, `line` what it does; `named`: of one container,
    by -n or the first word; `words`: more of them may follow. `refused`: options that LXC has there
    and lxcd cannot serve, with the reason; `foreign`: what it does not know is a word for somebody
    else; `passed_on`: in 0.7 its options were another program's, and why we do not pass them on.
    """

    form: str
    line: str
    options: tuple[Option, ...]
    run: Callable[[Call], int]
    named: bool = True
    words: bool = False
    refused: tuple[tuple[Option, str], ...] = ()
    foreign: bool = False
    passed_on: str = ""

    @property
    def known(self) -> tuple[Option, ...]:
        """Every option that it understands."""
        own = (NAME, *self.options) if self.named else self.options
        return (*own, *self.common, *(option for option, _ in self.refused))

    @property
    def common(self) -> tuple[Option, ...]:
        """Of these, those that all have."""
        own = (*self.options, *(option for option, _ in self.refused))
        if self.foreign or RCFILE.long in (option.long for option in own):
            return COMMON
        return (*COMMON, RCFILE)

    def known_in(self, *, old: bool) -> tuple[Option, ...]:
        """The same in an era: where options are another program's, -l is one of them."""
        if not (old and self.passed_on):
            return self.known
        return tuple(replace(one, short=one.short.strip("l")) for one in self.known)


def is_old() -> bool:
    """Which era is asked for. Raises UsageError."""
    asked = os.environ.get("LXCD_COMPAT", "")
    if asked not in ("", "0.7", "7.0"):
        raise UsageError(f"LXCD_COMPAT is {asked!r}: neither 0.7 nor 7.0")
    return asked == "0.7"


def version(*, old: bool) -> str:
    """Of LXC."""
    return OLD_VERSION if old else VERSION


def help_text(program: str, command: Command) -> str:
    """Its page."""
    return "\n".join(
        (
            f"Usage: {program} {command.form}",
            "",
            f"{program} {command.line}",
            "",
            "Options :",
            *usage((NAME, *command.options) if command.named else command.options),
            "",
            "Common options :",
            *usage(command.common),
            "",
            "A command of LXC as a client of lxcd. LXCD_COMPAT=0.7: as in LXC 0.7.",
            "",
        )
    )


def short_usage(program: str, command: Command) -> str:
    """Its options in a few lines."""
    return "\n".join(_packed(f"Usage: {program}", command.known)) + "\n"


def _packed(head: str, options: tuple[Option, ...]) -> Iterator[str]:
    text = head
    for option in options:
        short = f"-{option.short}|" if option.short else ""
        value = f"={option.value}" if option.value else ""
        word = f"[{short}--{option.long}{value}]"
        if len(text) + len(word) > 78:  # noqa: PLR2004 - a line of a terminal
            yield text
            text = "\t"
        text += word if text == "\t" else f" {word}"
    yield text


def check_priority(text: str) -> None:
    """Raise UsageError if it is none."""
    if text.upper() not in _PRIORITIES:
        raise UsageError(f"no such log priority: {text!r} (one of {' '.join(_PRIORITIES)})")


def tells_errors(priority: str) -> bool:
    """Whether a log of this priority holds errors."""
    return _PRIORITIES.index(priority.upper()) <= _PRIORITIES.index("ERROR")


def find(call: Call, *, full: bool = False) -> Container | None:
    """The container of this name; None if there is none. Raises CallError."""
    from lxcd.v1.container_pb2 import VIEW_BASIC, VIEW_FULL, Container, GetContainerRequest

    request = GetContainerRequest(
        name=call.name, lxcpath=call.session.lxcpath, view=VIEW_FULL if full else VIEW_BASIC
    )
    try:
        return call.session.channel.call(
            "ContainerService/GetContainer", request, Container, LOOK_SECONDS
        )
    except CallError as error:
        if error.reason == "CONTAINER_NOT_FOUND":
            return None
        raise


def unknown_keys(problems: Iterable[Problem]) -> list[Problem]:
    """Of all problems, those of keys that LXC does not have."""
    return [one for one in problems if one.message.startswith(_UNKNOWN_KEY)]


def warn(problems: Iterable[Problem]) -> None:
    """Tell of keys that LXC does not have. Silent, as LXC is, about others that have no effect."""
    for problem in unknown_keys(problems):
        output.note(problem_line(problem))


def named(command: Command, given: Given) -> tuple[str, tuple[str, ...]]:
    """The container's name, and the words behind it. Raises UsageError."""
    name, words = given.last("name"), given.words
    if not command.named:
        name = ""
    elif not name:
        if not words:
            raise UsageError("No container name specified")
        name, words = words[0], words[1:]
    if words and not command.words:
        raise UsageError(f"too many arguments: {' '.join(words)}")
    return name, words
