"""Set and unset keys in a text, leaving everything else in it as it is, byte for byte.

Not in it: reading and storing files. Includes are not followed: what an included file says stays
in it, and the caller sees in the result of `loader.load` whether it gets in the way.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lxcd.config import keys, legacy_keys, nic_keys, nics
from lxcd.config.characters import BLANKS, forbidden, quoted
from lxcd.config.loader import check_value
from lxcd.config.reader import split_line, unquote
from lxcd.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\n|\r|\Z)")
_LINE_END = re.compile(rb"\r\n|\n|\r")


def set_key(data: bytes, key: str, values: Sequence[str]) -> bytes:
    """Give a key its value, or a list key its values.

    The new lines stand where the first line of a list key stood, where the last line of a
    one-value key stood (the one that counted), or at the end. Former spellings of the key are
    replaced as well. An empty value is written as one: it clears what an included file said
    before.

    Args:
        data: the text.
        key: the key, by its modern or a former name. Of network devices: with the number,
            `lxc.net.0.link`.
        values: at least one; for a list key any number.

    Raises:
        InvalidArgument: no such key, a value that it cannot have, several for a key that takes one.
    """
    name = _modern(key)
    if not values or (len(values) > 1 and not is_list(name)):
        raise InvalidArgument(f"{quoted(key)} takes one value", "INVALID_VALUE", key=key)
    for value in values:
        check_value(key, value)
    lines = _lines(data)
    mine = [place for place, (_, known) in enumerate(lines) if known == name]
    end = _line_end(data)
    written = key
    if not mine:
        text = data if not data or data.endswith((b"\n", b"\r")) else data + end
        return text + b"".join(_line(written, value, end) for value in values)
    place = mine[0] if is_list(name) else mine[-1]
    if _unnumbered(lines[place][0]):
        # A numbered key in the midst of a lxc.network group would take the line away that begins
        # it.
        written = _key(lines[place][0])
    end = _end_of(lines[place][0]) or end
    fresh = [_line(written, value, end) for value in values]
    gone = set(mine)
    out: list[bytes] = []
    for number, (line, _) in enumerate(lines):
        if number == place:
            out += fresh
        elif number not in gone:
            out.append(line)
    return b"".join(out)


def add_value(data: bytes, key: str, value: str) -> bytes:
    """Write one more line at the end, as `lxc-create -s KEY=VALUE` means it.

    A list key keeps what it has and an empty value clears it, since lines are read in order; a key
    that takes one value is set. `lxc.network.X` without a number is for the last device, and
    `lxc.network.type` begins one.

    Args:
        data: the text.
        key: the key, by its modern or a former name.
        value: one value.

    Raises:
        InvalidArgument: no such key, or a value that it cannot have.
    """
    what = nic_keys.split_name(key)
    if not is_list(key) and (what is None or what.index is not None):
        return set_key(data, key, (value,))
    check_value(key, value)
    end = _line_end(data)
    text = data if not data or data.endswith((b"\n", b"\r")) else data + end
    return text + _line(key, value, end)


def is_list(key: str) -> bool:
    """Tell whether lines of a key, by its modern or a former name, add up."""
    what = nic_keys.split_name(key)
    if what is not None:
        return bool(what.option) and nic_keys.OPTIONS[what.option].several
    found = keys.find(legacy_keys.modern_name(key))
    return found is not None and found.row.shape == "list"


def unset_key(data: bytes, key: str) -> bytes:
    """Take all lines of a key out, in all its spellings.

    A name that stands for several keys takes all of them out: `lxc.net.0`, `lxc.net`, `lxc.hook`,
    `lxc.sysctl`. An unknown key can be taken out as well.

    Args:
        data: the text.
        key: the key, by its modern or a former name.

    Raises:
        InvalidArgument: the line begins a group of `lxc.network` lines that would lose their
            device.
    """
    name = _modern(key)
    what = nic_keys.split_name(name)
    family = name in keys.FAMILIES or (what is not None and not what.option)
    out: list[bytes] = []
    for line, known in _lines(data):
        inside = family and known.startswith(name + ".") and _in_family(name, known)
        if known != name and not inside:
            out.append(line)
        elif not family and _unnumbered(line) and known.endswith("." + nic_keys.TYPE):
            whole = known.removesuffix("." + nic_keys.TYPE)
            text = f"{_key(line)} begins a network device of other lines: unset {whole} instead"
            raise InvalidArgument(text, "INVALID_VALUE", key=key)
    return b"".join(out)


def new_text(items: Iterable[tuple[str, str]], header: Iterable[str] = ()) -> bytes:
    """Make a text out of keys and values, in their order.

    Args:
        items: keys, by modern or former names, and their values.
        header: lines of comment at the top.

    Raises:
        InvalidArgument: no such key, or a value that it cannot have; a header with a control
            character.
    """
    out: list[bytes] = []
    for text in header:
        why = forbidden(text)
        if why:
            raise InvalidArgument(f"a comment holds {why}", "INVALID_VALUE")
        out.append(f"# {text}".rstrip(BLANKS).encode() + b"\n")
    for key, value in items:
        check_value(key, value)
        out.append(_line(key, value, b"\n"))
    return b"".join(out)


def values_of(data: bytes, key: str) -> tuple[str, ...]:
    """Return what the lines of a key say in this text alone, in all its spellings."""
    name = _modern(key)
    found: list[str] = []
    for line, known in _lines(data):
        pair = split_line(line.rstrip(b"\r\n"))
        if known == name and pair is not None and pair[1] is not None:
            found.append(pair[1])
    return tuple(found)


def _line(key: str, value: str, end: bytes) -> bytes:
    # The reader trims, then takes off one pair of quotes; these keep a value that would not
    # survive it.
    if value != value.strip(BLANKS) or unquote(value) != value:
        value = f'"{value}"'
    return f"{key} = {value}".rstrip(BLANKS).encode() + end


def _lines(data: bytes) -> list[tuple[bytes, str]]:
    """Split a text into lines with their ends, each with the modern name of its key if any."""
    network = nics.Network()
    found: list[tuple[bytes, str]] = []
    for match in _LINE.finditer(data):
        line = match.group()
        if not line:
            continue
        pair = split_line(line.rstrip(b"\r\n"))
        if pair is None or pair[1] is None:
            found.append((line, ""))
            continue
        key, value = pair
        what = nic_keys.split_name(key)
        if what is None:
            found.append((line, legacy_keys.modern_name(key)))
        else:
            found.append((line, network.take(what, key, value or "", "")))
    return found


def _modern(key: str) -> str:
    what = nic_keys.split_name(key)
    if what is None:
        return legacy_keys.modern_name(key)
    if what.option and what.index is None:
        text = f"{quoted(key)}: which device? Write lxc.net.0.{what.option}"
        raise InvalidArgument(text, "INVALID_VALUE", key=key)
    return nics.Network().name(what)


def _in_family(name: str, known: str) -> bool:
    """Tell whether `NAME =` would clear this key: `lxc.cgroup` is not about `lxc.cgroup.dir`."""
    found = keys.find(known)
    return found is None or name not in keys.FAMILIES or found.row.shape != "value"


def _unnumbered(line: bytes) -> bool:
    what = nic_keys.split_name(_key(line))
    return what is not None and what.index is None and bool(what.option)


def _key(line: bytes) -> str:
    pair = split_line(line.rstrip(b"\r\n"))
    return pair[0] if pair else ""


def _end_of(line: bytes) -> bytes:
    return line[len(line.rstrip(b"\r\n")) :]


def _line_end(data: bytes) -> bytes:
    found = _LINE_END.search(data)
    return found.group() if found else b"\n"
