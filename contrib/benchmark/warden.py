"""Gives a run a network and mounts of its own; ends and removes whatever it leaves.

    python -m contrib.benchmark.warden OPTIONS

Standard output is the run's. When standard input ends, because the command was interrupted or died,
the run is over. This process is a subreaper: whoever loses his parent becomes its child, so "what
the run has started" is exactly the tree below it, however much it daemonises. Mounts go with the
last process; cgroups bear the run's random token.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from contrib.benchmark import processes, trees
from contrib.benchmark.containers import FIRST_ID, ID_RANGE

_PR_SET_CHILD_SUBREAPER = 36
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Stock LXC makes it for every monitor that ends, and leaves it.
_PIVOT = "lxc.pivot"

# sysfs shows the network devices of the namespace it was mounted in, hence a new one; what is
# mounted below the old one goes along, cgroups above all. /run: stock LXC's locks, crun's state.
# newuidmap asks /etc/subuid even for root.
_SETUP = """\
set -e
cd /
busybox ip link set lo up
for name in fs/cgroup kernel/security fs/bpf; do
  mountpoint -q "/sys/$name" || continue
  mkdir -p "$1/sys/$name"
  mount --rbind "/sys/$name" "$1/sys/$name"
  kept="$kept $name"
done
mount -t sysfs sysfs /sys
for name in $kept; do
  mount --move "$1/sys/$name" "/sys/$name"
done
mount -t tmpfs -o mode=755 bench /run
for file in /etc/subuid /etc/subgid; do
  [ ! -e "$file" ] || mount --bind "$1/grants" "$file"
done
shift
exec "$@"
"""


def main(arguments: list[str]) -> int:
    """Exit status: the run's."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl PR_SET_CHILD_SUBREAPER")
    # They are for the command, which then ends this in order.
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    token = f"bench{secrets.token_hex(4)}"
    pivots = trees.named(_PIVOT)
    work = Path(tempfile.mkdtemp(prefix="lxcd-bench-"))
    try:
        work.chmod(0o755)  # mapped users walk through it
        (work / "grants").write_text(f"root:{FIRST_ID}:{ID_RANGE}\n")
        status = _run(_argv(arguments[0], work, token))
        left = _clean_up(token)
        for pivot in trees.named(_PIVOT) - pivots:
            # Somebody else's monitor may sit in it by now.
            with suppress(OSError):
                os.rmdir(pivot)
    finally:
        _remove(work)
    # A run that broke off leaves what it was about; one that ended well has a leak.
    for line in left if status == 0 else ():
        sys.stderr.write(f"contrib/bench: left behind, and removed: {line}\n")
    return status


def _clean_up(token: str) -> list[str]:
    """End every process, remove every cgroup; what there was."""
    below = processes.descendants(os.getpid())
    # Names that lxcd gives to what is no container's yet do not bear the token; who sits there is
    # known all the same.
    cgroups = trees.named(token).union(*(trees.of(pid) for pid in below)) - trees.of("self")
    left = [f"process {pid} {words}" for pid in below if (words := processes.words(pid))]
    left += [f"cgroup {cgroup}" for cgroup in sorted(cgroups)]
    _end_all()
    for cgroup in sorted(trees.remove(cgroups)):
        sys.stderr.write(f"contrib/bench: could not be removed: cgroup {cgroup}\n")
    return left


def _argv(options: str, work: Path, token: str) -> list[str]:
    return [
        *("unshare", "--net", "--mount", "--propagation", "private", "--"),
        *("sh", "-c", _SETUP, "sh", str(work)),
        *(sys.executable, "-P", "-m", "contrib.benchmark.inside", options, str(work), token),
    ]


def _run(argv: list[str]) -> int:
    """Reap everything until the run itself has ended; how it did."""
    null = (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)
    pid = os.posix_spawnp(
        argv[0], argv, os.environ, file_actions=[null], setsid=True, setsigdef=_IGNORED
    )
    pidfd = os.pidfd_open(pid)
    threading.Thread(target=_watch_lifeline, args=(pidfd,), daemon=True).start()
    while True:
        ended, status = os.wait()
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def _watch_lifeline(pidfd: int) -> None:
    while os.read(0, 1):
        pass
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _end_all() -> None:
    """Kill children until there is none; orphans of those come next."""
    while True:
        for pid in processes.children(os.getpid()):
            # It is our child and nobody else reaps it: the number cannot belong to anyone else.
            os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _remove(work: Path) -> None:
    """Not through a mount: what were mounted there would not be ours."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        if any(line.split()[4].startswith(f"{work}/") for line in file):
            sys.stderr.write(f"contrib/bench: {work} is not removed: something is mounted in it\n")
            return
    shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
