"""What `top` shows and what its keys do. Knows no terminal: keys are words, lines are text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from lxcctl import columns
from lxcctl.arguments import STATES
from lxcctl.details import details
from lxcctl.output import columns_of, cut, harmless
from lxcctl.usage import number, percent, size
from lxcctl.wire import state_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lxcctl.columns import Column
    from lxcctl.usage import Key, Usage, Usages

INTERVALS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_SORT_KEYS = {
    "n": "name",
    "c": "cpu",
    "m": "memory",
    "b": "io",
    "s": "swap",
    "k": "kernel",
    "p": "pids",
    "t": "net",
    "u": "uptime",
}
_ABOVE = 3  # lines over the first container
_FROZEN = STATES.index("FROZEN")
_FAR = 1 << 16

HELP = """\
n name   c CPU   m memory   s swap   k kernel memory   p pids   u uptime
b block io   t network traffic     sort by it; again, or r: the other way round
a          since the start of each container, or per second
+ -        longer or shorter interval
/          only names that contain what is typed next; Esc: all again
arrows, Page Up, Page Down, Home, End      move
Enter      all about the chosen one; Esc, Enter: back
q          leave

CPU%       of one CPU
MEMORY     without page cache that can be dropped; MEM%: its share of LIMIT
PIDS       tasks: every thread counts
""".splitlines()


class Page(Enum):
    """What fills the screen."""

    LIST = "list"
    DETAILS = "details"
    HELP = "help"


class Look(Enum):
    """How a line looks."""

    PLAIN = "plain"
    STRONG = "strong"
    HEADING = "heading"
    CHOSEN = "chosen"


@dataclass(frozen=True, slots=True)
class View:
    """What has been chosen by keys until now."""

    sort: str = "cpu"
    reverse: bool = False
    totals: bool = False
    interval: float = 1.0
    wanted: str = ""  # what a name must contain
    typing: bool = False  # that is being typed
    cursor: int = 0  # number of the chosen line
    first: int = 0  # number of the uppermost line
    page: Page = Page.LIST
    about: Key = ("", "")  # whom the details are about
    scrolled: int = 0  # lines of the details above the screen
    leaving: bool = False

    @property
    def columns(self) -> tuple[Column, ...]:
        """Those that there are."""
        return columns.TOTALS if self.totals else columns.RATES


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the screen."""

    text: str
    look: Look = Look.PLAIN


def rows(view: View, usages: Usages) -> list[Usage]:
    """The containers that are shown, in their order."""
    found = (usage for usage in usages.values() if view.wanted in usage.stats.name)
    return columns.ordered(found, view.columns, view.sort, reverse=view.reverse)


def press(view: View, key: str, shown: Sequence[Usage], height: int) -> View:
    """One key. `shown` is what `rows` gave, `height` that of the screen."""
    if view.typing:
        return _type(view, key)
    if view.page is Page.HELP:
        return replace(view, page=Page.LIST, leaving=key == "q")
    if view.page is Page.DETAILS:
        return _in_details(view, key, height)
    return _in_list(view, key, shown, height)


def _in_list(view: View, key: str, shown: Sequence[Usage], height: int) -> View:
    if key in _STEPS:
        return _STEPS[key](view)
    if key in _SORT_KEYS:
        return _sorted_by(view, _SORT_KEYS[key])
    if key == "ENTER" and shown:
        chosen = shown[view.cursor].stats
        about = (chosen.lxcpath, chosen.name)
        return replace(view, page=Page.DETAILS, about=about, scrolled=0)
    return replace(view, cursor=_moved(view.cursor, key, len(shown), height - _ABOVE))


def _sorted_by(view: View, word: str) -> View:
    again = word == view.sort
    return replace(view, sort=word, reverse=again and not view.reverse, cursor=0, first=0)


def _longer(view: View) -> View:
    found = next((each for each in INTERVALS if each > view.interval), view.interval)
    return replace(view, interval=found)


def _shorter(view: View) -> View:
    found = next((each for each in reversed(INTERVALS) if each < view.interval), view.interval)
    return replace(view, interval=found)


_STEPS: dict[str, Callable[[View], View]] = {
    "r": lambda view: replace(view, reverse=not view.reverse),
    "a": lambda view: replace(view, totals=not view.totals),
    "q": lambda view: replace(view, leaving=True),
    "h": lambda view: replace(view, page=Page.HELP),
    "?": lambda view: replace(view, page=Page.HELP),
    "/": lambda view: replace(view, typing=True, wanted="", cursor=0, first=0),
    "ESC": lambda view: replace(view, wanted=""),
    "+": _longer,
    "-": _shorter,
}


def _type(view: View, key: str) -> View:
    if key == "ENTER":
        return replace(view, typing=False)
    if key == "ESC":
        return replace(view, typing=False, wanted="")
    if key == "BACKSPACE":
        return replace(view, wanted=view.wanted[:-1])
    if len(key) == 1 and key.isprintable():
        return replace(view, wanted=view.wanted + key)
    return view


def _in_details(view: View, key: str, height: int) -> View:
    if key in {"ENTER", "ESC", "BACKSPACE"}:
        return replace(view, page=Page.LIST)
    if key == "q":
        return replace(view, leaving=True)
    # How far there is something to scroll to is found when it settles.
    return replace(view, scrolled=_moved(view.scrolled, key, _FAR, height - _ABOVE))


def _moved(at: int, key: str, count: int, page: int) -> int:
    page = max(1, page - 1)
    steps = {"UP": -1, "DOWN": 1, "PAGE_UP": -page, "PAGE_DOWN": page, "HOME": -count, "END": count}
    return max(0, min(at + steps.get(key, 0), count - 1))


def settled(view: View, usages: Usages, shown: Sequence[Usage], height: int) -> View:
    """With the chosen line among those that there are, and on the screen."""
    room = max(1, height - _ABOVE)
    cursor = max(0, min(view.cursor, len(shown) - 1))
    first = min(max(view.first, cursor - room + 1), cursor, max(0, len(shown) - room))
    scrolled = view.scrolled
    if scrolled and view.about in usages:
        scrolled = min(scrolled, max(0, len(details(usages[view.about])) - room))
    return replace(view, cursor=cursor, first=max(0, first), scrolled=scrolled)


def draw(
    view: View, usages: Usages, shown: Sequence[Usage], size_: tuple[int, int], note: str = ""
) -> list[Line]:
    """The screen, at most as many lines as it is high.

    Args:
        view: As `settled` left it.
        usages: Of all containers.
        shown: What `rows` gave.
        size_: Height and width.
        note: What is wrong, if anything is.
    """
    height, width = size_
    lines = [Line(_summary(view, usages), Look.STRONG), Line(_below(view, shown, usages, note))]
    if view.page is Page.HELP:
        lines += map(Line, HELP)
    elif view.page is Page.DETAILS:
        lines += _details(view, usages)
    else:
        lines += _list(view, shown, height, width)
    return [replace(line, text=cut(line.text, width)) for line in lines[:height]]


def _summary(view: View, usages: Usages) -> str:
    """How many there are, and what they use together."""
    everybody = usages.values()
    frozen = sum(1 for usage in everybody if usage.stats.state == _FROZEN)
    cpu = sum(usage.rates.cpu_percent or 0 for usage in everybody)
    memory = sum(usage.memory_bytes or 0 for usage in everybody)
    tasks = sum(number(usage.stats.pids, "current") or 0 for usage in everybody)
    some_frozen = f" ({frozen} frozen)" if frozen else ""
    return (
        f"containers: {len(usages)}{some_frozen}   CPU: {percent(cpu)}%   memory: {size(memory)}"
        f"   pids: {tasks}   every {view.interval:g}s"
    )


def _below(view: View, shown: Sequence[Usage], usages: Usages, note: str) -> str:
    if view.typing:
        return f"names that contain: {view.wanted}_"
    if note:
        return harmless(note)
    if view.page is Page.DETAILS:
        return "Esc back   q quit"
    if view.page is Page.HELP:
        return "any key goes back"
    filtered = f"{len(shown)} of {len(usages)} contain {view.wanted!r}   " if view.wanted else ""
    order = f"by {view.sort}{', reversed' if view.reverse else ''}"
    return f"{filtered}{order}   h help   q quit"


def _list(view: View, shown: Sequence[Usage], height: int, width: int) -> list[Line]:
    names = min(columns.name_width(shown), max(8, width // 3))
    kept = columns.fitting(view.columns, width, view.sort, names)
    room = max(0, height - _ABOVE)
    heading = columns.heading(kept, names)
    lines = [Line(heading + " " * (width - columns_of(heading)), Look.HEADING)]
    for position in range(view.first, min(view.first + room, len(shown))):
        text = columns.line(kept, shown[position], names)
        chosen = position == view.cursor
        lines.append(
            Line(text + " " * (width - columns_of(text)), Look.CHOSEN) if chosen else Line(text)
        )
    return lines


def _details(view: View, usages: Usages) -> list[Line]:
    usage = usages.get(view.about)
    if usage is None:
        return [Line(f"{harmless(view.about[1])} does not run", Look.HEADING)]
    stats = usage.stats
    title = f"{harmless(stats.name)}   {state_name(stats.state)}   generation {stats.generation}"
    return [Line(title, Look.HEADING), *map(Line, details(usage)[view.scrolled :])]
