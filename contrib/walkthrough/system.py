"""Container 002: what was a virtual machine. And 003 to 006, to be listed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from contrib.walkthrough import application, texts
from contrib.walkthrough.figures import Shown, lacks
from contrib.walkthrough.preparing import ROOT_002
from contrib.walkthrough.stage import PASSWORD, PROMPT

if TYPE_CHECKING:
    from contrib.walkthrough.stage import Stage
    from contrib.walkthrough.terminal import Terminal

ADDRESS = "192.168.122.102"
CONF = "/lxc/conf/002.conf"
LOGIN = "rhel60vm01 login:"
_LISTED = ("003", "004", "005", "006")
_RUNNING = ("003", "005", "006")


def enter(terminal: Terminal) -> None:
    """From the login prompt to a shell's."""
    terminal.type("root")
    terminal.expect("Password: ")
    terminal.type(PASSWORD)
    terminal.expect(PROMPT)


def answers(stage: Stage) -> None:
    """Wait until somebody can log in over the network."""
    stage.until(
        lambda: stage.ask(ADDRESS, "hostname") == "rhel60vm01", f"sshd answers at {ADDRESS}"
    )


def create(stage: Stage) -> Shown:
    """Defined by the article's file."""
    stage.write(CONF, texts.CONF_002)
    shown = stage.sh("lxc-create -n 002 -f /lxc/conf/002.conf")
    listed = stage.sh("lxc-ls")
    return Shown(shown, wrong=lacks(listed, "002"))


def boot(stage: Stage) -> Shown:
    """In the foreground."""
    terminal = stage.sit("console", "lxc-start -n 002")
    shown = terminal.expect(LOGIN)
    wanted = (
        "Welcome to Red Hat-like Enterprise Linux Server\n",
        "Setting hostname rhel60vm01: ",
        "Mounting local filesystems: ",
        "Entering non-interactive startup",
        "Bringing up loopback interface: ",
        "Starting system logger: ",
        "Starting sshd: ",
        "Starting crond: ",
        "Red Hat-like Enterprise Linux Server release 6.0 (Lookalike)\n",
    )
    failed = tuple(f"failed: {line}" for line in shown.splitlines() if "[FAILED]" in line)
    return Shown(shown, wrong=(*lacks(shown, *wanted), *failed))


def log_in(stage: Stage) -> Shown:
    """On the console."""
    terminal = stage.terminals["console"]
    enter(terminal)
    shown = application.says(terminal, "tty; hostname; cat /proc/1/comm")
    return Shown(shown, wrong=lacks(shown, "/dev/console", "rhel60vm01", "init"))


def ps(stage: Stage) -> Shown:
    """On the host."""
    shown = stage.sh("lxc-ps --name 002 -ef")
    rows = shown.splitlines()
    wrong = [*lacks(shown, "init", "/usr/sbin/sshd", "crond")]
    wrong += ["no column of containers"] if not rows[0].startswith("CONTAINER") else []
    wrong += [f"not 002's: {row}" for row in rows[1:] if not re.match(r"002 ", row)]
    return Shown(shown, wrong=tuple(wrong))


def netstat(stage: Stage) -> Shown:
    """On the host, of the guest."""
    shown = stage.sh("lxc-netstat --name 002 -a")
    listens = re.search(r"^tcp.*(:ssh|:22)\s.*LISTEN", shown, re.MULTILINE)
    wrong = [] if listens else ["nobody listens on port 22"]
    wrong += ["a socket of the host's"] if "lxcd.sock" in shown else []
    return Shown(shown, wrong=tuple(wrong))


def route(stage: Stage) -> Shown:
    """The guest has set it."""
    shown = application.says(stage.terminals["console"], "route -n")
    return Shown(shown, wrong=lacks(shown, "0.0.0.0         192.168.122.1   0.0.0.0         UG"))


def two_servers(stage: Stage) -> Shown:
    """Each on its own port 22."""
    application.start(stage, "execute", application.CONF)
    answers(stage)
    shown = "\n".join(
        f"{address}: {stage.ask(address, 'hostname')}" for address in (application.ADDRESS, ADDRESS)
    )
    application.finish(stage, "execute")
    return Shown(shown, wrong=lacks(shown, f"{application.ADDRESS}: 001", f"{ADDRESS}: rhel60vm01"))


def pts(stage: Stage) -> Shown:
    """Terminals are 002's own."""
    typed, came = application.onto_the_host(stage, "console")
    return Shown(
        f"on the host's terminal: {came or 'nothing'}",
        typed=typed,
        wrong=("HOGE came to the host's terminal",) if came else (),
    )


def poweroff(stage: Stage) -> Shown:
    """From inside."""
    terminal = stage.terminals["console"]
    terminal.type("poweroff")
    status = terminal.wait()
    shown = terminal.text.rpartition("poweroff")[2]
    stage.leave("console")
    wrong = [*lacks(shown, "Stopping sshd: ", "Power down.")]
    wrong += [f"lxc-start ended with {status}"] if status else []
    wrong += _stopped(stage)
    return Shown(shown, wrong=tuple(wrong))


def _stopped(stage: Stage) -> list[str]:
    said = stage.sh("lxc-info -n 002", check=False)
    return [] if said == "'002' is STOPPED" else [f"lxc-info says {said}"]


def start_daemon(stage: Stage) -> Shown:
    """In the background."""
    shown = stage.sh("lxc-start -n 002 -d")
    answers(stage)
    info = stage.sh("lxc-info -n 002")
    return Shown(shown, wrong=lacks(info, "'002' is RUNNING"))


def stop(stage: Stage) -> Shown:
    """The hard way: that of this era."""
    shown = stage.sh("lxc-stop -n 002")
    return Shown(shown, wrong=tuple(_stopped(stage)))


def destroy(stage: Stage) -> Shown:
    """What lxcd did not make, it does not remove."""
    before = stage.sh(f"find {ROOT_002} | wc -l")
    shown = stage.sh("lxc-destroy -n 002")
    wrong = ["002 is still defined"] if "002" in stage.sh("lxc-ls") else []
    wrong += ["its root file system is not as it was"] * (
        stage.sh(f"find {ROOT_002} | wc -l") != before
    )
    return Shown(shown, wrong=tuple(wrong))


def unmount_image(stage: Stage) -> Shown:
    """While 001 runs, which was started when it was mounted; after roots for 003 to 006."""
    for name in _LISTED:
        stage.sh(f"cp -a {ROOT_002} /lxc/rootfs/{name}")
    application.start(stage, "execute", application.CONF)
    device = stage.claimed
    shown = stage.sh(
        f"umount {ROOT_002} && partx --delete {device} && losetup -d {device} && losetup --list"
    )
    stage.claim("")
    application.finish(stage, "execute")
    return Shown(
        shown,
        typed=f"# umount {ROOT_002}\n# partx --delete {device}\n# losetup -d {device}",
        because="partx(8) in place of kpartx",
        wrong=(f"{device} is still attached",) if device in shown.split() else (),
    )


def ls(stage: Stage) -> Shown:
    """Two lines."""
    for name in _LISTED:
        conf = texts.CONF_002.replace("002", name).replace(".102/", f".10{name[-1]}/")
        stage.write(f"/lxc/conf/{name}.conf", conf)
        stage.sh(f"lxc-create -n {name} -f /lxc/conf/{name}.conf")
    for name in _RUNNING:
        stage.sh(f"lxc-start -n {name} -d")
    # Off a terminal it shows one name in a line.
    terminal = stage.sit("ls", "lxc-ls")
    terminal.wait()
    shown = terminal.text.rstrip("\n")
    stage.leave("ls")
    found = [tuple(line.split()) for line in shown.splitlines()]
    return Shown(shown, wrong=() if found == [_LISTED, _RUNNING] else ("not these two lines",))


def info(stage: Stage) -> Shown:
    """Word for word. Then all four go."""
    shown = stage.sh("lxc-info -n 003; lxc-info -n 004")
    for name in _RUNNING:
        stage.sh(f"lxc-stop -n {name}")
    for name in _LISTED:
        stage.sh(f"lxc-destroy -n {name}")
        if not (Path("/lxc/rootfs") / name / "sbin").is_dir():
            return Shown(shown, wrong=(f"lxc-destroy removed the root file system of {name}",))
    right = shown == "'003' is RUNNING\n'004' is STOPPED"
    return Shown(shown, wrong=() if right else ("other words",))


ACTS = {
    "create": create,
    "boot": boot,
    "login": log_in,
    "ps": ps,
    "netstat": netstat,
    "system-route": route,
    "two-servers": two_servers,
    "system-pts": pts,
    "poweroff": poweroff,
    "start-daemon": start_daemon,
    "stop": stop,
    "destroy": destroy,
    "unmount-image": unmount_image,
    "ls": ls,
    "info": info,
}
