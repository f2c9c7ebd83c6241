"""`top`: what containers use, full screen; or as lines for a pipe."""

from __future__ import annotations

import sys

from lxcctl import arguments, output
from lxcctl.channel import Patience
from lxcctl.columns import RATES, SORTS, ordered
from lxcctl.commands.stats import look
from lxcctl.errors import ClientError
from lxcctl.sampling import samples
from lxcctl.usage import follow, number
from lxcctl.wire import rfc3339, state_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session
    from lxcctl.output import Plain
    from lxcctl.usage import Usage, Usages
    from lxcctl.view import View


def _options(parser: Parser) -> None:
    parser.description = f"{parser.description}\n\nIn it, h shows the keys."
    arguments.add_interval(parser)
    parser.add_argument(
        "--sort", metavar="COLUMN", choices=SORTS, default="cpu", help=", ".join(SORTS)
    )
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument(
        "--batch",
        action="store_true",
        help="write lines: csv, or what --format says; values that need two samples come with"
        " the second",
    )


def _top(session: Session, args: Namespace) -> int:
    if args.batch or session.form != "table":
        return _batch(session, args)
    try:
        from lxcctl import screen
    except ImportError:
        raise ClientError("top: this Python has no curses (top --batch writes lines)") from None
    from lxcctl.view import View

    screen.require()
    view = View(args.sort, args.reverse, interval=args.interval)
    try:
        _full_screen(session, view)
    except screen.EndedBySignal as ended:
        import signal

        # As if it had not been caught: who waits for us sees what it was.
        signal.signal(ended.number, signal.SIG_DFL)
        signal.raise_signal(signal.Signals(ended.number))
    return 0


def _full_screen(session: Session, view: View) -> None:
    from lxcctl.feed import Feed
    from lxcctl.screen import Screen
    from lxcctl.view import draw, press, rows, settled

    # What is wrong at once is told without a screen; and there is something to see from the start.
    usages = follow({}, look(session, ()))
    address, lxcpath = session.channel.address, session.lxcpath
    with Screen() as screen:
        feed = Feed(address, lxcpath, view.interval, screen.wake)
        try:
            while not view.leaving:
                shown = rows(view, usages)
                view = settled(view, usages, shown, screen.size[0])
                screen.paint(draw(view, usages, shown, screen.size, feed.note))
                interval = view.interval
                for key in screen.wait():
                    view = press(view, key, shown, screen.size[0])
                    # A key that was typed in advance means what is shown by then.
                    shown = rows(view, usages)
                    view = settled(view, usages, shown, screen.size[0])
                sample = feed.take()
                if sample is not None:
                    usages = follow(usages, sample)
                if view.interval != interval:
                    feed.close()
                    feed = Feed(address, lxcpath, view.interval, screen.wake)
        finally:
            feed.close()


# What a line of `--batch` tells, in base units.
_FIELDS: dict[str, Callable[[Usage], Plain]] = {
    "time": lambda u: rfc3339(u.stats.time),
    "name": lambda u: u.stats.name,
    "lxcpath": lambda u: u.stats.lxcpath,
    "state": lambda u: state_name(u.stats.state),
    "cpu_percent": lambda u: _rounded(u.rates.cpu_percent),
    "cpu_usage_usec": lambda u: number(u.stats.cpu, "usage_usec"),
    "memory_bytes": lambda u: u.memory_bytes,
    "memory_limit_bytes": lambda u: number(u.stats.memory, "limit_bytes"),
    "memory_percent": lambda u: _rounded(u.memory_percent),
    "swap_bytes": lambda u: number(u.stats.memory, "swap_usage_bytes"),
    "kernel_bytes": lambda u: number(u.stats.memory, "kernel_bytes"),
    "tasks": lambda u: number(u.stats.pids, "current"),
    "receive_bytes_per_second": lambda u: _rounded(u.rates.receive_bytes),
    "transmit_bytes_per_second": lambda u: _rounded(u.rates.transmit_bytes),
    "read_bytes_per_second": lambda u: _rounded(u.rates.read_bytes),
    "write_bytes_per_second": lambda u: _rounded(u.rates.write_bytes),
    "uptime_usec": lambda u: u.stats.uptime_usec,
}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _batch(session: Session, args: Namespace) -> int:
    header = list(_FIELDS)
    if session.form in {"table", "csv"}:
        output.line(output.csv_head(header))
    usages: Usages = {}
    stream = samples(session.channel, session.lxcpath, (), args.interval, Patience())
    for sample in stream:
        usages = follow(usages, sample)
        for usage in ordered(usages.values(), RATES, args.sort, reverse=args.reverse):
            record = {name: value(usage) for name, value in _FIELDS.items()}
            if session.form == "json":
                output.line(output.to_json(record))
            elif session.form == "yaml":
                output.document("yaml", [record])
            else:
                output.line(output.csv_line(header, record))
        sys.stdout.flush()
    return 0


VERBS = {"top": (_options, _top)}
