"""Another image under the same pid: children, pidfds and terminals stay, the program changes.

A candidate comes first: the launcher makes a mount tree for the new image as for any keeper, and
execs the new keeper in it, which does not serve but answers on a socket. lxcd hands that socket
over with UPGRADE. The candidate reads our state and says whether it understands it; only then this
process enters its mount namespace and execs what it is. The new image looks at every descriptor
before it touches one; if something is wrong it goes back to the old mount namespace and the old
image, whose state is the same as before.

A candidate that says nothing is in nobody's way: lxcd kills it in the end, which refuses its
upgrade, and it dies with its lxcd. For an image that hangs after the exec there is no such way
back, since nobody else is left in this process: the children go on, what is attached to them
stands still, and every lxcd says that the keeper does not answer, until somebody kills it and the
next one gets what the trustee holds. So the candidate does first what can be done first: it is
loaded and has read the whole state when the keeper execs.

    keeper → candidate    STATE + memfd
    candidate → keeper    READY, argv + its mount namespace; or REFUSED, why
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any, NoReturn, cast

from lxcd.keeper import handover, protocol, spawn, trust
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import process

if TYPE_CHECKING:
    from lxcd.keeper.loop import Keeper

_MESSAGE_LIMIT = 64 * 1024


def own_command() -> list[str]:
    """The interpreter and the code that this image was started with, without its options."""
    return sys.orig_argv[: sys.orig_argv.index("-c") + 2]


class Upgrade:
    """The keeper's side: one candidate at a time."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._candidate: socket.socket | None = None

    def begin(self, number: int) -> None:
        """Ask the candidate behind this socket, which is ours now."""
        candidate = socket.socket(fileno=number)
        if self._candidate is not None:
            candidate.close()
            self._refuse("another upgrade is under way")
            return
        candidate.setblocking(False)
        self._candidate = candidate
        self._keeper.epoll.watch(number, self._answered, failed=lambda: self._give_up("failed"))
        try:
            text = json.dumps(handover.state_of(self._keeper)).encode()
            with kernel_fd.Fd(kernel_fd.sealed_memfd("lxcd-state", text)) as memfd:
                kernel_fd.send(candidate, b'["STATE"]', [memfd.fileno()])
        except OSError as error:
            self._give_up(f"the candidate cannot be asked: {error}")

    def _answered(self) -> None:
        if self._candidate is None:
            return
        fds: list[int] = []
        value: Any
        try:
            data, fds = kernel_fd.receive(self._candidate, _MESSAGE_LIMIT)
            word, value = json.loads(data) if data else ("REFUSED", "the candidate has ended")
        except BlockingIOError:
            return
        except ConnectionResetError:
            word, value = "REFUSED", "the candidate has ended"
        except (OSError, ValueError, TypeError, RecursionError) as error:
            word, value = "REFUSED", f"the candidate cannot be understood: {error}"
        if word == "READY" and len(fds) == 1 and _is_command(value):
            self._become(fds[0], value)
        else:
            self._give_up(str(value) if word == "REFUSED" else "no answer of a candidate")
        kernel_fd.close_all(fds)

    def _become(self, namespace: int, command: list[str]) -> None:
        """Exec the candidate's image; return only if that failed."""
        if self._keeper.store.busy:
            self._give_up("the service manager is busy: try again")
            return
        state = handover.state_of(self._keeper)
        back = os.open("/proc/self/ns/mnt", os.O_RDONLY)
        options = ["--build", self._keeper.build, *trust.runtime_dir()]
        state["back"] = {"namespace": back, "command": [*own_command(), *options]}
        state["nofile"] = list(spawn.inherited_nofile())
        try:
            _become(state, namespace, command)
        except (OSError, ValueError) as error:
            handover.close_on_exec(state, True)
            process.setns(back, process.CLONE_NEWNS)
            self._give_up(f"{command[0]}: {error}")
        finally:
            os.close(back)

    def _give_up(self, why: str) -> None:
        self.forget()
        self._refuse(why)

    def forget(self) -> None:
        """Let go of the candidate, if there is one. Nobody is told."""
        if self._candidate is not None:
            self._keeper.epoll.unwatch(self._candidate.fileno())
            self._candidate.close()
            self._candidate = None

    def _refuse(self, why: str) -> None:
        print(f"keeper: not upgraded: {why}", file=sys.stderr)
        self._keeper.link.tell(protocol.NotUpgraded(why))


def _is_command(value: object) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(word, str) for word in cast("list[object]", value))


def _become(state: dict[str, Any], namespace: int, command: list[str]) -> NoReturn:
    text = json.dumps(state).encode()
    memfd = kernel_fd.sealed_memfd("lxcd-state", text)
    try:
        handover.close_on_exec(state, False)
        os.set_inheritable(memfd, True)
        back = state.get("back")
        if back is not None:
            os.set_inheritable(back["namespace"], True)
        process.setns(namespace, process.CLONE_NEWNS)
        os.chdir("/")
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(command[0], [*command, "--state", str(memfd)], dict(os.environ))
    finally:
        os.close(memfd)


def go_back(text: bytes, why: str) -> None:
    """The new image cannot go on: be the old one again. Returns if there is none to go back to."""
    state = json.loads(text)
    back = state.get("back")
    if back is None or "failed" in state:
        return
    state["failed"] = why
    _become(state, back["namespace"], back["command"])


def stand(candidate: socket.socket, options: list[str]) -> int:
    """The candidate's side: read the state, say whether it will do, and wait to be let go."""
    data, fds = kernel_fd.receive(candidate, _MESSAGE_LIMIT)
    if not data or len(fds) != 1:
        return 1
    try:
        handover.decode(kernel_fd.read_all(fds[0], handover.LIMIT_BYTES))
    except (OSError, ValueError, protocol.ProtocolError) as error:
        kernel_fd.send(candidate, json.dumps(["REFUSED", str(error)]).encode())
        return 1
    answer = json.dumps(["READY", [*own_command(), *options]]).encode()
    with kernel_fd.Fd(os.open("/proc/self/ns/mnt", os.O_RDONLY)) as namespace:
        kernel_fd.send(candidate, answer, [namespace.fileno()])
    # EOF: the keeper has become what we are, or has given up.
    kernel_fd.receive(candidate, _MESSAGE_LIMIT)
    return 0
