"""What went wrong, in words and as an exit status. Knows gRPC's codes, but not gRPC."""

from __future__ import annotations

FAILED = 1
USAGE = 2
NOT_FOUND = 3
WRONG_STATE = 4
REFUSED = 5
NO_DAEMON = 69
INTERRUPTED = 130
BROKEN_PIPE = 141

_STATUS_OF_CODE = {
    "INVALID_ARGUMENT": USAGE,
    "NOT_FOUND": NOT_FOUND,
    "FAILED_PRECONDITION": WRONG_STATE,
    "ABORTED": WRONG_STATE,
    "ALREADY_EXISTS": WRONG_STATE,
    "PERMISSION_DENIED": REFUSED,
    "UNAUTHENTICATED": REFUSED,
}


class ClientError(Exception):
    """Ends the command (or its part for one container) with a text and an exit status."""

    def __init__(self, text: str, status: int = FAILED) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


class UsageError(ClientError):
    """The command line cannot be understood."""

    def __init__(self, text: str, usage: str = "") -> None:
        super().__init__(text, USAGE)
        self.usage = usage


class CallError(ClientError):
    """The daemon refused a call, or could not be asked.

    `code` is the name of the gRPC code; `reason` and `metadata` come from the ErrorInfo that the
    daemon attaches to every error of its own. Without one the error was made by gRPC: the daemon
    was not reached or went away.
    """

    def __init__(
        self,
        code: str,
        text: str,
        reason: str = "",
        metadata: dict[str, str] | None = None,
        *,
        status: int | None = None,
    ) -> None:
        super().__init__(text, _status(code, reason) if status is None else status)
        self.code = code
        self.reason = reason
        self.metadata = metadata or {}

    @property
    def is_lost_connection(self) -> bool:
        """Whether a new connection may continue what this one began.

        A daemon that shuts down may end its streams with CANCELLED before it closes the socket;
        nobody else cancels a call of ours.
        """
        return self.code in {"UNAVAILABLE", "CANCELLED"}


# What helps, by the daemon's reason.
_HINTS = {
    "CONTROL_TAKEN": "console and attach: --steal takes control, --read-only only watches",
    "NO_INPUT": "attach --read-only only watches",
    "INPUT_AFTER_END": "attach --read-only only watches",
}


def _status(code: str, reason: str) -> int:
    if reason == "START_FAILED":
        return FAILED
    if code == "UNAVAILABLE" and not reason:
        return NO_DAEMON
    return _STATUS_OF_CODE.get(code, FAILED)


def explain(error: ClientError, name: str = "") -> list[str]:
    """The lines to print for an error, without the `lxcctl: ` in front of the first.

    Args:
        error: What happened.
        name: The container that it happened to, if it is one of several or a hint needs it.
    """
    lines = [error.text]
    if isinstance(error, UsageError) and error.usage:
        lines.append(error.usage.rstrip("\n"))
    if isinstance(error, CallError) and error.reason in _HINTS:
        lines.append(f"  {_HINTS[error.reason]}")
    if isinstance(error, CallError) and error.reason == "START_FAILED":
        lines += _start_failure(error.metadata)
        known = name or error.metadata.get("name", "") or error.metadata.get("container", "")
        lines.append(f"  lxcctl plan {known or 'NAME'} shows every step")
    return lines


def _start_failure(metadata: dict[str, str]) -> list[str]:
    lines: list[str] = []
    step = metadata.get("step", "")
    # A negative one: it failed before the child took its first step.
    index = metadata.get("index", "").removeprefix("-1")
    if step or index:
        where = f"  failed at step {index} {step}".rstrip() if index else f"  failed at step {step}"
        lines.append(where)
    syscall = metadata.get("syscall", "")
    number = metadata.get("errno", "")
    if syscall or number:
        what = f"system call {syscall}" if syscall else "error"
        lines.append(f"  {what}: {errno_words(number)}" if number else f"  {what}")
    origin = metadata.get("origin", "")
    if origin == "default":
        lines.append("  done for every container, no line of the configuration asks for it")
    elif origin:
        lines.append(f"  asked for at {origin}")
    return lines


def errno_words(value: str | int) -> str:
    """`EPERM`, `1` or 1 as `EPERM (Operation not permitted)`; what is no errno stays as it is."""
    import errno
    import os

    text = str(value)
    if text.isascii() and text.isdigit():
        number = int(text)
    else:
        number = next((key for key, known in errno.errorcode.items() if known == text), 0)
    if number not in errno.errorcode:
        return text
    return f"{errno.errorcode[number]} ({os.strerror(number)})"
