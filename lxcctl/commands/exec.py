"""`exec`: a command in a running container, as if it ran here; `execs` and `attach`: those that
somebody has left running.
"""

from __future__ import annotations

import os

from lxcctl import arguments, output
from lxcctl.channel import GRACE_SECONDS, LOOK_SECONDS
from lxcctl.errors import CallError, ClientError
from lxcctl.wire import exit_status, exit_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator
    from typing import Any

    from lxcctl.arguments import Parser
    from lxcctl.attach import Attachment
    from lxcctl.channel import Session
    from lxcctl.output import Column
    from lxcd.v1.exec_pb2 import CreateExecRequest, Exec

_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
_PRIVILEGES = ("cgroup", "capabilities", "security")
_DETACHED = 5  # SESSION_END_DETACHED
_KICKED = 3
_CTRL_D = b"\x04"


def _exec_options(parser: Parser) -> None:
    parser.command_style = "loose"
    arguments.add_name(parser)
    add = parser.add_argument
    add("--user", metavar="U", default="", help="name or number, with an optional :group")
    add("--cwd", metavar="D", default="", help="directory (default: the user's)")
    add(
        "--env",
        metavar="K=V",
        type=_environment,
        action="append",
        default=[],
        help="add to the environment; K alone: as it is here",
    )
    add("--keep-env", action="store_true", help="add all of the environment here")
    add("--group", metavar="G", action="append", default=[], help="in place of the user's groups")
    add("--umask", metavar="M", type=_octal, help="octal (default: 022)")
    arguments.add_streams(parser)
    add("--detach", action="store_true", help="leave it running, and print its id")
    add("--detach-keys", metavar="K", default="", help="keys that leave it running (default: none)")
    add(
        "--namespace",
        metavar="N",
        type=_namespaces,
        action="extend",
        default=[],
        help="join only these, and run a program of the host",
    )
    add(
        "--elevate",
        metavar="P",
        type=_privileges,
        action="extend",
        default=[],
        help="keep cgroup, capabilities, security or all",
    )
    add("--timeout", metavar="S", type=arguments.seconds, help="kill the command after this time")


def _environment(text: str) -> str:
    import argparse

    name, equals, _ = text.partition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"not NAME=VALUE: {text!r}")
    if equals:
        return text
    if name not in os.environ:
        raise argparse.ArgumentTypeError(f"{name} is not set here")
    return f"{name}={os.environ[name]}"


def _octal(text: str) -> int:
    import argparse

    try:
        value = int(text, 8)
    except ValueError:
        value = -1
    if not 0 <= value <= 0o777:  # noqa: PLR2004
        raise argparse.ArgumentTypeError(f"not an octal mask: {text!r}")
    return value


def _words(text: str, known: tuple[str, ...], what: str) -> list[str]:
    import argparse

    found = text.lower().replace("|", ",").split(",")
    for word in found:
        if word not in known:
            raise argparse.ArgumentTypeError(f"no {what}: {word!r} (of {', '.join(known)})")
    return found


def _namespaces(text: str) -> list[str]:
    return _words(text, _NAMESPACES, "such namespace")


def _privileges(text: str) -> list[int]:
    if text.lower() == "all":
        return list(range(1, len(_PRIVILEGES) + 1))
    return [_PRIVILEGES.index(word) + 1 for word in _words(text, _PRIVILEGES, "such privilege")]


def _exec(session: Session, args: Namespace) -> int:
    from lxcctl import foreground
    from lxcd.v1.exec_pb2 import DISCONNECT_POLICY_KILL

    keys = foreground.keys_of(args.detach_keys)
    request = _request(session, args)
    if args.detach:
        output.line(_create(session, request).id)
        return 0
    request.on_disconnect = DISCONNECT_POLICY_KILL
    request.delete_on_exit = True
    request.lossless = True
    if foreground.wants_terminal(args.tty, shell=not args.command):
        request.tty = True
        foreground.set_size(request.size)
        term = os.environ.get("TERM", "")
        if term and not any(word.startswith("TERM=") for word in request.env):
            request.env.append(f"TERM={term}")
        return _on_terminal(session, request, keys, args.timeout)
    return _with_streams(session, request, args)


def _request(session: Session, args: Namespace) -> CreateExecRequest:
    from lxcd.v1.exec_pb2 import CreateExecRequest

    environment = list(args.env)
    if args.keep_env:
        environment = [*_environment_here(), *environment]
    request = CreateExecRequest(
        container=args.name,
        lxcpath=session.lxcpath,
        command=args.command or (),
        env=environment,
        user=args.user,
        cwd=args.cwd,
        groups=args.group,
        namespaces=args.namespace,
        elevate=args.elevate,
    )
    if args.umask is not None:
        request.umask = args.umask
    return request


def _environment_here() -> Iterator[str]:
    """All of it that a string of the API can hold."""
    for name, value in os.environ.items():
        text = f"{name}={value}"
        try:
            text.encode()
        except UnicodeEncodeError:
            output.note(f"{name} is left out: it is not valid UTF-8")
        else:
            yield text


def _create(session: Session, request: CreateExecRequest) -> Exec:
    from lxcd.v1.exec_pb2 import Exec

    return session.channel.call("ExecService/CreateExec", request, Exec)


def _attachment(session: Session, id_: str, *, known: bool) -> Attachment:
    from lxcctl import foreground
    from lxcctl.attach import Attachment
    from lxcd.v1 import exec_pb2

    def start(message: Any) -> None:  # noqa: ANN401
        message.id = id_
        message.lossless = True
        foreground.as_controller(message)

    types = (exec_pb2.AttachExecRequest, exec_pb2.AttachExecResponse)
    attachment = Attachment(session, "ExecService/AttachExec", types, start, known=known)
    attachment.on_output = foreground.show
    attachment.on_gap = foreground.show_gap
    attachment.on_role = foreground.show_role
    return attachment


def _on_terminal(
    session: Session, request: CreateExecRequest, keys: bytes, timeout: float | None
) -> int:
    from lxcctl import foreground

    def acts(made: Exec) -> Callable[[int], None]:
        return foreground.leaving(lambda _: _signal(session, made.id, 9))

    with foreground.signals() as signals:
        made = foreground.begin(signals, lambda: _create(session, request), acts)
        attachment = _attachment(session, made.id, known=True)

        def hang_up(_: int) -> None:
            _signal(session, made.id, 1)

        types = foreground.typist(keys, at_end=_CTRL_D)
        with foreground.typing(attachment, signals, types, on_leaving=hang_up):
            _arm(session, made.id, timeout)
            end = attachment.run()
    return _status(end, made.id)


def _with_streams(session: Session, request: CreateExecRequest, args: Namespace) -> int:
    from lxcctl import foreground
    from lxcctl.streams import OwnStreams
    from lxcctl.typist import Typist

    def start() -> tuple[Exec, foreground.Relay]:
        made = _create(session, request)
        return made, foreground.Relay(lambda number: _signal(session, made.id, number))

    with foreground.signals(at_terminal=False) as signals, OwnStreams() as streams:
        if not args.streamed:
            request.descriptors_token = streams.hand_over(session.channel.address)
        own = bool(request.descriptors_token)
        request.stdin = not own
        made, relay = foreground.begin(signals, start, lambda begun: begun[1])
        attachment = relay.attachment = _attachment(session, made.id, known=True)
        if own:
            streams.begin()
        else:
            types = Typist(0)
            attachment.on_started = lambda _: types.type_into(attachment)
        _arm(session, made.id, args.timeout)
        try:
            end = attachment.run()
        except BrokenPipeError:
            # Nobody reads what it writes: it is told as it would be without us.
            _signal(session, made.id, 13)
            raise
        if own:
            streams.finish()
    return _status(end, made.id)


def _arm(session: Session, id_: str, timeout: float | None) -> None:
    """Kill it after this time."""
    if timeout is None:
        return
    import threading

    def late() -> None:
        output.note("the command was killed: it took longer than --timeout")
        _signal(session, id_, 9)

    timer = threading.Timer(timeout, late)
    timer.daemon = True
    timer.start()


def _signal(session: Session, id_: str, number: int) -> None:
    """Send it one, over a connection of its own: another thread may be about to make a new one."""
    from lxcctl.channel import Channel
    from lxcd.v1.exec_pb2 import SignalExecRequest, SignalExecResponse

    channel = Channel(session.channel.address)
    request = SignalExecRequest(id=id_, signal=number)
    try:
        channel.call("ExecService/SignalExec", request, SignalExecResponse, GRACE_SECONDS)
    except CallError as error:
        if error.is_lost_connection:
            output.note(f"{error.text}; the command goes on without us")
            os._exit(128 + number)
        # It ended meanwhile; the main thread is about to learn that, too.
    finally:
        channel.close()


def _status(end: Any, id_: str) -> int:  # noqa: ANN401 - AttachExecEnd
    if end.reason == _DETACHED:
        output.note(f"left {id_} running; back with: lxcctl attach {id_}")
        return 0
    if end.reason == _KICKED:
        raise ClientError("somebody has ended this session")
    return exit_status(end.exit)


# ---- those that run on


def _attach_options(parser: Parser) -> None:
    parser.add_argument("id", metavar="ID", help="of an exec: `lxcctl execs` lists them")
    arguments.add_session(parser)


def _attach(session: Session, args: Namespace) -> int:
    from lxcctl import foreground

    keys = foreground.keys_of(args.detach_keys)
    attachment = _attachment(session, args.id, known=False)
    begin = attachment.start

    def start(message: Any) -> None:  # noqa: ANN401
        begin(message)
        message.role = 1 if args.read_only else message.role
        message.lossless = not args.read_only
        message.steal = args.steal and not attachment.offsets
        message.live_only = args.no_replay

    attachment.start = start
    if args.read_only:
        end = attachment.run()
    else:
        types = foreground.typist(keys)

        def started(frame: Any) -> None:  # noqa: ANN401
            # Input that is no terminal's ends, if what it is typed into can end.
            types.at_end = b"" if frame.exec.tty else None

        with (
            foreground.signals() as signals,
            foreground.typing(attachment, signals, types, on_started=started),
        ):
            end = attachment.run()
    return _status(end, args.id)


def _execs_options(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", default="", help="only this container's")
    parser.add_argument("--delete", metavar="ID", action="append", default=[], help="forget one")
    parser.add_argument("--kill", metavar="ID", action="append", default=[], help="end one")


def _execs(session: Session, args: Namespace) -> int:
    from lxcd.v1 import exec_pb2

    for id_ in (*args.kill, *args.delete):
        request = exec_pb2.DeleteExecRequest(id=id_, force=id_ in args.kill)
        session.channel.call(
            "ExecService/DeleteExec", request, exec_pb2.DeleteExecResponse, GRACE_SECONDS
        )
    if args.kill or args.delete:
        return 0
    found: list[Exec] = []
    listing = exec_pb2.ListExecsRequest(container=args.name, lxcpath=session.lxcpath)
    while True:
        reply = session.channel.call(
            "ExecService/ListExecs", listing, exec_pb2.ListExecsResponse, LOOK_SECONDS
        )
        found += reply.execs
        listing.page_token = reply.next_page_token
        if not listing.page_token:
            break
    if session.form != "table":
        header = output.csv_header(exec_pb2.Exec.DESCRIPTOR)
        output.records(session.form, header, map(output.plain, found))
        return 0
    columns: tuple[Column[Exec], ...] = (
        ("ID", lambda each: each.id),
        ("CONTAINER", lambda each: each.container),
        ("PID", lambda each: str(each.pid) if each.pid else "-"),
        ("ENDED", lambda each: exit_words(each.exit) if each.HasField("exit") else "-"),
        ("SESSIONS", lambda each: str(len(each.sessions))),
        ("COMMAND", lambda each: " ".join(each.command)),
    )
    output.table(columns, found)
    return 0


VERBS = {
    "exec": (_exec_options, _exec),
    "attach": (_attach_options, _attach),
    "execs": (_execs_options, _execs),
}
