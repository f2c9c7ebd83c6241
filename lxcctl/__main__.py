"""Entry of `lxcctl`: finds the verb, imports only its module, maps errors to the exit status."""

from __future__ import annotations

import gc
import io
import os
import sys

from lxcctl import errors, verbs
from lxcctl.errors import ClientError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable
    from typing import NoReturn

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session

_GLOBALS = ("--address", "--lxcpath", "--format")


def main() -> NoReturn:
    """Run and leave at once: the interpreter's own way out waits for gRPC's threads."""
    # Until everything is imported (channel.py): a tenth of the start-up is looking for garbage.
    gc.disable()
    prepare_streams()
    os._exit(flush(dispatch(sys.argv[1:])))


def dispatch(argv: list[str]) -> int:
    """Run a command line and return its exit status."""
    try:
        status = _perform(argv)
    except ClientError as error:
        status = _tell(error)
    except KeyboardInterrupt:
        status = errors.INTERRUPTED
    except BrokenPipeError:
        status = errors.BROKEN_PIPE
    except UnicodeEncodeError:
        # What Python makes of bytes that are not UTF-8 does not fit into a string of the API.
        status = _tell(UsageError("an argument is not valid UTF-8"))
    except OSError as error:
        where = f"{error.filename}: " if isinstance(error.filename, str) else ""
        status = _tell(ClientError(f"{where}{error.strerror or error}"))
    except SystemExit as leave:
        # argparse leaves so after --help.
        status = leave.code if isinstance(leave.code, int) else 0
    return status


def prepare_streams() -> None:
    """Make sure that 0, 1 and 2 are open, and that Python has them.

    Otherwise the first socket would get such a number, and the output would go to the daemon.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # What was closed when Python began it has as None.
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - it stays open to the end
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    # A terminal of another encoding shows what it can.
    stdout: object = sys.stdout
    if isinstance(stdout, io.TextIOWrapper):
        stdout.reconfigure(errors="backslashreplace")


def _perform(argv: list[str]) -> int:
    options, rest = _global_options(argv)
    verb = rest.pop(0) if rest else ""
    answer = _answer_at_once(verb, rest)
    if answer is not None:
        return answer
    module, form, line = verbs.VERBS[verb]
    if verb in verbs.FAMILIES:
        family = verbs.FAMILIES[verb]
        more, rest = _global_options(rest)
        options |= more
        word = rest.pop(0) if rest else ""
        if word in {"-h", "--help", "help"}:
            sys.stdout.write(verbs.family_overview(verb))
            return 0
        if word not in family:
            what = f"no such verb: {verb} {word}" if word else f"{verb}: which verb?"
            raise UsageError(what, verbs.family_overview(verb))
        module, form, line = family[word]
        verb = f"{verb} {word}"
    parser, run = _verb_parser(module, verb, form, line)
    args = parser.read(rest)
    return _run(run, args, options)


def _answer_at_once(verb: str, rest: list[str]) -> int | None:
    """Answer what needs no parser; None if `verb` is a real one."""
    if verb in {"-h", "--help"} or (verb == "help" and not rest):
        sys.stdout.write(verbs.overview())
        return 0
    if verb == "help":
        words = 2 if rest[0] in verbs.FAMILIES else 1
        return _perform([*rest[:words], "--help"])
    if verb in {"--version", "version"}:
        return _version(rest)
    if not verb:
        raise UsageError("which verb? `lxcctl help` lists them", verbs.USAGE)
    if verb not in verbs.VERBS:
        raise UsageError(_unknown(verb), verbs.USAGE)
    return None


def _version(rest: list[str]) -> int:
    from lxcctl import __version__

    asks_help = bool(rest) and rest[0] in {"-h", "--help"}
    if rest and not asks_help:
        raise UsageError(f"version: unrecognized arguments: {' '.join(rest)}", verbs.USAGE)
    sys.stdout.write("usage: lxcctl version\n" if asks_help else f"lxcctl {__version__}\n")
    return 0


def _unknown(verb: str) -> str:
    if verb.startswith("-"):
        return f"no such option: {verb}"
    import difflib

    close = difflib.get_close_matches(verb, verbs.VERBS, n=1)
    hint = f"did you mean {close[0]}?" if close else "`lxcctl help` lists them"
    return f"no such verb: {verb} ({hint})"


def _global_options(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """The options before the verb, and the rest."""
    options: dict[str, str] = {}
    rest = list(argv)
    while rest:
        name, equals, value = rest[0].partition("=")
        if name not in _GLOBALS:
            break
        rest.pop(0)
        if not equals:
            if not rest:
                raise UsageError(f"{name}: expected one argument", verbs.USAGE)
            value = rest.pop(0)
        options[name.removeprefix("--")] = value
    return options, rest


def _verb_parser(
    module: str, verb: str, form: str, line: str
) -> tuple[Parser, Callable[[Session, Namespace], int]]:
    import importlib

    from lxcctl.arguments import Parser

    options, run = importlib.import_module(f"lxcctl.commands.{module}").VERBS[verb]
    parser = Parser(verb, form, line)
    options(parser)
    return parser, run


def _run(run: Callable[[Session, Namespace], int], args: Namespace, options: dict[str, str]) -> int:
    from lxcctl.arguments import FORMATS
    from lxcctl.channel import DEFAULT_ADDRESS, Session

    # What stands after the verb is meant more specifically.
    options |= {name: value for name, value in vars(args).items() if f"--{name}" in _GLOBALS}
    form = options.get("format", "table")
    if form not in FORMATS:
        raise UsageError(f"no such format: {form} (one of {', '.join(FORMATS)})", verbs.USAGE)
    address = options.get("address") or os.environ.get("LXCD_ADDRESS") or DEFAULT_ADDRESS
    session = Session(address, options.get("lxcpath", ""), form)
    try:
        return run(session, args)
    finally:
        session.channel.close()


def _tell(error: ClientError) -> int:
    from lxcctl.output import note

    first, *more = errors.explain(error)
    note(first)
    for text in more:
        sys.stderr.write(f"{text}\n") if isinstance(error, UsageError) else note(text)
    return error.status


def flush(status: int) -> int:
    """Write what is left; the exit status, which is another one where that fails."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            status = errors.BROKEN_PIPE
        except OSError as error:
            if status == 0:
                status = errors.FAILED
                os.write(2, f"lxcctl: standard output: {error.strerror}\n".encode())
    return status


if __name__ == "__main__":
    main()
