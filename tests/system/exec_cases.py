"""The table of what commands in a container do: its cases, by what they are about."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """A shell script inside, and what comes of it. Of the standard streams each is `pipe`, `tty`, `null`, `closed` or `file`."""

    name: str
    script: str
    output: str = ""
    code: int = 0
    options: tuple[str, ...] = ()
    streams: tuple[str, str, str] = ("null", "pipe", "pipe")
    stdin: bytes = b""
    # lxc-attach's options for the same; None: it does not, or should not, do the same.
    stock: tuple[str, ...] | None = None
    command: tuple[str, ...] = ()  # in place of the script
    environment: dict[str, str] = field(default_factory=dict)


def case(name: str, script: str, output: str = "", code: int = 0, **rest: Any) -> Case:
    return Case(name, script, output, code, **rest)


SAME: tuple[str, ...] = ()
TTY = ("tty", "tty", "tty")
STATUS = "grep '^%s:' /proc/self/status | tr -s '\\t ' ' '"


def exit_codes() -> Iterator[Case]:
    for code in (0, 1, 2, 41, 100, 125, 126, 127, 128, 129, 137, 200, 255):
        yield case(f"exit {code}", f"exit {code}", code=code, stock=SAME)
    for name in ("HUP", "INT", "KILL", "USR1", "SEGV", "PIPE", "ALRM", "TERM", "ABRT"):
        number = int(getattr(signal, f"SIG{name}"))
        # lxc-attach makes a bare 1 or the number of it, by version; a shell's 128+n is what we say.
        yield case(f"dies of SIG{name}", f"kill -{name} $$", code=128 + number)
    for name in ("HUP", "INT", "TERM", "USR2", "PIPE"):
        yield case(
            f"catches SIG{name}", f"trap 'exit 9' {name}; kill -{name} $$", code=9, stock=SAME
        )
    yield Case("not found", script="", command=("/no/such",), code=127, stock=SAME)
    yield Case("not found in PATH", script="", command=("no-such-command",), code=127, stock=SAME)
    yield Case("not executable", script="", command=("/etc/passwd",), code=126, stock=SAME)
    yield Case("a directory", script="", command=("/etc",), code=126, stock=SAME)
    yield Case("empty name inside PATH", script="", command=("./no",), code=127)
    yield case(
        "no such interpreter", "printf '#!/no/such\\n' > /tmp/a; chmod 755 /tmp/a; /tmp/a", code=127
    )
    yield Case(
        "arguments",
        script="",
        command=("/bin/echo", "a  b", "", "c\nd", "'", '"', "$HOME", "*"),
        output="a  b  c\nd ' \" $HOME *\n",
        stock=SAME,
    )
    yield Case(
        "an option of its own",
        script="",
        command=("/bin/echo", "--user", "-t"),
        output="--user -t\n",
        stock=SAME,
    )
    yield Case("UTF-8", script="", command=("/bin/echo", "größe €"), output="größe €\n", stock=SAME)


def users() -> Iterator[Case]:
    who = "echo $(id -u) $(id -g) $(id -G)"
    for user, expected in (
        ("root", "0 0 0"),
        ("0", "0 0 0"),
        ("nobody", "65534 65534 65534"),
        ("65534", "65534 65534 65534"),
        ("alice", "1000 1000 1000 5 50"),
        ("1000", "1000 1000 1000 5 50"),
        ("alice:tty", "1000 5 5"),
        ("alice:5", "1000 5 5"),
        ("4321", "4321 0 0"),
        ("4321:1234", "4321 1234 1234"),
        ("0:50", "0 50 50"),
    ):
        yield case(f"user {user}", who, f"{expected}\n", options=("--user", user))
    yield case(
        "uid as stock",
        "id -u; id -g",
        "1234\n4321\n",
        options=("--user", "1234:4321"),
        stock=("-u", "1234", "-g", "4321"),
    )
    for groups, expected in (
        (("5",), "1000 5"),
        (("tty", "staff"), "1000 5 50"),
        (("50", "50"), "1000 50"),
        (("1000",), "1000"),
        (("70000",), "1000 70000"),
    ):
        options = tuple(word for group in groups for word in ("--group", group))
        yield case(
            f"groups {','.join(groups)}",
            "id -G",
            f"{expected}\n",
            options=("--user", "alice", *options),
        )
    for which in ("Uid", "Gid"):
        yield case(f"{which} of root", STATUS % which, f"{which}: 0 0 0 0\n", stock=SAME)
        yield case(
            f"{which} of alice",
            STATUS % which,
            f"{which}: 1000 1000 1000 1000\n",
            options=("--user", "alice"),
            stock=("-u", "1000", "-g", "1000"),
        )
    yield case(
        "no rights of a user",
        STATUS % "CapEff",
        "CapEff: 0000000000000000\n",
        options=("--user", "alice"),
        stock=("-u", "1000", "-g", "1000"),
    )
    yield case(
        "home of a user",
        "pwd; echo $HOME $USER $LOGNAME",
        "/home/alice\n/home/alice alice alice\n",
        options=("--user", "alice"),
    )
    yield case(
        "home that is missing", "pwd; echo $HOME", "/\n/no/home\n", options=("--user", "bob")
    )
    yield case("shell of a user", "echo $SHELL", "/bin/odd\n", options=("--user", "bob"))
    yield case(
        "writes what is his",
        "touch ~/f && stat -c %u:%g ~/f",
        "1000:1000\n",
        options=("--user", "alice"),
    )
    yield case(
        "may not write what is root's",
        "touch /etc/f 2> /dev/null",
        code=1,
        options=("--user", "alice"),
        stock=("-u", "1000", "-g", "1000"),
    )


def places() -> Iterator[Case]:
    yield case("umask", "umask", "0022\n")
    for text, shown in (("077", "0077"), ("0", "0000"), ("0777", "0777"), ("27", "0027")):
        yield case(f"umask {text}", "umask", f"{shown}\n", options=("--umask", text))
    yield case(
        "umask of a file",
        "touch /tmp/u$$; stat -c %a /tmp/u$$",
        "600\n",
        options=("--umask", "077"),
    )
    yield case("cwd of root", "pwd", "/root\n")
    for path in ("/", "/tmp", "/usr/bin", "/proc/self"):
        yield case(
            f"cwd {path}",
            "pwd -P | sed s/[0-9]*$//",
            path.replace("self", "") + "\n",
            options=("--cwd", path),
        )
    clean = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "container"}
    names = "env | sed 's/=.*//' | grep -v -x -E 'PWD|SHLVL|_|OLDPWD' | sort"
    yield case("clean environment", names, "".join(f"{name}\n" for name in sorted(clean, key=str)))
    yield case("container", "echo $container", "lxc\n", stock=("--clear-env",))
    yield case("nothing of the host", "echo $PYTHONPATH$LXCD_ADDRESS", "\n", stock=("--clear-env",))
    yield case(
        "PATH", "echo $PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
    )
    yield case(
        "--env",
        "echo $A-$B",
        "1-x y=z\n",
        options=("--env", "A=1", "--env", "B=x y=z"),
        stock=("--set-var", "A=1", "--set-var", "B=x y=z"),
    )
    yield case(
        "--env as it is here",
        "echo $MINE",
        "mine\n",
        options=("--env", "MINE"),
        environment={"MINE": "mine"},
        stock=("--clear-env", "--keep-var", "MINE"),
    )
    yield case(
        "--env twice",
        "echo $A",
        "2\n",
        options=("--env", "A=1", "--env", "A=2"),
        stock=("--set-var", "A=1", "--set-var", "A=2"),
    )
    yield case(
        "--env empty", "echo ${A-unset}", "\n", options=("--env", "A="), stock=("--set-var", "A=")
    )
    yield case("--env beats ours", "echo $HOME", "/x\n", options=("--env", "HOME=/x"))
    yield case(
        "--keep-env",
        "echo $MINE $HOME",
        "mine /kept\n",
        options=("--keep-env",),
        environment={"MINE": "mine", "HOME": "/kept"},
    )
    yield case(
        "--keep-env and --env",
        "echo $MINE",
        "more\n",
        options=("--keep-env", "--env", "MINE=more"),
        environment={"MINE": "mine"},
    )


def streams() -> Iterator[Case]:
    kinds = "for n in 0 1 2; do [ -t $n ] && echo tty || echo no; done"
    for which in range(8):
        want = ["tty" if which >> n & 1 else "pipe" for n in range(3)]
        # A terminal of its own only if all three are one: else pipes, each by itself.
        has = set(want) == {"tty"}
        expected = "tty\n" * 3 if has else "no\n" * 3
        yield Case(
            f"terminal on {'+'.join(want)}", kinds, expected, streams=(want[0], want[1], want[2])
        )
    yield case("-t without a terminal", kinds, "tty\n" * 3, options=("-t",))
    yield case("-T on a terminal", kinds, "no\n" * 3, options=("-T",), streams=TTY)
    yield case("all terminals, as stock", kinds, "tty\n" * 3, streams=TTY, stock=SAME)
    yield case(
        "all pipes, as stock", kinds, "no\n" * 3, streams=("pipe", "pipe", "pipe"), stock=SAME
    )
    for source in ("pipe", "file"):
        yield case(
            f"stdin from a {source}",
            "cat",
            "abc\ndef",
            stdin=b"abc\ndef",
            streams=(source, "pipe", "pipe"),
            stock=SAME,
        )
        yield case(
            f"stdin from an empty {source}",
            "cat; echo end",
            "end\n",
            streams=(source, "pipe", "pipe"),
            stock=SAME,
        )
    yield case("stdin from /dev/null", "cat; echo end", "end\n", stock=SAME)
    yield case(
        "stdin closed", "cat 2> /dev/null; echo end", "end\n", streams=("closed", "pipe", "pipe")
    )
    for target in ("pipe", "file"):
        yield case(
            f"stdout into a {target}",
            "echo out; echo err >&2",
            "out\n",
            streams=("null", target, "pipe"),
            stock=SAME,
        )
    yield case("stdout closed", "echo out; exit 5", code=5, streams=("null", "closed", "pipe"))
    yield case(
        "stderr closed",
        "echo out; echo err >&2; exit 5",
        "out\n",
        code=5,
        streams=("null", "pipe", "closed"),
    )
    yield case("all closed", "echo out; exit 5", code=5, streams=("closed", "closed", "closed"))
    yield case(
        "stdout into /dev/null",
        "echo out; exit 5",
        code=5,
        streams=("null", "null", "pipe"),
        stock=SAME,
    )
    yield case(
        "streamed",
        "cat; echo err >&2; exit 3",
        "abc",
        code=3,
        stdin=b"abc",
        streams=("pipe", "pipe", "pipe"),
        options=("--streamed",),
    )
    yield case(
        "streamed from a file",
        "cat",
        "abc",
        stdin=b"abc",
        streams=("file", "file", "pipe"),
        options=("--streamed",),
    )
    yield case(
        "half of stdin",
        "head -c 3",
        "abc",
        stdin=b"abcdef" * 50_000,
        streams=("pipe", "pipe", "pipe"),
        stock=SAME,
    )
    yield case("no newline at the end", "printf abc", "abc", stock=SAME)
    yield case(
        "every byte",
        "cat | od -An -v -tu1 | tr -s ' \\n' '  '",
        "".join(f" {n}" for n in range(256)) + " ",
        stdin=bytes(range(256)),
        streams=("pipe", "pipe", "pipe"),
        stock=SAME,
    )
    yield case("reopening stdout", "echo a > /dev/stdout", "a\n", stock=SAME)
    yield case(
        "reopening stdout as a user",
        "echo a > /proc/self/fd/1",
        "a\n",
        options=("--user", "alice", "--streamed"),
    )
    yield case(
        "a background child keeps the pipe",
        "sleep 77 > /dev/null 2>&1 & echo on",
        "on\n",
        stock=SAME,
    )
    yield case(
        "a background child keeps our pipe", "sleep 77 & echo on", "on\n", options=("--streamed",)
    )


def terminals() -> Iterator[Case]:
    yield case("size of the terminal", "stty size", "31 97\n", streams=TTY, stock=SAME)
    yield case("size without one", "stty size", "24 80\n", options=("-t",))
    yield case("its name", "tty | sed s/[0-9]*$//", "/dev/pts/\n", streams=TTY)
    yield case("its owner", "stat -c %u $(tty)", "1000\n", options=("--user", "alice"), streams=TTY)
    yield case("/dev/tty is it", "echo a > /dev/tty", "a\n", streams=TTY, stock=SAME)
    yield case("no /dev/tty without one", "echo a 2> /dev/null > /dev/tty", code=1)
    yield case("TERM", "echo $TERM", "vt220\n", environment={"TERM": "vt220"}, streams=TTY)
    yield case("TERM without a terminal", "echo $TERM", "linux\n", environment={"TERM": "vt220"})
    yield case(
        "TERM by --env",
        "echo $TERM",
        "dumb\n",
        environment={"TERM": "vt220"},
        options=("--env", "TERM=dumb"),
        streams=TTY,
    )
    ids = r"cut -d')' -f2 /proc/$$/stat | cut -d' ' -f4,5,6"
    # pgrp and session are its own; the terminal is its controlling one, or there is none.
    yield case(
        "leader of a session",
        f'set -- $({ids}); [ "$1 $2" = "$$ $$" ] && echo leads',
        "leads\n",
        streams=TTY,
    )
    yield case(
        "leader without a terminal",
        f'set -- $({ids}); echo "$(($1 - $$)) $(($2 - $$)) $3"',
        "0 0 0\n",
    )
    yield case(
        "foreground group",
        "cut -d')' -f2 /proc/$$/stat | cut -d' ' -f7 | sed s/^$$\\$/mine/",
        "mine\n",
        streams=TTY,
    )
    yield case("exit code on a terminal", "exit 42", code=42, streams=TTY, stock=SAME)
    yield case("a signal on a terminal", "kill -TERM $$", code=143, streams=TTY)
    yield case(
        "Ctrl-C",
        "trap 'echo int; exit 7' INT; echo ready; while :; do sleep 0.02; done",
        "ready\n^Cint\n",
        code=7,
        streams=TTY,
        stdin=b"ready\x03",
    )
    yield case(
        "Ctrl-D",
        "echo ready; cat; echo end",
        "ready\nabc\nabc\nend\n",
        streams=TTY,
        stdin=b"readyabc\n\x04",
    )
    yield case(
        "typed from a pipe",
        "read a; echo got $a; cat",
        "abc\ngot abc\n",
        options=("-t",),
        streams=("pipe", "pipe", "pipe"),
        stdin=b"abc\n",
    )


def confinement() -> Iterator[Case]:
    for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb", "NoNewPrivs", "Seccomp"):
        yield case(
            f"{name} as of the container",
            f"a=$({STATUS % name}); b=$(grep '^{name}:' /proc/1/status | tr -s '\\t ' ' '); [ \"$a\" = \"$b\" ] && echo same || echo $a $b",
            "same\n",
        )
    for name in ("cgroup", "ipc", "mnt", "net", "pid", "uts"):
        yield case(
            f"namespace {name}",
            f"[ $(readlink /proc/self/ns/{name}) = $(readlink /proc/1/ns/{name}) ] && echo same",
            "same\n",
            stock=SAME,
        )
    yield case("cgroup", "cmp -s /proc/self/cgroup /proc/1/cgroup && echo same", "same\n")
    yield case("host name", "hostname", "same\n", stock=SAME)
    yield case(
        "root directory",
        "[ $(stat -c %d:%i /) = $(stat -c %d:%i /proc/1/root/) ] && echo same",
        "same\n",
        stock=SAME,
    )
    fds = "for n in $(seq 0 300); do [ -e /proc/$$/fd/$n ] && echo $n; done; true"
    yield case("its own fds only", fds, "0\n1\n2\n")
    # The two that no program knows are the C library's own.
    ignored = "echo $((0x$(grep '^SigIgn:' /proc/self/status | cut -f2) & 0x7fffffff))"
    yield case("no ignored signals", ignored, "0\n")
    yield case("no blocked signals", STATUS % "SigBlk", "SigBlk: 0000000000000000\n", stock=SAME)
    # All that lxcd itself has, which is what this process has.
    ours = re.findall(r"CapBnd:\s*(\w+)", Path("/proc/self/status").read_text())[0]
    yield case(
        "elevated capabilities",
        STATUS % "CapBnd",
        f"CapBnd: {ours}\n",
        options=("--elevate", "capabilities"),
    )
    yield case("elevated all", "exit 3", code=3, options=("--elevate", "all"))
    yield case(
        "elevated cgroup",
        "cmp -s /proc/self/cgroup /proc/1/cgroup || echo other",
        "other\n",
        options=("--elevate", "cgroup"),
        stock=("-e",),
    )
    # A program of the host's, in some of the container's namespaces.
    yield case(
        "only uts",
        "hostname; [ -d /no ]; ls /bin/busybox > /dev/null 2>&1; readlink /proc/self/ns/mnt | cut -c1-3",
        "same\nmnt\n",
        options=("--namespace", "uts"),
        stock=("-s", "UTSNAME"),
    )
    yield case(
        "only net",
        "ls /sys/class/net > /dev/null; ip -o link | wc -l",
        "1\n",
        options=("--namespace", "net"),
        stock=("-s", "NETWORK"),
    )
    yield case(
        "net and uts",
        "hostname; ip -o link | wc -l",
        "same\n1\n",
        options=("--namespace", "net,uts"),
        stock=("-s", "NETWORK|UTSNAME"),
    )
    yield case(
        "only pid",
        "echo $$ | grep -q '^[0-9]\\{1,3\\}$' && echo small",
        "small\n",
        options=("--namespace", "pid"),
    )
    yield case("only ipc", "exit 4", code=4, options=("--namespace", "ipc"), stock=("-s", "IPC"))
    yield case(
        "mnt alone",
        "ls /bin/busybox; exit 6",
        "/bin/busybox\n",
        code=6,
        options=("--namespace", "mnt"),
        stock=("-s", "MOUNT"),
    )


CASES = [*exit_codes(), *users(), *places(), *streams(), *terminals(), *confinement()]
STOCK = [each for each in CASES if each.stock is not None]
_NAMES = [each.name for each in CASES]
assert len(CASES) >= 120, len(CASES)
assert len(set(_NAMES)) == len(_NAMES)
