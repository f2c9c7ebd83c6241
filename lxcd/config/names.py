"""What a container may be called."""

from __future__ import annotations

from lxcd.config.characters import quoted
from lxcd.errors import InvalidArgument

# The longest thing made out of a name is a cgroup directory, `lxc.payload.NAME-999`
# (`lxc.monitor.NAME-999` is as long), and no directory entry is longer than 255 bytes (NAME_MAX):
# 255 - 12 - 4.
MAXIMUM_BYTES = 239


def reason(name: str) -> str:
    """Say why `name` cannot be a container's name, or return the empty text if it can."""
    rules = (
        (not name, "be empty"),
        (name in (".", ".."), "be . or .."),
        ("/" in name, "hold a slash"),
        (name.startswith("."), "begin with a dot: it would be hidden"),
        (name.startswith("-"), "begin with a dash: programs would take it for an option"),
        # Control and format characters (a terminal acts on them), and bytes that are not UTF-8.
        (not name.isprintable(), "hold characters that do not print"),
        (_length(name) > MAXIMUM_BYTES, f"be longer than {MAXIMUM_BYTES} bytes"),
    )
    for broken, text in rules:
        if broken:
            return f"a container's name cannot {text}: {quoted(name)}"
    return ""


def _length(name: str) -> int:
    return len(name.encode("utf-8", "surrogatepass"))


def require_name(name: str) -> str:
    """Return `name` if a container may be called that.

    Raises:
        InvalidArgument: with the reason INVALID_NAME.
    """
    why = reason(name)
    if why:
        raise InvalidArgument(why, "INVALID_NAME")
    return name
