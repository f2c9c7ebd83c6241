"""`stats`: what containers use, once or again and again."""

from __future__ import annotations

import os
import sys
import time

from lxcctl import arguments, output
from lxcctl.channel import LOOK_SECONDS, Patience
from lxcctl.wire import local_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterable, Sequence

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session
    from lxcctl.sampling import Sample
    from lxcctl.usage import Usage, Usages

    Show = Callable[[Sample], None]

_STDOUT = 1


def _options(parser: Parser) -> None:
    parser.description = f"""{parser.description}

CPU% is of one CPU, and since the sample before: a single table takes two, with
the interval between them. MEMORY is without page cache that can be dropped;
MEM% is its share of LIMIT. NET and READ, WRITE: all since the start. The
formats json, yaml and csv have every number that there is, by its name in the
API; one that the kernel does not count is null."""
    arguments.add_names(parser, "*")
    parser.add_argument(
        "--watch", action="store_true", help="go on; one line or document for each sample"
    )
    arguments.add_interval(parser)


def _stats(session: Session, args: Namespace) -> int:
    if args.watch:
        return _watch(session, args)
    sample = look(session, args.names)
    if session.form != "table":
        from lxcd.v1.stats_pb2 import ContainerStats

        header = output.csv_header(ContainerStats.DESCRIPTOR)
        rows = map(output.plain, _by_name(sample))
        output.records(session.form, header, rows, single=len(args.names) == 1)
        return 0
    from lxcctl.usage import follow

    usages = follow({}, sample)
    if usages:
        time.sleep(args.interval)
        usages = follow(usages, look(session, args.names))
    for text in _table(usages):
        output.line(text)
    return 0


def look(session: Session, names: Sequence[str]) -> Sample:
    """One sample of these, or of all that run."""
    from lxcd.v1.stats_pb2 import GetStatsRequest, GetStatsResponse

    request = GetStatsRequest(lxcpath=session.lxcpath, names=names)
    return session.channel.call(
        "StatsService/GetStats", request, GetStatsResponse, LOOK_SECONDS
    ).stats


def _watch(session: Session, args: Namespace) -> int:
    from lxcctl.sampling import samples

    if args.names:
        # A stream goes on without those that do not run; a name that is wrong is to be told.
        look(session, args.names)
    show = _shower(session.form)
    for sample in samples(session.channel, session.lxcpath, args.names, args.interval, Patience()):
        show(sample)
        sys.stdout.flush()
    return 0


def _by_name(sample: Sample) -> Sample:
    return sorted(sample, key=lambda stats: (stats.name, stats.lxcpath))


def _shower(form: str) -> Show:
    if form == "csv":
        from lxcd.v1.stats_pb2 import ContainerStats

        header = output.csv_header(ContainerStats.DESCRIPTOR)
        output.line(output.csv_head(header))

        def rows(sample: Sample) -> None:
            for stats in _by_name(sample):
                output.line(output.csv_line(header, output.plain(stats)))

        return rows
    if form != "table":

        def document(sample: Sample) -> None:
            found: list[output.Plain] = [output.plain(stats) for stats in _by_name(sample)]
            if form == "json":
                output.line(output.to_json(found))
            else:
                output.line("---")
                output.document(form, found)

        return document
    if os.isatty(_STDOUT) and os.environ.get("TERM", "dumb") != "dumb":
        return _Painted()
    return _Lines()


class _Painted:
    """The newest sample on a terminal, in the place of the one before."""

    def __init__(self) -> None:
        self._usages: Usages = {}

    def __call__(self, sample: Sample) -> None:
        """The next one."""
        from lxcctl.usage import follow

        first = not self._usages
        self._usages = follow(self._usages, sample)
        size = os.get_terminal_size(_STDOUT)
        lines = _table(self._usages)
        sys.stdout.write(painted(lines, size.lines or 24, size.columns or 80, clear=first))


def painted(lines: Sequence[str], height: int, width: int, *, clear: bool) -> str:
    """Lines from the upper left corner on, with nothing beside and below them."""
    # The cursor stands below the last.
    room = max(1, height - 1)
    if len(lines) > room:
        hidden = len(lines) - room + 1
        lines = [*lines[: room - 1], f"... and {hidden} more"]
    shown = "".join(f"{output.cut(text, width)}\x1b[K\n" for text in lines)
    begin = "\x1b[2J\x1b[H" if clear else "\x1b[H"
    return f"{begin}{shown}\x1b[J"


class _Lines:
    """A line for each container and sample, under one heading, for a pipe or a file."""

    def __init__(self) -> None:
        self._usages: Usages = {}
        self._headed = False

    def __call__(self, sample: Sample) -> None:
        """The next one."""
        from lxcctl.usage import follow

        self._usages = follow(self._usages, sample)
        heading, *lines = _table(self._usages)
        if not self._headed:
            self._headed = True
            output.line(f"{'TIME':<19} {heading}")
        for usage, text in zip(_sorted(self._usages), lines, strict=True):
            output.line(f"{local_time(usage.stats.time)} {text}")


def _sorted(usages: Usages) -> Iterable[Usage]:
    return [usages[key] for key in sorted(usages, key=lambda key: key[::-1])]


def _table(usages: Usages) -> list[str]:
    """The heading and a line for each."""
    from lxcctl.columns import TOTALS, heading, line, name_width

    width = name_width(usages.values())
    return [
        heading(TOTALS, width),
        *(line(TOTALS, usage, width) for usage in _sorted(usages)),
    ]


VERBS = {"stats": (_options, _stats)}
