from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.config import reader
from lxcd.config.check import check
from lxcd.config.loader import HOST_FILES, load, load_file
from lxcd.config.reader import FileAccess, Reading, unchanged
from lxcd.errors import InvalidArgument

# The same examples every time, no file kept, and no clock to fail by on a busy machine.
STEADY = settings(deadline=None, derandomize=True, database=None)

MakeFiles = Callable[[Mapping[str, bytes | list[str] | str]], FileAccess]


def lines(data: bytes) -> list[tuple[str, str, str]]:
    reading = Reading(HOST_FILES)
    reading.text(data, "c")
    return [(line.key, line.value, line.origin) for line in reading.lines]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lxc.a=b", [("lxc.a", "b", "c:1")]),
        ("  \t lxc.a \t =  b c \t\n", [("lxc.a", "b c", "c:1")]),
        ("# lxc.a = b\n\n   # x\nlxc.a = b", [("lxc.a", "b", "c:4")]),
        ("other = 1\nlxc = 1\nlxcx.a = 1\nLXC.a = 1\n", []),
        ("lxc.a = b # c", [("lxc.a", "b # c", "c:1")]),
        ("lxc.a = b = c", [("lxc.a", "b = c", "c:1")]),
        ('lxc.a = "b c "', [("lxc.a", "b c ", "c:1")]),
        ("lxc.a = 'b'", [("lxc.a", "b", "c:1")]),
        ("lxc.a = 'b\"", [("lxc.a", "'b\"", "c:1")]),
        ("lxc.a = ''", [("lxc.a", "", "c:1")]),
        ("lxc.a = \"'b'\"", [("lxc.a", "'b'", "c:1")]),
        ('lxc.a = "', [("lxc.a", '"', "c:1")]),
        ("lxc.a =", [("lxc.a", "", "c:1")]),
        (
            "lxc.a=1\rlxc.b=2\r\nlxc.c=3\n",
            [("lxc.a", "1", "c:1"), ("lxc.b", "2", "c:2"), ("lxc.c", "3", "c:3")],
        ),
        ("lxc.a = x\ty", [("lxc.a", "x\ty", "c:1")]),
    ],
)
def test_lines(text: str, expected: list[tuple[str, str, str]]) -> None:
    assert lines(text.encode()) == expected


def test_line_without_equals() -> None:
    config, _ = load(b"\nlxc.uts.name\n", "c")
    assert [(p.severity, p.origin, p.key) for p in config.problems] == [
        ("error", "c:2", "lxc.uts.name")
    ]


# security.md S-36
@pytest.mark.parametrize(
    "bad", ["\x1b[2J", "\x7f", "\x00", "\u2028", "\u0085", "\x0b", "\x0c", "\x01"]
)
def test_control_characters_are_errors(bad: str) -> None:
    config, _ = load(f"lxc.uts.name = a{bad}b\nlxc.tty.max = 1\n".encode(), "c")
    assert config.uts_name == ""
    assert config.tty_max == 1
    assert {p.severity for p in config.problems} == {"error"}
    assert all(p.origin == "c:1" for p in config.problems)
    assert all(text.isprintable() for line in config.lines for text in (line.key, line.value))


def test_control_character_in_a_key() -> None:
    config, _ = load(b"lxc.uts\x1bname = a\n" + b"lxc." + b"x" * 300 + b" = 1\n", "c")
    assert config.lines == ()
    assert [p.severity for p in config.problems] == ["warning", "warning"]
    assert all(p.key.isprintable() and len(p.key) <= 255 for p in config.problems)


def test_not_utf8() -> None:
    config, _ = load(b"# caf\xe9\nlxc.uts.name = caf\xe9\nlxc.tty.max = 2\n", "c")
    assert config.tty_max == 2
    assert config.uts_name == ""
    assert [p.origin for p in config.problems] == ["c:2"]
    for line in config.lines:
        line.value.encode()


def test_nul_is_told_once_with_its_line() -> None:
    config, _ = load(b"a\nb\0c\0\n\0\n", "c")
    assert [(p.severity, p.origin) for p in config.problems] == [("error", "c:2")]


def test_include_file_and_sorted_folder(make_files: MakeFiles) -> None:
    files = make_files(
        {
            "/etc/one": b"lxc.group = a\n",
            "/etc/d": ["z.conf", "b.conf", "README", ".#b.conf", "a.conf.bak"],
            "/etc/d/z.conf": b"lxc.group = z\n",
            "/etc/d/b.conf": b"lxc.group = b\n",
        }
    )
    text = b"lxc.group = 0\nlxc.include = /etc/one\nlxc.include = /etc/d/\nlxc.group = 9\n"
    config, stamps = load(text, "/c/config", files=files)
    assert config.problems == ()
    assert config.groups == ("0", "a", "b", "z", "9")
    assert [line.origin for line in config.lines if line.name == "lxc.group"] == [
        "/c/config:1",
        "/etc/one:1",
        "/etc/d/b.conf:1",
        "/etc/d/z.conf:1",
        "/c/config:4",
    ]
    assert [one.path for one in stamps] == ["/etc/one", "/etc/d/", "/etc/d/b.conf", "/etc/d/z.conf"]


def test_relative_include_is_beside_its_file(make_files: MakeFiles) -> None:
    files = make_files({"/a/b/x": b"lxc.include = y\n", "/a/b/y": b"lxc.tty.max = 3\n"})
    config, _ = load(b"lxc.include = b/x\n", "/a/config", files=files)
    assert (config.tty_max, config.problems) == (3, ())
    config, _ = load(b"lxc.include = b/x\n", "inline", files=files)
    assert [p.severity for p in config.problems] == ["error"]


def test_include_by_define(make_files: MakeFiles) -> None:
    files = make_files({"/x": b"lxc.tty.max = 3\n"})
    config, _ = load(b"", "c", defines=[("lxc.include", "/x")], files=files)
    assert config.tty_max == 3


def test_missing_include_is_an_error_and_on_the_list(make_files: MakeFiles) -> None:
    config, stamps = load(b"\nlxc.include = /no\nlxc.tty.max = 1", "c", files=make_files({}))
    assert config.tty_max == 1
    (problem,) = config.problems
    assert (problem.severity, problem.origin, problem.key) == ("error", "c:2", "lxc.include")
    assert "/no" in problem.message
    assert [(one.path, one.ino) for one in stamps] == [("/no", 0)]


def test_include_loop_shows_the_chain(make_files: MakeFiles) -> None:
    files = make_files({"/a": b"lxc.include = /b\n", "/b": b"lxc.include = /a\n"})
    config, _ = load(b"lxc.include = /a\n", "/main", files=files)
    (problem,) = config.problems
    assert "/main → /a → /b → /a" in problem.message


def test_a_file_that_includes_itself(make_files: MakeFiles) -> None:
    text = b"lxc.group = a\nlxc.include = /main\n"
    config, _ = load(text, "/main", files=make_files({"/main": text}))
    assert config.groups == ("a",)
    assert len(config.problems) == 1


def test_folder_that_includes_itself(make_files: MakeFiles) -> None:
    files = make_files({"/d": ["a.conf"], "/d/a.conf": b"lxc.include = /d\n"})
    config, _ = load(b"lxc.include = /d\n", "/main", files=files)
    assert [p.severity for p in config.problems] == ["error"]


def test_the_same_file_twice_is_no_loop(make_files: MakeFiles) -> None:
    files = make_files({"/a": b"lxc.group = x\n"})
    assert load(b"lxc.include = /a\nlxc.include = /a\n", "/m", files=files)[0].problems == ()


def test_depth(make_files: MakeFiles) -> None:
    files = make_files({f"/{n}": f"lxc.include = /{n + 1}\n".encode() for n in range(100)})
    config, _ = load(b"lxc.include = /0\n", "/m", files=files)
    (problem,) = config.problems
    assert "deep" in problem.message


def test_bomb(make_files: MakeFiles) -> None:
    files = make_files(
        {f"/{n}": f"lxc.include = /{n + 1}\nlxc.include = /{n + 1}\n".encode() for n in range(31)}
    )
    config, stamps = load(b"lxc.include = /0\n", "/m", files=files)
    assert any("1000 files" in p.message for p in config.problems)
    assert len(stamps) <= 1001


def test_large_include(make_files: MakeFiles) -> None:
    files = make_files({"/big": b"#" * (reader.MAXIMUM_FILE_BYTES + 1)})
    config, _ = load(b"lxc.include = /big\nlxc.tty.max = 1\n", "/m", files=files)
    assert config.tty_max == 1
    assert "larger than" in config.problems[0].message


def test_all_together_too_large(make_files: MakeFiles) -> None:
    files = make_files({"/big": b"#" * reader.MAXIMUM_FILE_BYTES})
    config, _ = load(b"lxc.include = /big\n" * 17, "/m", files=files)
    assert [p.severity for p in config.problems] == ["error"] * 2
    config, _ = load(b"#" * (reader.MAXIMUM_TOTAL_BYTES + 1), "/m")
    assert [p.severity for p in config.problems] == ["error"]


def test_ten_megabytes_of_garbage() -> None:
    config, _ = load(bytes(range(256)) * 40_000, "c")
    assert config.lines == ()
    assert len(config.problems) == 1


def test_too_many_lines_and_problems() -> None:
    config, _ = load(b"lxc.x=1\n" * (reader.MAXIMUM_LINES + 5), "c")
    assert len(config.lines) == reader.MAXIMUM_LINES
    assert len(config.problems) == 1001
    assert "lines: the rest" in config.problems[0].message
    assert "more problems" in config.problems[-1].message


def test_a_value_of_a_mebibyte() -> None:
    value = "A=" + "x" * (1 << 20)
    config, _ = load(f"lxc.environment = {value}\n".encode(), "c")
    assert config.environment[0].value == value[2:]
    assert config.problems == ()


def test_real_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"lxc.tty.max = 7\nlxc.include = d\n")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.conf").write_bytes(b"lxc.pty.max = 8\n")
    config, stamps = load_file(str(tmp_path / "a"))
    assert (config.tty_max, config.pty_max, config.problems) == (7, 8, ())
    assert [os.path.basename(one.path) for one in stamps] == ["a", "d", "x.conf"]
    assert stamps[0].size == 32
    assert unchanged(stamps, HOST_FILES)


@pytest.mark.parametrize("change", ["edit", "add", "remove", "replace"])
def test_a_change_is_seen(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "x.conf").write_bytes(b"lxc.pty.max = 8\n")
    os.utime(folder, (1, 1))
    os.utime(folder / "x.conf", (1, 1))
    _, stamps = load(f"lxc.include = {folder}\n".encode(), "c")
    assert unchanged(stamps, HOST_FILES)
    if change == "edit":
        (folder / "x.conf").write_bytes(b"lxc.pty.max = 9\n")
    elif change == "add":
        (folder / "y.conf").write_bytes(b"")
    elif change == "remove":
        (folder / "x.conf").unlink()
    else:
        (tmp_path / "new").write_bytes(b"lxc.pty.max = 9\n")
        os.utime(tmp_path / "new", (1, 1))
        (tmp_path / "new").rename(folder / "x.conf")
    assert not unchanged(stamps, HOST_FILES)


def test_a_missing_file_that_comes_is_seen(tmp_path: Path) -> None:
    _, stamps = load(f"lxc.include = {tmp_path}/x\n".encode(), "c")
    assert unchanged(stamps, HOST_FILES)
    (tmp_path / "x").write_bytes(b"")
    assert not unchanged(stamps, HOST_FILES)


@pytest.mark.parametrize(
    "kind", ["fifo", "socket", "zero", "null", "kmsg", "loop", "dangling", "folder"]
)
@pytest.mark.parametrize("key", ["lxc.include", "lxc.mount.fstab"])
def test_nothing_hangs(
    tmp_path: Path, kind: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.conf"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("x.conf")
    elif kind in ("zero", "null"):
        path.symlink_to(f"/dev/{kind}")
    elif kind == "kmsg":
        path.symlink_to("/proc/sys/kernel/hostname/x")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    else:
        path.mkdir()
    config, stamps = load(f"{key} = {path}\nlxc.tty.max = 1\n".encode(), "c")
    assert config.tty_max == 1
    expected = [] if (kind, key) == ("folder", "lxc.include") else ["error"]
    assert [p.severity for p in config.problems] == expected
    assert len(stamps) == 1


def test_folder_with_junk(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.conf")
    (tmp_path / "b.conf").mkdir()
    (tmp_path / "c.conf").write_bytes(b"\0\xff" * 100)
    (tmp_path / "d.conf").write_bytes(b"lxc.tty.max = 1\n")
    config, _ = load(f"lxc.include = {tmp_path}\n".encode(), "c")
    assert config.tty_max == 1
    assert [p.severity for p in config.problems] == ["error", "error"]


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_main_file_must_be_a_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(InvalidArgument):
        load_file(str(path))
    with pytest.raises(FileNotFoundError):
        load_file(str(tmp_path / "no"))


# Text that looks like a configuration, so that the parsers behind the lines are reached.
FRAGMENTS = st.sampled_from(
    [
        *(
            b"lxc.",
            b"lxc.net.0.",
            b"lxc.network.",
            b"type",
            b"=",
            b" ",
            b"\t",
            b"\n",
            b"\r",
            b"\0",
            b'"',
            b"'",
        ),
        *(
            b"lxc.idmap",
            b"lxc.mount.entry",
            b"lxc.mount.auto",
            b"lxc.cap.keep",
            b"lxc.include",
            b"lxc.rootfs.path",
        ),
        *(
            b"lxc.sysctl.",
            b"lxc.cgroup2.",
            b"lxc.prlimit.nofile",
            b"lxc.init.cmd",
            b"lxc.signal.halt",
            b"lxc.hook",
        ),
        *(
            b"u 0 1 2",
            b"overlay:",
            b"/",
            b"..",
            b"veth",
            b"none",
            b"\\040",
            b"\\",
            b"\xff",
            b"\xe2\x80\xa8",
            b"1",
            b"-",
        ),
        *(
            b"lxc.environment",
            b"lxc.init.groups",
            b"lxc.time.offset.boot",
            b"lxc.console.size",
            b"lxc.tty.dir",
            b",",
        ),
    ]
)


@STEADY
@given(st.one_of(st.binary(max_size=200), st.lists(FRAGMENTS, max_size=30).map(b"".join)))
def test_no_bytes_raise(data: bytes) -> None:
    files = Nowhere()
    config, _ = load(data, "c", files=files)
    for problem in config.problems:
        assert problem.severity in ("warning", "error")
        for text in (problem.origin, problem.key, problem.message):
            assert text.isprintable()
    for line in config.lines:
        line.value.encode()
        assert "\n" not in line.value
    check(config)


class Nowhere:
    def read(self, path: str, limit: int) -> reader.RegularFile:  # noqa: ARG002
        raise FileNotFoundError(2, "No such file", path)

    def stamp(self, path: str) -> reader.Stamp:
        return reader.Stamp(path)
