from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.cgroup.kmsg import ForkRejected, Found, Line, Reader, Victim, parse, unescape

STEADY = settings(deadline=None, derandomize=True, database=None)

# What the kernel leaves of a name or a path: printable ASCII, the rest escaped.
printable = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="\\"))
names = printable.map(lambda text: text[:15])
hostile_names = st.sampled_from(
    [
        "x,pid=1,uid=0",
        ",task=,task=",
        ",task_memcg=/a",
        "a) total-vm:1kB",
        "oom-kill:",
        "(",
        ")",
        "",
    ]
)
cgroups = st.lists(printable.map(lambda text: text.replace("/", "")), min_size=1, max_size=3).map(
    lambda parts: "/" + "/".join(parts)
)


def summary(name: str, cgroup: str, pid: int, uid: int = 0, limit: str | None = None) -> str:
    origin = ",global_oom" if limit == "" else f",oom_memcg={cgroup if limit is None else limit}"
    return (
        "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0"
        f"{origin},task_memcg={cgroup},task={name},pid={pid},uid={uid}"
    )


def killed(name: str, pid: int, uid: int = 0, how: str = "Memory cgroup out of memory") -> str:
    return (
        f"{how}: Killed process {pid} ({name}) total-vm:40kB, anon-rss:10kB, file-rss:20kB, "
        f"shmem-rss:3kB, UID:{uid} pgtables:4kB oom_score_adj:-5"
    )


def told(*texts: str) -> list[Found]:
    reader = Reader()
    found = [reader.feed(Line(number, text)) for number, text in enumerate(texts, 1)]
    return [one for one in found if one is not None]


def test_a_victim() -> None:
    lines = summary("tail", "/lxc.payload.a", 7, 3), killed("tail", 7, 3)
    kilo = 1024
    assert told(*lines) == [
        Victim(2, "tail", 7, 3, 40 * kilo, 33 * kilo, "/lxc.payload.a", "/lxc.payload.a")
    ]


def test_the_host_is_out_of_memory() -> None:
    (victim,) = told(summary("a", "/c", 7, limit=""), killed("a", 7, how="Out of memory"))
    assert isinstance(victim, Victim)
    assert (victim.cgroup, victim.limit_cgroup) == ("/c", "")


def test_a_summary_that_was_held_back() -> None:
    first, second = told(summary("a", "/c", 7), killed("a", 7), killed("b", 8))
    assert isinstance(first, Victim)
    assert isinstance(second, Victim)
    assert (first.cgroup, second.cgroup, second.name) == ("/c", "", "b")


def test_a_group_that_goes_together() -> None:
    group = "Tasks in /c are going to be killed due to memory.oom.group set"
    found = told(summary("a", "/c/d", 7), killed("a", 7), group, killed("b", 8), killed("c", 9))
    assert [one.cgroup for one in found] == ["/c/d", "/c", "/c"]
    later = told(group, "x invoked oom-killer: gfp_mask=0", killed("b", 8))
    assert [one.cgroup for one in later] == [""]


def test_a_rejected_fork() -> None:
    text = "cgroup: fork rejected by pids controller in /lxc.payload.a"
    assert told(text) == [ForkRejected(1, "/lxc.payload.a")]
    assert not told(f"x {text}")


def test_a_record() -> None:
    text = b"3,85684,24362069658,-;Memory cgroup\n SUBSYSTEM=x\n"
    assert parse(text) == Line(85684, "Memory cgroup")
    assert parse(b"6,1,2,-,caller=T1;x\n") == Line(1, "x")


@given(st.integers(8, 2**31), printable)
@STEADY
def test_what_user_space_writes_never_counts(priority: int, text: str) -> None:
    assert parse(f"{priority},1,2,-;{text}\n".encode()) is None


@given(st.binary())
@STEADY
def test_any_bytes(data: bytes) -> None:
    for record in (data, b"3,1,2,-;" + data):
        line = parse(record)
        if line is not None:
            told(line.text)


@given(names | hostile_names, cgroups, st.integers(2, 2**22), st.integers(0, 2**32 - 1))
@STEADY
def test_any_name_in_any_cgroup(name: str, cgroup: str, pid: int, uid: int) -> None:
    """The name, the numbers and, if it is told at all, the cgroup are the real ones."""
    (victim,) = told(summary(name, cgroup, pid, uid), killed(name, pid, uid))
    assert isinstance(victim, Victim)
    assert (victim.name, victim.pid, victim.uid) == (name, pid, uid)
    plain = ",task_memcg=" not in cgroup
    assert victim.cgroup == (cgroup if plain else "")


@given(hostile_names)
@STEADY
def test_a_cgroup_that_names_another(name: str) -> None:
    evil = "/lxc.payload.evil/x,task_memcg=/lxc.payload.other"
    (victim,) = told(summary(name, evil, 7), killed(name, 7))
    assert isinstance(victim, Victim)
    assert victim.cgroup == ""
    (victim,) = told(summary(name, "/lxc.payload.evil", 7, limit=evil), killed(name, 7))
    assert isinstance(victim, Victim)
    assert victim.cgroup == ""


@given(st.binary(max_size=50).filter(lambda data: b"\0" not in data))
@STEADY
def test_unescape(data: bytes) -> None:
    text = "".join(
        chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in data
    )
    assert unescape(text).encode(errors="surrogateescape") == data
