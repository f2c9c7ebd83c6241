"""The machine of the article, as seen by who follows it: a shell, files, another machine, lxcd.

`setup.sh` has made it: everything here may be changed, nothing of that outlives the run.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from contrib.benchmark.commands import Commands, await_end
from contrib.walkthrough import image
from contrib.walkthrough.figures import Broken
from contrib.walkthrough.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGE = Path("/mnt/images/rhel60vm.img")
# The same, as it came: for whoever does without the article's preparations.
PRISTINE = Path("/mnt/images/untouched.img")
PASSWORD = "article"  # noqa: S105  of machines that nobody else reaches
PROMPT = "]# "
_CONF = Path("/lxc/conf")
_SOCKET = Path("/run/lxcd/lxcd.sock")
_LOG = Path("/var/log/lxcd.log")
_CHECKOUT = Path(__file__).resolve().parents[2]
_SSH = (
    *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
    *("-o", "LogLevel=ERROR", "-o", "ConnectTimeout=20"),
)
_PROFILE = "PS1='[\\u@\\h \\W]\\$ '\nunset PROMPT_COMMAND\n"
_SSHD = "PermitRootLogin yes\nPasswordAuthentication yes\nPrintMotd no\nUseDNS no\n"


class Stage:
    """The host, and what runs on it. `with` brings lxcd up and down."""

    def __init__(self, work: Path, python: str, patience: float) -> None:
        self.patience_seconds = 60.0 * patience
        self.work = work
        programs = (str(_CHECKOUT / "contrib/lxc-compat/bin"), os.path.dirname(python))
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        environment = {
            "PATH": ":".join((*programs, path)),
            "LANG": "C.UTF-8",
            "HOME": "/root",
            "TERM": "vt100",
            "USER": "root",
            "PYTHONPATH": str(_CHECKOUT),
            "LXCD_COMPAT": "0.7",
        }
        self.commands = Commands(environment, work)
        self.terminals: dict[str, Terminal] = {}
        self.elsewhere = 0  # pid of who holds the other machine's network
        self.notes: dict[str, str] = {}  # what a step has seen that a later one asks for
        self.claimed = ""  # the loop device of the article's image
        self._daemon = 0

    # What one types

    def sh(self, line: str, *, check: bool = True) -> str:
        """A line of shell on the host; what it shows, without the last newline."""
        done = self.commands.run(self.commands.find("bash"), "-c", line, check=check)
        return done.output.rstrip("\n")

    def there(self, line: str, *, check: bool = True) -> str:
        """The same on the other machine of the segment."""
        return self.sh(f"{self.network} bash -c {shlex.quote(line)}", check=check)

    @property
    def network(self) -> str:
        """What runs a command on the other machine."""
        return f"nsenter --net=/proc/{self.elsewhere}/ns/net --"

    def write(self, path: str, text: str) -> None:
        """A file, as one makes it with an editor."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)

    def claim(self, device: str) -> None:
        """Say which loop device is ours, if any: it would outlive a run that breaks off."""
        self.claimed = device
        sys.stdout.write(json.dumps({"loop": device}) + "\n")
        sys.stdout.flush()

    def sit(self, name: str, line: str, *, there: bool = False) -> Terminal:
        """A command on a terminal of its own, kept under this name until `leave`."""
        prefix = f"{self.network} " if there else ""
        argv = (self.commands.find("bash"), "-c", f"exec {prefix}{line}")
        made = Terminal(self.commands, self.patience_seconds, *argv)
        self.terminals[name] = made
        return made

    def leave(self, *names: str) -> None:
        """Hang up."""
        for name in names:
            self.terminals.pop(name).close()

    def log_in(self, name: str, address: str) -> Terminal:
        """By ssh with the password, from the other machine, to a prompt."""
        options = shlex.join((*_SSH, "-o", "PubkeyAuthentication=no"))
        terminal = self.sit(name, f"ssh {options} root@{address}", there=True)
        terminal.expect("password: ")
        terminal.type(PASSWORD)
        terminal.expect(PROMPT)
        return terminal

    def ask(self, address: str, line: str) -> str:
        """What one line says by ssh, with the key, from the other machine."""
        options = shlex.join((*_SSH, "-o", "BatchMode=yes"))
        return self.there(f"ssh {options} root@{address} {shlex.quote(line)} || true")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for what others do in their own time."""
        end = time.monotonic() + self.patience_seconds
        while not condition():
            if time.monotonic() > end:
                raise Broken(f"it never came to this: {what}")
            time.sleep(0.02)

    # Its ways

    def __enter__(self) -> Self:
        self._accounts()
        for directory in (_CONF, IMAGE.parent, _LOG.parent, Path("/var/lib/lxcd")):
            directory.mkdir(parents=True, exist_ok=True)
        key = Path("/root/.ssh/id_ed25519.pub").read_text()
        image.make(self.commands, IMAGE, self.work, PASSWORD, key)
        self.sh(f"cp --sparse=always {IMAGE} {PRISTINE}")
        log = str(_LOG)
        keeper = self.commands.find("sleep")
        self.elsewhere = self.commands.spawn(
            (self.commands.find("unshare"), "--net", keeper, "infinity"), log
        )
        own = os.readlink("/proc/self/ns/net")
        self.until(
            lambda: os.readlink(f"/proc/{self.elsewhere}/ns/net") != own,
            "there is a second network",
        )
        self._daemon = self.commands.spawn((self.commands.find("lxcd"),), log)
        self.until(self._accepts, "lxcd accepts")
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.terminals):
            self.leave(name)
        if self.claimed:
            self.sh(
                f"umount {self.claimed}p2; partx --delete {self.claimed};"
                f" losetup -d {self.claimed}",
                check=False,
            )
        # A step that broke off leaves one that nobody asks to end.
        self.sh(
            "for name in 001 $(ls /var/lib/lxc); do lxcctl stop --kill $name; done", check=False
        )
        self.sh("lxcd shutdown")
        await_end(self._daemon, "lxcd")
        os.kill(self.elsewhere, signal.SIGKILL)

    def log(self) -> str:
        """What lxcd wrote."""
        return _LOG.read_text(errors="replace")

    def _accounts(self) -> None:
        """Root has a password and a key, and sshd lets him in: as on the article's machine."""
        self.sh(f"echo root:{PASSWORD} | chpasswd")
        self.sh("rm -rf /root/.ssh /root/.bashrc /root/.profile && mkdir -m 700 -p /root/.ssh")
        self.sh("ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519")
        self.sh("cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys && touch /root/.hushlogin")
        for name in (".bashrc", ".profile"):
            self.write(f"/root/{name}", _PROFILE)
        self.sh("chmod 700 /root && usermod -s /bin/bash root")
        self.write("/etc/ssh/sshd_config", _SSHD)
        self.sh("ssh-keygen -A")

    def _accepts(self) -> bool:
        if os.waitpid(self._daemon, os.WNOHANG)[0]:
            raise Broken(f"lxcd ended instead of starting: {self.log()}")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(_SOCKET))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
        return True
