"""Answers as table, json, yaml or csv. Data goes to stdout, everything else to stderr.

`plain` turns a message into dicts and lists with the names of the proto; the three formats for
programs print that. A table is for people: what comes from the server (a container may have chosen
it) cannot move their cursor.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, TypeAlias, TypeVar

    from google.protobuf.message import Message

    # protobuf's stubs have two implementations of each, and unions where one of them is meant.
    Descriptor = Any
    EnumDescriptor = Any
    FieldDescriptor = Any

    # What json knows.
    Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"
    Row = TypeVar("Row")
    Column = tuple[str, Callable[[Row], str]]

_TYPE_ENUM = 14  # FieldDescriptor.TYPE_ENUM
_TYPE_MESSAGE = 11  # FieldDescriptor.TYPE_MESSAGE
_STDOUT = 1
_STDERR = 2


def write_bytes(fd: int, data: bytes) -> None:
    """Write all of it, unchanged, also to a pipe that somebody made non-blocking."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            import select

            select.select((), (fd,), ())


def write_stdout(data: bytes) -> None:
    """Bytes for stdout, after what was printed before."""
    sys.stdout.flush()
    write_bytes(_STDOUT, data)


def write_stderr(data: bytes) -> None:
    """Bytes for stderr, after what was printed before."""
    sys.stderr.flush()
    write_bytes(_STDERR, data)


def line(text: str) -> None:
    """One line of data."""
    sys.stdout.write(f"{text}\n")


class _Voice:
    """Who speaks to the person at the terminal, and where else that is written down."""

    program = "lxcctl"
    silent = False
    log = -1


def speak_as(program: str) -> None:
    """Have notes begin with another name."""
    _Voice.program = program


def keep_silent() -> None:
    """Have no notes at the terminal."""
    _Voice.silent = True


def write_notes_to(path: str) -> None:
    """Append notes to a file, too. Raises OSError."""
    _Voice.log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def note(text: str) -> None:
    """One line for the person at the terminal; one that begins with a blank continues the last."""
    prefix = "" if text.startswith(" ") else f"{_Voice.program}: "
    shown = f"{prefix}{harmless(text, keep_newlines=True)}\n"
    if _Voice.log >= 0:
        write_bytes(_Voice.log, shown.encode(errors="replace"))
    if _Voice.silent:
        return
    # In one piece, whoever else writes there.
    sys.stderr.write(shown.replace("\n", _line_end()))


def _line_end() -> str:
    """For stderr: a terminal that is raw does not go back to the left by itself."""
    import termios

    try:
        flags = termios.tcgetattr(_STDERR)[1]
    except termios.error:
        return "\n"
    return "\n" if flags & termios.OPOST else "\r\n"


def harmless(text: str, *, keep_newlines: bool = False) -> str:
    r"""Text without control characters, so that no terminal obeys it: ESC becomes `\x1b`.

    Characters that reorder or hide text (Unicode's formats, surrogates) go the same way.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\u3000" or (keep_newlines and c == "\n") else escaped(c)
        for c in text
    )


def escaped(character: str) -> str:
    r"""One that a terminal obeys, as text: `\x1b`."""
    short = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character)
    if short:
        return short
    code = ord(character)
    if code < 0x100:  # noqa: PLR2004 - two, four or eight digits
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # noqa: PLR2004


def plain(message: Message, without: Iterable[str] = ()) -> dict[str, Plain]:
    """A message as dicts, lists, strings and numbers.

    Every field is there: what is unset is its default, or None where the API distinguishes. Enums
    are LXC's words, unspecified is None. Times are RFC 3339.
    """
    return {
        field.name: _field(message, field)
        for field in message.DESCRIPTOR.fields
        if field.name not in without
    }


def _field(message: Message, field: FieldDescriptor) -> Plain:
    value = getattr(message, field.name)
    if field.is_repeated:
        if _is_map(field):
            return {str(key): value[key] for key in sorted(value)}
        return [_single(item, field) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _single(value, field)


def _single(value: Any, field: FieldDescriptor) -> Plain:  # noqa: ANN401 - any scalar or message
    if field.type == _TYPE_ENUM:
        return _enum_word(value, field.enum_type)
    if field.type == _TYPE_MESSAGE:
        name = field.message_type.full_name
        if name == "google.protobuf.Timestamp":
            from lxcctl.wire import rfc3339

            return rfc3339(value)
        if name == "google.protobuf.Duration":
            from lxcctl.wire import duration_text

            return duration_text(value)
        return plain(value)
    known: Plain = value
    return known


def _enum_word(number: int, kind: EnumDescriptor) -> str | None:
    if number == 0:
        return None
    known = kind.values_by_number.get(number)
    if known is None:
        return str(number)
    # STATE_RUNNING of State, SEVERITY_ERROR of Problem.Severity: the first value says what the
    # prefix is.
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    word: str = known.name.removeprefix(prefix)
    return word


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and kind.has_options and kind.GetOptions().map_entry


def document(form: str, value: Plain) -> None:
    """One value as json or yaml."""
    if form == "json":
        line(to_json(value, indent=2))
    else:
        sys.stdout.write(to_yaml(value))


def table(columns: Sequence[Column[Row]], rows: Iterable[Row]) -> None:
    """Columns as wide as their longest cell, two blanks between them."""
    cells = [[title for title, _ in columns]]
    cells += [[harmless(show(row)) or "-" for _, show in columns] for row in rows]
    widths = [max(columns_of(text) for text in column) for column in zip(*cells, strict=True)]
    for row_of_cells in cells:
        padded = (
            text + " " * (width - columns_of(text))
            for text, width in zip(row_of_cells, widths, strict=True)
        )
        line("  ".join(padded).rstrip())


def columns_of(text: str) -> int:
    """How many columns of a terminal it takes."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def cut(text: str, room: int) -> str:
    """As much of it as has room in so many columns of a terminal."""
    if text.isascii():
        return text[:room]
    while columns_of(text) > room:
        text = text[:-1]
    return text


def to_json(value: Plain, indent: int | None = None) -> str:
    """As json, in characters rather than escapes."""
    import json

    return json.dumps(value, ensure_ascii=False, indent=indent)


def to_yaml(value: Plain) -> str:
    r"""As YAML that 1.1 and 1.2 read alike; every string is quoted, so that `001` stays one."""
    if isinstance(value, (dict, list)) and value:
        return "".join(f"{text}\n" for text in _yaml_lines(value))
    return f"{_yaml_scalar(value)}\n"


def _yaml_lines(value: dict[str, Plain] | list[Plain]) -> Iterator[str]:
    items: list[tuple[str, Plain]]
    if isinstance(value, dict):
        items = [(f"{_yaml_key(key)}:", item) for key, item in value.items()]
    else:
        items = [("-", item) for item in value]
    for head, item in items:
        if not (isinstance(item, (dict, list)) and item):
            yield f"{head} {_yaml_scalar(item)}"
        elif head == "-":
            # The first line of the item stands behind its dash, the others below the first.
            inner = _yaml_lines(item)
            yield f"- {next(inner)}"
            yield from (f"  {text}" for text in inner)
        else:
            yield head
            yield from (f"  {text}" for text in _yaml_lines(item))


def _yaml_key(key: str) -> str:
    # Words of one letter and some longer ones are booleans to YAML 1.1; names of fields are safe.
    simple = len(key) > 3 and key.replace("_", "a").isalpha() and key.isascii() and key.islower()  # noqa: PLR2004
    if key in {"name", "pid", "exit", "key"} or (simple and key not in {"true", "false", "null"}):
        return key
    return _yaml_string(key)


def _yaml_scalar(value: Plain) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, list):
        return "[]"
    return _yaml_string(str(value))


def _yaml_string(text: str) -> str:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{harmless(quoted)}"'


def csv_header(kind: Descriptor, without: Iterable[str] = ()) -> list[str]:
    """The columns for a kind of message: `name` first; `exit.code` is a field of a field."""
    names = list(_csv_names(kind, "", without))
    if "name" in names:
        names.remove("name")
        names.insert(0, "name")
    return names


def _csv_names(kind: Descriptor, prefix: str, without: Iterable[str] = ()) -> Iterator[str]:
    for field in kind.fields:
        if field.name in without:
            continue
        inner = None if field.is_repeated else field.message_type
        if inner is None or inner.full_name.startswith("google.protobuf."):
            yield f"{prefix}{field.name}"
        else:
            yield from _csv_names(inner, f"{prefix}{field.name}.")


def csv_line(header: Sequence[str], row: dict[str, Plain]) -> str:
    """One line. Lists and maps are json in their cell."""
    return ",".join(_csv_cell(_at(row, path)) for path in header)


def csv_head(header: Sequence[str]) -> str:
    """The first line."""
    return ",".join(header)


def _at(row: Plain, path: str) -> Plain:
    value = row
    for step in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value


def _csv_cell(value: Plain) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, (dict, list)):
        text = to_json(value) if value else ""
    else:
        text = str(value)
    if any(c in text for c in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def records(
    form: str,
    header: Sequence[str],
    rows: Iterable[dict[str, Plain]],
    *,
    single: bool = False,
) -> None:
    """Records as json, yaml or csv. `single`: one was asked for by name, so no list round it."""
    if form == "csv":
        line(csv_head(header))
        for row in rows:
            line(csv_line(header, row))
        return
    everything: list[Plain] = [*rows]
    if not single:
        document(form, everything)
    elif everything:
        document(form, everything[0])
