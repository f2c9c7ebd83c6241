"""`config edit`: the text in an editor, safe from lost updates and lost work."""

from __future__ import annotations

import os
import sys

from lxcctl import arguments, output
from lxcctl.channel import LOOK_SECONDS
from lxcctl.commands.config import get_full
from lxcctl.commands.several import note_problems
from lxcctl.errors import FAILED, CallError, ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from lxcctl.channel import Session
    from lxcd.v1.container_pb2 import Container

_STDIN = 0


def _edit(session: Session, args: Namespace) -> int:
    container = get_full(session, args.name)
    path = _temporary(args.name, container.config_text)
    try:
        changed = _rounds(session, container, path)
    except ClientError as error:
        # Somebody's work is in that file.
        raise ClientError(f"{error.text}\nthe edited text is in {path}", error.status) from error
    os.unlink(path)
    if changed is None:
        output.note(f"{args.name}: nothing changed")
    else:
        note_problems(changed.problems, args.name)
    return 0


def _temporary(name: str, text: str) -> str:
    import tempfile

    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
    # mkstemp: 0600 and nobody else's file. The suffix lets editors choose their colours.
    fd, path = tempfile.mkstemp(prefix=f"lxcctl-{safe}-", suffix=".conf")
    with os.fdopen(fd, "wb") as file:
        file.write(text.encode())
    return path


def _rounds(session: Session, container: Container, path: str) -> Container | None:
    """Edit until the daemon takes it; None if nothing was changed."""
    while True:
        _run_editor(path)
        text, _ = arguments.read_text(path)
        if text == container.config_text:
            return None
        try:
            return _replace(session, container, text)
        except CallError as error:
            if error.code != "INVALID_ARGUMENT" or not _asks_again(error):
                raise


def _run_editor(path: str) -> None:
    import shlex
    import subprocess

    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        done = subprocess.run([*shlex.split(editor), path], check=False)  # noqa: S603 - the user's own editor
    except (OSError, ValueError) as error:
        raise ClientError(f"cannot run the editor {editor!r}: {error}", FAILED) from error
    if done.returncode:
        raise ClientError(f"the editor {editor!r} failed: nothing was changed", FAILED)


def _asks_again(error: CallError) -> bool:
    if not os.isatty(_STDIN):
        return False
    output.note(error.text)
    sys.stderr.write("Edit again? [Y/n] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    # An end of input is no yes.
    return bool(answer) and answer.strip().lower() not in {"n", "no"}


def _replace(session: Session, container: Container, text: str) -> Container:
    from lxcd.v1.container_pb2 import Container, UpdateContainerRequest

    request = UpdateContainerRequest(
        container=Container(
            name=container.name,
            lxcpath=container.lxcpath or session.lxcpath,
            etag=container.etag,
            config_text=text,
        )
    )
    request.update_mask.paths.append("config_text")
    return session.channel.call(
        "ContainerService/UpdateContainer", request, Container, LOOK_SECONDS
    )


VERBS = {"config edit": (arguments.add_name, _edit)}
