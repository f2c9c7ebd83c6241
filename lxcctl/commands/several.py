"""One call for each of several containers, all at the same time."""

from __future__ import annotations

import sys

from lxcctl import output
from lxcctl.errors import NO_DAEMON, CallError, explain
from lxcctl.wire import problem_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeVar

    from google.protobuf.message import Message

    from lxcctl.channel import Session
    from lxcd.v1.types_pb2 import Problem

    Reply = TypeVar("Reply", bound=Message)


def each(
    names: Sequence[str],
    begin: Callable[[str], Callable[[], Reply]],
    done: Callable[[str, Reply], None],
) -> int:
    """Begin a call for every name, then take the answers in order.

    Returns:
        The exit status of the worst: the highest.
    """
    worst = 0
    for name, answer in [(name, begin(name)) for name in names]:
        try:
            reply = answer()
        except CallError as error:
            if error.status == NO_DAEMON:
                # The same for all of them; once is enough.
                raise
            report(error, name)
            worst = max(worst, error.status)
        else:
            done(name, reply)
    return worst


def report(error: CallError, name: str) -> None:
    """Say what failed for one container, with its name where the text lacks it."""
    first, *more = explain(error, name)
    sys.stdout.flush()
    plain = name in first or error.status == NO_DAEMON
    output.note(first if plain else f"{name}: {first}")
    for text in more:
        output.note(text)


def show_replies(
    session: Session, names: Sequence[str], replies: Sequence[tuple[str, Message]]
) -> None:
    """The answers of a verb that acts, for programs; the table format leaves them out."""
    if session.form == "table" or not replies:
        return
    header = ["name", *output.csv_header(replies[0][1].DESCRIPTOR)]
    rows = [{"name": name, **output.plain(reply)} for name, reply in replies]
    output.records(session.form, header, rows, single=len(names) == 1)


def note_problems(problems: Iterable[Problem], name: str) -> None:
    """What is wrong with a configuration, where it was not asked for."""
    for problem in problems:
        output.note(f"{name}: {problem_line(problem)}")
