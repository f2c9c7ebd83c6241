"""Container 001: sshd on the host's own root file system."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from contrib.walkthrough import texts
from contrib.walkthrough.figures import Shown, lacks
from contrib.walkthrough.stage import PROMPT

if TYPE_CHECKING:
    from contrib.walkthrough.stage import Stage
    from contrib.walkthrough.terminal import Terminal

ADDRESS = "192.168.122.101"
CONF = "/lxc/conf/001.conf"
EXECUTE = "lxc-execute -n 001 -f {} /usr/sbin/sshd"
_HOST_SHELL = "sh -c 'stty -echo; echo ready; exec cat'"
_GATEWAY = "lxc.network.ipv4.gateway = 192.168.122.1\n"


def says(terminal: Terminal, line: str) -> str:
    """What a line shows on a terminal with a shell, without the line and the next prompt."""
    terminal.type(line)
    shown = terminal.expect(PROMPT)
    return shown.partition("\n")[2].rpartition("\n")[0]


def start(stage: Stage, name: str, conf: str) -> Terminal:
    """Execute sshd in 001, until it answers."""
    terminal = stage.sit(name, EXECUTE.format(conf))
    stage.until(
        lambda: not terminal.runs() or stage.ask(ADDRESS, "hostname") == "001",
        f"sshd answers at {ADDRESS}: {terminal.read_all()}",
    )
    return terminal


def finish(stage: Stage, name: str) -> int:
    """Stop 001; how lxc-execute ended."""
    stage.sh("lxc-stop -n 001")
    status = stage.terminals[name].wait()
    stage.leave(name)
    return status


def execute(stage: Stage) -> Shown:
    """In the foreground, silent."""
    stage.write(CONF, texts.CONF_001)
    terminal = start(stage, "execute", CONF)
    shown = terminal.read_all()
    wrong = [] if terminal.runs() else ["it came back"]
    wrong += ["it said something"] if shown else []
    return Shown(shown, wrong=tuple(wrong))


def log_in(stage: Stage) -> Shown:
    """From the other machine, with the password."""
    shown = stage.log_in("001", ADDRESS).text
    return Shown(shown, wrong=lacks(shown, "root@192.168.122.101's password:", "[root@001 ~]#"))


def uname(stage: Stage) -> Shown:
    """The node's name is the container's."""
    shown = says(stage.terminals["001"], "uname -a")
    here = stage.sh("uname -a").split(" ", 2)
    return Shown(
        shown, wrong=() if shown == f"Linux 001 {here[2]}" else ("not this host's kernel",)
    )


def ifconfig(stage: Stage) -> Shown:
    """net-tools have changed their layout since."""
    shown = says(stage.terminals["001"], "ifconfig eth0")
    patterns = (
        r"inet (addr:)?192\.168\.122\.101\b",
        r"([Mm]ask:?) ?255\.255\.255\.0",
        r"([Bb]road)?[Bb]?cast:? ?192\.168\.122\.255",
        r"UP\W+BROADCAST\W+RUNNING\W+MULTICAST",
        r"(MTU:|mtu )1500",
    )
    wrong = tuple(f"nothing like {one}" for one in patterns if not re.search(one, shown))
    return Shown(shown, wrong=wrong)


def route(stage: Stage) -> Shown:
    """One route."""
    shown = says(stage.terminals["001"], "route -n")
    rows = [line.split() for line in shown.splitlines()[2:]]
    zero = "0.0.0.0"  # noqa: S104  a route without a gateway
    wanted = ["192.168.122.0", zero, "255.255.255.0", "U", "0", "0", "0", "eth0"]
    return Shown(shown, wrong=() if rows == [wanted] else ("not exactly that route",))


def ps(stage: Stage) -> Shown:
    """On the host."""
    shown = stage.sh("ps -ef | grep -e '[l]xc-execute' -e '[l]xc-init'")
    wrong = lacks(shown, EXECUTE.format(CONF))
    if not re.search(r"\S*lxc-init -- /usr/sbin/sshd$", shown, re.MULTILINE):
        wrong = (*wrong, "no lxc-init -- /usr/sbin/sshd")
    return Shown(shown, wrong=wrong)


def onto_the_host(stage: Stage, inside: str) -> tuple[str, str]:
    """Write HOGE inside to the path of a terminal of the host; the line, and what came."""
    victim = stage.sit("victim", _HOST_SHELL)
    victim.expect("ready")
    line = f"echo HOGE > {victim.device}"
    answer = says(stage.terminals[inside], f"{line}; echo done")
    # What was written before this has come before it.
    stage.sh(f"echo THE END > {victim.device}")
    came = victim.expect("THE END").replace("THE END", "").strip()
    stage.leave("victim")
    return f"# {line}\n{answer}", came


def pts(stage: Stage) -> Shown:
    """A nuisance, as long as terminals are shared."""
    typed, came = onto_the_host(stage, "001")
    return Shown(f"on the host's terminal: {came}", typed=typed, wrong=lacks(came, "HOGE"))


def stop(stage: Stage) -> Shown:
    """From another shell."""
    shown = stage.sh("lxc-stop -n 001")
    stage.terminals["execute"].wait()
    stage.leave("execute", "001")
    left = stage.sh("lxcctl list; ps -ef | grep '[s]bin/sshd' || true")
    wrong = ["it said something"] if shown else []
    wrong += ["001 is still there"] if "001" in left or "sshd" in left else []
    return Shown(shown, wrong=tuple(wrong))


def gateway(stage: Stage) -> Shown:
    """One line more."""
    conf = "/lxc/conf/001-gateway.conf"
    line = texts.CONF_001.splitlines()[6]
    stage.write(conf, texts.CONF_001.replace(f"{line}\n", f"{line}\n{_GATEWAY}"))
    start(stage, "gateway", conf)
    shown = stage.ask(ADDRESS, "route -n; busybox ping -c 1 -W 20 10.20.30.40")
    finish(stage, "gateway")
    return Shown(
        shown,
        typed=f"{_GATEWAY}[root@001 ~]# route -n\n[root@001 ~]# ping -c 1 10.20.30.40",
        because="the article has it set by hand in each session",
        wrong=lacks(
            shown, "0.0.0.0         192.168.122.1   0.0.0.0         UG", " 1 packets received"
        ),
    )


ACTS = {
    "execute": execute,
    "execute-login": log_in,
    "execute-uname": uname,
    "execute-ifconfig": ifconfig,
    "execute-route": route,
    "execute-ps": ps,
    "execute-pts": pts,
    "execute-stop": stop,
    "execute-gateway": gateway,
}
