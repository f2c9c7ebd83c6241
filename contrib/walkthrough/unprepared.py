"""The same image once more, as it came, and nothing made ready in it or on the host."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from contrib.walkthrough.figures import Shown, lacks
from contrib.walkthrough.stage import PRISTINE
from contrib.walkthrough.system import LOGIN, enter

if TYPE_CHECKING:
    from contrib.walkthrough.stage import Stage

CONF = "/lxc/conf/vm.conf"
_CONF = f"""\
lxc.uts.name = vm
lxc.rootfs.path = loop:{PRISTINE}
lxc.rootfs.options = partition=2
lxc.mount.auto = proc:mixed sys:mixed
lxc.tty.max = 6
lxc.net.0.type = veth
lxc.net.0.name = eth0
lxc.net.0.flags = up
lxc.net.0.link = br0
lxc.net.0.ipv4.address = 192.168.122.107/24
lxc.net.0.ipv4.gateway = 192.168.122.1
"""
_JUMP_SECONDS = 60.0


def _offset() -> float:
    """Of the clock that one can set from the one that nobody can."""
    return time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_BOOTTIME)


def _swaps() -> str:
    return Path("/proc/swaps").read_text()


def boot(stage: Stage) -> Shown:
    """In lxcd's own words: one file, two commands."""
    stage.notes["swaps"], stage.notes["offset"] = _swaps(), str(_offset())
    stage.write(CONF, _CONF)
    stage.sh(f"lxcctl create vm --config {CONF}")
    terminal = stage.sit("vm", "lxcctl start --console vm")
    shown = terminal.expect("Starting crond: ", "Dropping you to a shell")
    return Shown(
        shown,
        typed=f"{_CONF}# lxcctl create vm --config {CONF}\n# lxcctl start --console vm",
        wrong=lacks(shown, "Welcome to Red Hat-like", "Starting sshd: ", "Starting crond: "),
    )


def ttys(stage: Stage) -> Shown:
    """Each has a prompt."""
    seen = []
    for number in range(1, 7):
        terminal = stage.sit(f"tty{number}", f"lxcctl console --tty {number} vm")
        # It was printed before anybody looked: history, or else again for who presses return.
        terminal.type("")
        seen.append(f"tty{number}: {terminal.expect(LOGIN).splitlines()[-1]}")
    enter(stage.terminals["tty1"])
    stage.terminals["tty1"].type("hostname; tty")
    shown = stage.terminals["tty1"].expect("/dev/tty1")
    stage.leave(*(f"tty{number}" for number in range(2, 7)))
    return Shown("\n".join((*seen, shown)), wrong=lacks(shown, "rhel60vm01"))


def halt(stage: Stage) -> Shown:
    """From inside."""
    stage.terminals["tty1"].type("poweroff")
    terminal = stage.terminals["vm"]
    terminal.wait()
    shown = terminal.text.rpartition("Starting crond: ")[2]
    stage.leave("tty1", "vm")
    state = stage.sh("lxcctl list")
    wrong = [*lacks(shown, "Syncing hardware clock", "Power down."), *lacks(state, "STOPPED")]
    wrong += ["the host's swap has changed"] if _swaps() != stage.notes["swaps"] else []
    jump = abs(_offset() - float(stage.notes["offset"]))
    wrong += [f"the host's clock jumped by {jump} s"] if jump > _JUMP_SECONDS else []
    return Shown(shown, wrong=tuple(wrong))


def left(stage: Stage) -> Shown:
    """The image is a file like any other again."""

    def loops() -> str:
        return stage.sh("losetup --list --noheadings --output NAME,BACK-FILE")

    # The kernel writes back what is dirty before it lets go, a moment after the last process.
    stage.until(lambda: PRISTINE.name not in loops(), "no loop device is left")
    shown = loops()
    stage.sh("lxcctl delete --force vm")
    return Shown(shown, wrong=() if PRISTINE.exists() else ("the image is gone",))


ACTS = {
    "untouched-boot": boot,
    "untouched-ttys": ttys,
    "untouched-halt": halt,
    "untouched-image": left,
}
