from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.kernel import procfs

STEADY = settings(deadline=None, derandomize=True, database=None)

# Bytes of a path as os.fsdecode gives them; no NUL.
PATHS = st.binary(max_size=30).map(
    lambda data: "/" + data.replace(b"\0", b"").decode(errors="surrogateescape")
)


def escaped(path: str) -> str:
    """What the kernel's seq_path does: octal for these four."""
    for char in "\\ \t\n":
        path = path.replace(char, f"\\{ord(char):03o}")
    return path


@STEADY
@given(st.lists(st.tuples(PATHS, PATHS, PATHS), max_size=4))
def test_mountinfo_with_any_path(paths: list[tuple[str, str, str]]) -> None:
    text = "".join(
        f"{number} 1 0:5 {escaped(root)} {escaped(target)} rw,nosuid shared:1 master:2 - tmpfs {escaped(source)} rw,size=1\n"
        for number, (root, target, source) in enumerate(paths)
    )
    found = procfs.parse_mountinfo(text)
    assert [(m.root, m.target, m.source) for m in found] == paths
    assert all(m.options == ("rw", "nosuid") and m.super_options == ("rw", "size=1") for m in found)
    assert [m.mount_id for m in found] == list(range(len(paths)))


def test_a_source_may_be_empty() -> None:
    # `mount -t tmpfs "" /x`
    (found,) = procfs.parse_mountinfo("1 2 0:3 / /x rw - tmpfs  rw\n")
    assert (found.source, found.super_options) == ("", ("rw",))


def test_own_process() -> None:
    status = procfs.status("self")
    assert status.pids[0] > 0
    assert status.state == "R"
    assert procfs.start_time("self") > 0
    assert procfs.command("self")
    assert procfs.filesystems()["proc"] is False
    assert status.pids[0] in procfs.pids()
