"""`lxcd-keeper`: what the launcher execs in the keeper's own mount tree. Its descriptors come by
number in argv.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import signal
import socket
import sys
from typing import TextIO, cast

from lxcd.keeper import handover, protocol, spawn, upgrade
from lxcd.keeper.journal import Journal
from lxcd.keeper.loop import Keeper
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import identity, process


class _Log(io.TextIOBase):
    """What the keeper has to say. Where that finds no room it is lost, and nothing else is."""

    def write(self, text: str) -> int:
        """To standard error, at once."""
        with contextlib.suppress(OSError):
            os.write(2, text.encode(errors="replace"))
        return len(text)


def main(arguments: list[str]) -> int:
    """Be a keeper, as the options say.

    --runtime-dir DIR                          to be seen in ps
    --build TEXT                               what this image is; and one of:
    --listener FD --journal FD [--stored FD]   a new keeper; a service manager has its descriptors:
      --notify FD                              this one, or
      --trustee FD --trustee-address FD --ends FD --namespace FD
    --candidate FD                             one that might take its place
    --state FD                                 one that does
    """
    sys.stderr = cast("TextIO", _Log())
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    if "--namespace" in options:
        # The trustee has started us with the root of our tree, but it lives in another.
        with kernel_fd.Fd(int(options["--namespace"])) as namespace:
            process.setns(namespace.fileno(), process.CLONE_NEWNS)
    if "--candidate" in options:
        candidate = socket.socket(fileno=int(options.pop("--candidate")))
        words = [word for pair in options.items() for word in pair]
        return upgrade.stand(candidate, words)
    if "--state" in options:
        keeper = _go_on(int(options["--state"]), options["--build"])
    else:
        _prepare(managed="--notify" in options)
        keeper = _begin(options)
    gc.collect()
    gc.freeze()
    keeper.run()
    return 0


def _prepare(*, managed: bool) -> None:
    process.set_name(protocol.PROCESS_NAME)
    process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    # Its children inherit this until they exec: nobody inside a container can trace them or read
    # their memory.
    process.prctl(process.PR_SET_DUMPABLE, 0)
    # It ends when there is nothing to keep, and not because a terminal says so. A service manager
    # may: it has our descriptors, and containers go on.
    for number in (signal.SIGINT, signal.SIGHUP, *([] if managed else [signal.SIGTERM])):
        signal.signal(number, signal.SIG_IGN)
    # What lxcd was started with must not reach a container: CVE-2022-29162, CVE-2022-27650.
    os.setgroups(())
    identity.drop_bounding(frozenset(range(64)), identity.last_capability())
    for missing in spawn.raise_own_limits():
        print(f"keeper: {missing}", file=sys.stderr)
    if missing := spawn.load():
        print(f"keeper: {missing}: nothing can be started", file=sys.stderr)


def _begin(options: dict[str, str]) -> Keeper:
    """A new one; a service manager may have kept descriptors of the last."""
    names = ("--listener", "--journal", "--notify", "--trustee", "--trustee-address", "--ends")
    numbers = {name: int(options[name]) for name in names if name in options}
    held_by = numbers.get("--notify", numbers.get("--trustee", -1))
    notify = socket.socket(fileno=held_by) if held_by >= 0 else None
    stored: dict[str, int] = {}
    if "--stored" in options:
        with kernel_fd.Fd(int(options["--stored"])) as memfd:
            stored = json.loads(kernel_fd.read_all(memfd.fileno(), handover.LIMIT_BYTES))
    for number in (*numbers.values(), *stored.values()):
        os.set_inheritable(number, False)
    listener = socket.socket(fileno=numbers["--listener"])
    listener.setblocking(False)
    keeper = Keeper(
        listener,
        Journal(numbers["--journal"]),
        options["--build"],
        notify,
        ends=numbers.get("--ends", -1),
        trustee=numbers.get("--trustee-address", -1),
    )
    keeper.children.restore(keeper.store.restore(stored))
    keeper.store.ready()
    return keeper


def _go_on(memfd: int, build: str) -> Keeper:
    """Take over from the image that was here before, or be that one again."""
    os.set_inheritable(memfd, False)
    text = kernel_fd.read_all(memfd, handover.LIMIT_BYTES)
    try:
        state = handover.decode(text)
        handover.check_open(state)
        handover.close_on_exec(state, True)
        spawn.inherit_nofile(state["nofile"])
        number = state["store"].pop("notify")
        trustee = state.get("trustee", -1)
        _prepare(managed=number >= 0 and trustee < 0)
        listener = socket.socket(fileno=state["listener"])
        notify = None if number < 0 else socket.socket(fileno=number)
        pending = {exited.id: exited for exited in handover.pending_of(state)}
        journal = Journal(state["journal"], pending)
        peer = handover.peer_of(state)
        keeper = Keeper(listener, journal, build, notify, peer, trustee=trustee)
        keeper.leaving = state["leaving"]
        keeper.store.resume(**state["store"])
        for child in handover.children_of(state):
            keeper.children.take(child)
    except BaseException as error:
        upgrade.go_back(text, f"{type(error).__name__}: {error}")
        raise
    os.close(memfd)
    if "back" in state:
        os.close(state["back"]["namespace"])
    # What the old image has drained in its last turn, lxcd was not told of.
    keeper.link.grown = True
    if "failed" in state:
        keeper.link.tell(protocol.NotUpgraded(state["failed"]))
    else:
        keeper.link.tell(protocol.Upgraded(protocol.VERSION, build))
    return keeper


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
