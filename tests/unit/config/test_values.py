from __future__ import annotations

import re
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.config import entries, values

# The same examples every time, no file kept, and no clock to fail by on a busy machine.
STEADY = settings(deadline=None, derandomize=True, database=None)

NUMBERISH = st.one_of(
    st.text(alphabet="0123456789-+_ .eExX\n\t\u0663\uff11\u00b2", max_size=14),
    st.integers().map(str),
    st.text(max_size=8),
)


@STEADY
@given(NUMBERISH)
def test_integer_against_a_reference(text: str) -> None:
    try:
        result: int | None = values.integer(text, 0, values.LARGEST_ID)
    except ValueError:
        result = None
    good = re.fullmatch("0|[1-9][0-9]{0,19}", text) is not None and int(text) < 2**32 - 1
    assert result == (int(text) if good else None)


@STEADY
@given(NUMBERISH)
def test_signed_integer_against_a_reference(text: str) -> None:
    try:
        result: int | None = values.integer(text, -100, 100)
    except ValueError:
        result = None
    good = re.fullmatch("-?(0|[1-9][0-9]{0,19})|-0", text) is not None and -100 <= int(text) <= 100
    assert result == (int(text) if good else None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("auto", 131072),
        ("1", 1),
        ("64kB", 65536),
        ("64 KB", 65536),
        ("1Mb", 1 << 20),
        ("2GB", 2 << 30),
    ],
)
def test_size(text: str, expected: int) -> None:
    assert values.size(text) == expected


@pytest.mark.parametrize(
    "text", ["", "k", "1k", "1TB", "-1", "1.5MB", "\uff11MB", "9" * 20 + "GB", "AUTO"]
)
def test_bad_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|large"):
        values.size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SIGPWR", 30),
        ("PWR", 30),
        ("sigkill", 9),
        ("15", 15),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("RTMIN+0", signal.SIGRTMIN),
        ("SIGRTMAX-1", signal.SIGRTMAX - 1),
        ("SIGRTMIN", signal.SIGRTMIN),
        ("64", 64),
    ],
)
def test_signal(text: str, expected: int) -> None:
    assert values.signal_number(text) == expected


@pytest.mark.parametrize(
    "text",
    ["0", "65", "SIGFOO", "", "SIGRTMIN+99", "SIGRTMAX-99", "SIGRTMIN+", "-9", "\uff19", "SIG"],
)
def test_bad_signal(text: str) -> None:
    with pytest.raises(ValueError, match=r"signal|between"):
        values.signal_number(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1h", 3600 * 10**9), ("-10s", -(10**10)), ("5 ms", 5 * 10**6), ("7us", 7000), ("+3ns", 3)],
)
def test_time_offset(text: str, expected: int) -> None:
    assert values.time_offset(text) == expected


@pytest.mark.parametrize("text", ["", "1", "h", "1d", "1.5s", "9999999999h", "1s ", "\uff11s"])
def test_bad_time_offset(text: str) -> None:
    with pytest.raises(ValueError, match=r"time|one of"):
        values.time_offset(text)


# security.md S-26
@pytest.mark.parametrize(
    "text",
    [
        "..",
        "../../victim",
        "a/../b",
        "/abs",
        ".",
        "",
        "a/",
        "a//b",
        "a/./b",
        "a/" * 2048 + "a",
        "x" * 256,
    ],
)
def test_beneath_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"part|slash|long"):
        values.beneath(text)


@pytest.mark.parametrize("text", ["lxc", "a/b", "...", "my-cgroup/first", "x" * 255])
def test_beneath_accepts(text: str) -> None:
    assert values.beneath(text) == text


def test_host_name() -> None:
    assert values.host_name("001") == "001"
    assert values.host_name("x" * 64)
    for bad in ("a/b", "x" * 65, "日" * 22):
        with pytest.raises(ValueError, match=r"slash|longer"):
            values.host_name(bad)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sys_time", "sys_time"),
        ("CAP_SYS_TIME", "sys_time"),
        ("0", "chown"),
        ("40", "checkpoint_restore"),
        ("41", "41"),
        ("63", "63"),
    ],
)
def test_capability(text: str, expected: str) -> None:
    assert values.capability(text) == expected


@pytest.mark.parametrize("text", ["sys_tim", "64", "-1", "none", "cap_", "", "all"])
def test_bad_capability(text: str) -> None:
    with pytest.raises(ValueError, match=r"capability|between"):
        values.capability(text)


def test_command() -> None:
    assert values.command("/bin/sh -c 'echo \"a b\"' x\\ y") == (
        "/bin/sh",
        "-c",
        'echo "a b"',
        "x y",
    )
    for bad in ("a 'b", '"', "''", "  "):
        with pytest.raises(ValueError, match=r"quote|command"):
            values.command(bad)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("10.0.2.3/24", 4),
        ("10.0.2.3", 4),
        ("192.168.1.2/24 192.168.1.255", 4),
        ("2003:db8::1/64", 6),
    ],
)
def test_network(text: str, version: int) -> None:
    assert values.network(version)(text) == text


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("10.0.2.3/33", 4),
        ("10.0.2.3/255.255.255.0", 4),
        ("10.0.2.300", 4),
        ("10.0.2.3/", 4),
        ("1.2.3.4 5.6.7.8 9.9.9.9", 4),
        ("::1", 4),
        ("1.2.3.4", 6),
        ("::1 ::2", 6),
        ("fe80::1%eth0", 6),
        ("\uff11.2.3.4", 4),
        (" ", 4),
    ],
)
def test_bad_network(text: str, version: int) -> None:
    with pytest.raises(ValueError, match=r"address|number|between|parts"):
        values.network(version)(text)


@pytest.mark.parametrize("text", ["eth0", "eth%d", "wlp+", "a" * 15])
def test_interface(text: str) -> None:
    assert values.interface(text) == text


@pytest.mark.parametrize("text", ["a" * 16, "a/b", "a b", ".", "..", "a:1"])
def test_bad_interface(text: str) -> None:
    with pytest.raises(ValueError, match="device"):
        values.interface(text)


@pytest.mark.parametrize(
    ("text", "soft", "hard"),
    [("1024", 1024, 1024), ("1:2", 1, 2), ("unlimited", None, None), ("5 : unlimited", 5, None)],
)
def test_limit(text: str, soft: int | None, hard: int | None) -> None:
    one = entries.resource_limit("nofile", text, "o")
    assert (one.soft, one.hard) == (soft, hard)


@pytest.mark.parametrize(
    "text", ["2:1", "unlimited:1", "1:2:3", "", ":", "-1", "1:", str(2**64 - 1)]
)
def test_bad_limit(text: str) -> None:
    with pytest.raises(ValueError, match=r"number|limit|form|between"):
        entries.resource_limit("nofile", text, "o")
    with pytest.raises(ValueError, match="not a limit"):
        entries.resource_limit("NOFILE", "1", "o")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/dev /r/dev/ none bind 0 0", ("/dev", "/r/dev/", "none", ("bind",))),
        ("a\\040b c\\011d none bind", ("a b", "c\td", "none", ("bind",))),
        ("tmpfs tmp tmpfs", ("tmpfs", "tmp", "tmpfs", ())),
        ("a b c ro,,x=\\054y 1 2 rest", ("a", "b", "c", ("ro", "x=,y"))),
        ("\\303\\251 b none rw", ("é", "b", "none", ("rw",))),
        ("a\\134040 b none rw", ("a\\040", "b", "none", ("rw",))),
        ("a\\9 b none rw", ("a\\9", "b", "none", ("rw",))),
    ],
)
def test_mount_entry(text: str, expected: tuple[str, str, str, tuple[str, ...]]) -> None:
    one = entries.mount_entry(text, "o")
    assert (one.source, one.target, one.fstype, one.options) == expected


@pytest.mark.parametrize(
    "text", ["", "a", "a b", "/my dir mnt none bind 0 0", "\\000 b c", "\\377 b c", "a b c d e"]
)
def test_bad_mount_entry(text: str) -> None:
    with pytest.raises(ValueError, match=r"fstab|numbers|NUL|UTF-8"):
        entries.mount_entry(text, "o")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("proc", ("proc", "mixed", False, ())),
        ("proc:rw", ("proc", "rw", False, ())),
        ("sys:ro", ("sys", "ro", False, ())),
        ("cgroup", ("cgroup", "", False, ())),
        ("cgroup:force", ("cgroup", "", True, ())),
        ("cgroup:mixed:force", ("cgroup", "mixed", True, ())),
        ("cgroup-full:rw", ("cgroup-full", "rw", False, ())),
        ("cgroup2:ro:force", ("cgroup2", "ro", True, ())),
        ("shmounts:/a", ("shmounts", "", False, ("/a", "/dev/.lxc-mounts"))),
        ("shmounts:/a:/b", ("shmounts", "", False, ("/a", "/b"))),
    ],
)
def test_mount_auto(text: str, expected: tuple[str, str, bool, tuple[str, ...]]) -> None:
    one = entries.mount_auto(text, "o")
    assert (one.what, one.mode, one.force, one.arguments) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dev",
        "proc:ro",
        "sys:force",
        "cgroup:force:ro",
        "cgroup2:rw",
        "shmounts",
        "shmounts:a",
        "shmounts:/a:/b:/c",
        "proc:",
    ],
)
def test_bad_mount_auto(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        entries.mount_auto(text, "o")


@pytest.mark.parametrize(
    "name", ["kernel", "net.ipv4.ip_forward", "net/ipv4/conf/eth0.100/rp_filter"]
)
def test_sysctl(name: str) -> None:
    assert entries.sysctl(name, "1", "o").name == name


@pytest.mark.parametrize("name", ["", ".", "a..b", "../x", "/etc/passwd", "a b", "a."])
def test_bad_sysctl(name: str) -> None:
    with pytest.raises(ValueError, match="kernel parameter"):
        entries.sysctl(name, "1", "o")


@pytest.mark.parametrize("name", ["", "..", "../x", "a/../b", "/x", "memory"])
def test_bad_cgroup_file(name: str) -> None:
    with pytest.raises(ValueError, match="cgroup"):
        entries.cgroup(2, name, "1", "o")


@pytest.mark.parametrize("name", ["", "..", "../x", "a/../b", "/x"])
def test_bad_proc_file(name: str) -> None:
    with pytest.raises(ValueError, match="/proc/PID"):
        entries.proc(name, "1", "o")


@pytest.mark.parametrize("text", ["=x", " =x", ""])
def test_bad_variable(text: str) -> None:
    with pytest.raises(ValueError, match="NAME"):
        entries.variable("all", text, "o")


def test_variable() -> None:
    assert entries.variable("all", "A", "o").value is None
    assert entries.variable("all", "A=", "o").value == ""
    assert entries.variable("all", "A=b=c", "o").value == "b=c"
