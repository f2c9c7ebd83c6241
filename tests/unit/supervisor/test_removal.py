from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcd import errors
from lxcd.supervisor import removal


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """What is too deep for us may be too deep for pytest's own tidying up."""
    yield tmp_path
    subprocess.run(["rm", "-rf", str(tmp_path / "c")], check=True)


def deep(path: Path, levels: int) -> None:
    """A tree of more levels than a path has room for."""
    path.mkdir()
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=handle)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=handle)
        os.close(handle)
        handle = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
    os.close(handle)


def test_a_deep_tree(place: Path) -> None:
    deep(place / "c", 3000)
    removal.remove_tree(str(place / "c"))
    assert os.listdir(place) == []


def test_a_deep_tree_with_few_descriptors(place: Path) -> None:
    """How deep a container makes its tree is its own choice; how many descriptors we have is not."""
    deep(place / "c", 1500)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        removal.remove_tree(str(place / "c"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.listdir(place) == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    inside = tmp_path / "c"
    inside.mkdir()
    (inside / "directory").symlink_to(outside)
    (inside / "file").symlink_to(outside / "file")
    (inside / "loop").symlink_to("loop")
    os.mkfifo(inside / "fifo")
    removal.remove(str(inside), "", owner="test")
    assert sorted(os.listdir(tmp_path)) == ["outside"]
    assert (outside / "file").read_text() == "kept"


def test_a_directory_that_is_a_link_itself(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    (tmp_path / "c").symlink_to(outside)
    removal.remove(str(tmp_path / "c"), "", owner="test")
    assert os.listdir(tmp_path) == ["outside"]
    assert (outside / "file").read_text() == "kept"


def test_keep(tmp_path: Path) -> None:
    base = tmp_path / "c"
    kept = base / "a" / "rootfs"
    kept.mkdir(parents=True)
    (kept / "file").write_text("kept")
    (base / "config").write_text("")
    (base / "a" / "other").mkdir()
    (base / "b").symlink_to(kept)
    removal.remove(str(base), "", owner="test", keep=[str(kept)])
    assert sorted(str(p.relative_to(base)) for p in base.rglob("*")) == [
        "a",
        "a/rootfs",
        "a/rootfs/file",
    ]


def test_both_directories_and_none(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "transient").mkdir()
    removal.remove(str(tmp_path / "c"), str(tmp_path / "transient"), owner="test")
    removal.remove(str(tmp_path / "c"), "", owner="test")
    assert os.listdir(tmp_path) == []


def test_what_an_earlier_attempt_has_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    aside = Path(removal.hidden(str(tmp_path / "c"), removal.DELETING, "test"))
    aside.mkdir()
    (aside / "file").write_text("")
    removal.remove(str(tmp_path / "c"), "", owner="test")
    assert os.listdir(tmp_path) == []


def test_sweep(tmp_path: Path) -> None:
    deleting = removal.ending(removal.DELETING, "test")
    creating = removal.ending(removal.CREATING, "test")
    another = removal.ending(removal.CREATING, "another lxcd")
    kept = ["c", ".hidden", f"d{deleting}", f".e{another}"]
    for name in (f".a{deleting}", f".b{creating}", *kept):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    found = removal.sweep(str(tmp_path), "test")
    assert sorted(found) == [f"{tmp_path}/.a{deleting}", f"{tmp_path}/.b{creating}"]
    assert sorted(os.listdir(tmp_path)) == sorted(kept)
    assert removal.sweep(str(tmp_path / "missing"), "test") == []


def test_an_error_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_old: str, _new: str) -> None:
        raise PermissionError(1, "no")

    (tmp_path / "c").mkdir()
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(errors.LxcdError, match="deleting"):
        removal.remove(str(tmp_path / "c"), "", owner="test")
