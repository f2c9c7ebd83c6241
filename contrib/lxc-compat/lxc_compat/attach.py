"""lxc-attach: a command in a running container."""

from __future__ import annotations

import os

from lxc_compat.command import Call, Command
from lxc_compat.options import Option
from lxcctl import output
from lxcctl.arguments import Parser
from lxcctl.commands import exec as execs
from lxcctl.errors import CallError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = "/"
# LXC's words, and lxcd's.
_NAMESPACES = {
    "MOUNT": "mnt", "PID": "pid", "UTSNAME": "uts", "IPC": "ipc", "USER": "user", "NETWORK": "net",
    "CGROUP": "cgroup", "TIME": "time",
}  # fmt: skip
_PRIVILEGES = {"CGROUP": "cgroup", "CAP": "capabilities", "LSM": "security"}


def _attach(call: Call) -> int:
    here = _here()
    try:
        return _run(call, here)
    except CallError as error:
        if error.reason != "CWD_NOT_FOUND" or here == _ROOT:
            raise
    # There is no such directory inside.
    return _run(call, _ROOT)


def _here() -> str:
    """The directory that this was typed in, if it has a name that others can use."""
    try:
        found = os.getcwd()
        found.encode()
    except (OSError, UnicodeEncodeError):
        return _ROOT
    # getcwd(2): `(unreachable)` is in front of one outside of our root.
    return found if found.startswith("/") else _ROOT


def _run(call: Call, directory: str) -> int:
    options, run = execs.VERBS["exec"]
    parser = Parser("exec", "", "")
    options(parser)
    # Without a command it is the user's shell.
    command = ("--", *call.words) if call.words else ()
    return run(call.session, parser.read((*_arguments(call, directory), *command)))


def _arguments(call: Call, directory: str) -> Iterator[str]:
    """The same in lxcctl's words."""
    given = call.given
    yield call.name
    yield f"--cwd={directory}"
    if given.has("elevated-privileges"):
        text = given.last("elevated-privileges")
        yield f"--elevate={_translate(text, _PRIVILEGES) if text else 'all'}"
    if given.has("namespaces"):
        yield f"--namespace={_translate(given.last('namespaces'), _NAMESPACES)}"
    if given.latest("clear-env", "keep-env") == "clear-env":
        for name in given.all("keep-var"):
            yield from _kept(name)
    else:
        yield "--keep-env"
    for text in given.all("set-var"):
        yield f"--env={text}"
    user, group = given.last("uid"), given.last("gid")
    if user or group:
        yield f"--user={user or '0'}{f':{group}' if group else ''}"


def _kept(name: str) -> Iterator[str]:
    """A variable of those here, if it is one."""
    if name not in os.environ:
        return
    text = f"{name}={os.environ[name]}"
    try:
        text.encode()
    except UnicodeEncodeError:
        output.note(f"{name} is left out: it is not valid UTF-8")
    else:
        yield f"--env={text}"


def _translate(text: str, known: dict[str, str]) -> str:
    found: list[str] = []
    for word in text.upper().split("|"):
        if word not in known:
            raise UsageError(f"no such word: {word!r} (of {'|'.join(known)})")
        found.append(known[word])
    return ",".join(found)


COMMANDS = {
    "attach": Command(
        "--name=NAME [-- COMMAND]",
        "runs COMMAND, or the user's shell, in the running NAME: in this directory, else in /",
        (
            Option("elevated-privileges", "e", "PRIVILEGES", "CAP|CGROUP|LSM", optional=True),
            Option("namespaces", "s", "LIST", "MOUNT|PID|UTSNAME|IPC|USER|NETWORK alone"),
            Option("clear-env", "", "", "Without the environment here"),
            Option("keep-env", "", "", "With it (default); the last of the two counts"),
            Option("set-var", "v", "KEY=VAL", "Set a variable"),
            Option("keep-var", "", "KEY", "Keep a variable, with --clear-env"),
            Option("uid", "u", "UID", "As this user"),
            Option("gid", "g", "GID", "As this group"),
        ),
        _attach,
        words=True,
        refused=(
            (Option("arch", "a", "ARCH"), "lxcd takes the container's own"),
            (Option("remount-sys-proc", "R"), "lxcd joins a mount namespace, or leaves it alone"),
            (Option("pty-log", "L", "FILE"), "lxcd writes no log of it"),
            (Option("rcfile", "f", "FILE"), "the container runs with its own"),
            (Option("context", "c", "CONTEXT"), "lxcd does not set one yet"),
        ),
    )
}
