"""Entry of all commands: which one, its options, its exit status."""

from __future__ import annotations

import gc
import importlib
import os
import sys

from lxc_compat import command as commands
from lxc_compat import options, title
from lxc_compat.command import Call, Command
from lxcctl import arguments, errors, output
from lxcctl.__main__ import flush, prepare_streams
from lxcctl.channel import DEFAULT_ADDRESS, Session
from lxcctl.errors import CallError, ClientError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from lxc_compat.options import Given

# command -> its module
MODULES = {
    "attach": "attach",
    "autostart": "unserved",
    "cgroup": "unserved",
    "checkconfig": "checkconfig",
    "checkpoint": "unserved",
    "clone": "unserved",
    "config": "unserved",
    "console": "console",
    "copy": "unserved",
    "create": "create",
    "destroy": "destroy",
    "device": "unserved",
    "execute": "execute",
    "freeze": "freeze",
    "info": "info",
    "kill": "kill",
    "ls": "ls",
    "monitor": "unserved",
    "netstat": "netstat",
    "ps": "ps",
    "restart": "unserved",
    "shutdown": "unserved",
    "snapshot": "unserved",
    "start": "start",
    "start-ephemeral": "unserved",
    "stop": "stop",
    "top": "unserved",
    "unfreeze": "freeze",
    "unshare": "unserved",
    "usernsexec": "unserved",
    "version": "version",
    "wait": "wait",
}


def main() -> NoReturn:
    """Run and leave at once, as lxcctl does."""
    gc.disable()
    prepare_streams()
    program, *argv = sys.argv[1:]
    title.show((program, *argv))
    output.speak_as(program)
    os._exit(flush(dispatch(program, argv)))


def dispatch(program: str, argv: list[str]) -> int:
    """Run a command line and return its exit status."""
    failed = commands.FAILED
    word = program.removeprefix("lxc-")
    try:
        old = commands.is_old()
        failed = commands.FAILED_OLD if old else failed
        module = importlib.import_module(f"lxc_compat.{MODULES[word]}")
        return _perform(program, module.COMMANDS[word], argv, old=old)
    except ClientError as error:
        # The usage of a verb of lxcctl's is none here.
        for text in (error.text,) if isinstance(error, UsageError) else errors.explain(error):
            output.note(text)
    except ImportError as error:
        output.note(f"{error} (contrib/prepare run gets what is missing)")
    except KeyboardInterrupt:
        return errors.INTERRUPTED
    except BrokenPipeError:
        return errors.BROKEN_PIPE
    except UnicodeEncodeError:
        # What Python makes of bytes that are not UTF-8 does not fit into a string of the API.
        output.note("an argument is not valid UTF-8")
    except OSError as error:
        where = f"{error.filename}: " if isinstance(error.filename, str) else ""
        output.note(f"{where}{error.strerror or error}")
    except SystemExit as leave:
        # What lxcctl's verbs have told already.
        if not leave.code:
            return 0
    return failed


def _perform(program: str, command: Command, argv: list[str], *, old: bool) -> int:
    if "-?" in argv[: argv.index("--") if "--" in argv else None]:
        sys.stderr.write(commands.help_text(program, command))
        return commands.FAILED
    try:
        given = options.read(command.known_in(old=old), argv, foreign=command.foreign)
    except UsageError as error:
        if old and command.passed_on:
            output.note(f"{error.text}: {command.passed_on}")
        else:
            output.note(error.text)
            sys.stderr.write(commands.help_text(program, command))
        return commands.FAILED_OLD if old else commands.FAILED
    for name, text in (
        ("help", commands.help_text(program, command)),
        ("usage", commands.short_usage(program, command)),
    ):
        if given.has(name):
            sys.stderr.write(text)
            return 0
    if given.has("version"):
        sys.stdout.write(f"{commands.version(old=old)}\n")
        return 0
    return _run(command, given, old=old)


def _run(command: Command, given: Given, *, old: bool) -> int:
    for option, reason in command.refused:
        if given.has(option.long):
            raise UsageError(f"--{option.long}: {reason}")
    _prepare_notes(given)
    if commands.RCFILE in command.common:
        arguments.read_text(given.last(commands.RCFILE.long))
    name, words = commands.named(command, given)
    if len(given.all("lxcpath")) > 1:
        raise UsageError("-P: more than one path")
    # The daemon's working directory is not ours.
    path = os.path.abspath(given.last("lxcpath")) if given.last("lxcpath") else ""
    session = Session(os.environ.get("LXCD_ADDRESS") or DEFAULT_ADDRESS, path, "table")
    try:
        return command.run(Call(session, name, words, given, old))
    except CallError as error:
        if name and name not in error.text and not error.is_lost_connection:
            error.text = f"{name}: {error.text}"
        raise
    finally:
        session.channel.close()


def _prepare_notes(given: Given) -> None:
    priority = given.last("logpriority", "ERROR")
    commands.check_priority(priority)
    if given.last("logfile", "none") != "none" and commands.tells_errors(priority):
        output.write_notes_to(given.last("logfile"))
    if given.has("quiet"):
        output.keep_silent()


if __name__ == "__main__":
    main()
