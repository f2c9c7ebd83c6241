"""`lxcd-keeper`: what the launcher execs in the keeper's own mount tree. Its descriptors come by
number in argv.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys

from lxcd.keeper import spawn
from lxcd.keeper.journal import Journal
from lxcd.keeper.loop import Keeper
from lxcd.kernel import identity, process


def main(arguments: list[str]) -> int:
    """`--runtime-dir DIR --listener FD --journal FD --build TEXT`: DIR is there to be seen in
    ps.
    """
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    listener = socket.socket(fileno=int(options["--listener"]))
    listener.setblocking(False)
    journal = Journal(int(options["--journal"]))
    for number in (listener.fileno(), int(options["--journal"])):
        os.set_inheritable(number, False)
    process.set_name("lxcd-keeper")
    process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    # Its children inherit this until they exec: nobody inside a container can trace them or read
    # their memory.
    process.prctl(process.PR_SET_DUMPABLE, 0)
    # It ends when there is nothing to keep, and not because a terminal or a service manager says
    # so.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # What lxcd was started with must not reach a container: CVE-2022-29162, CVE-2022-27650.
    os.setgroups(())
    identity.drop_bounding(frozenset(range(64)), identity.last_capability())
    for missing in spawn.raise_own_limits():
        print(f"keeper: {missing}", file=sys.stderr)
    keeper = Keeper(listener, journal, options["--build"])
    gc.collect()
    gc.freeze()
    keeper.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
