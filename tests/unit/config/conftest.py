"""A file system in a dictionary."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping

import pytest

from lxcd.config.reader import FileAccess, Folder, RegularFile, Stamp, Unreadable

Tree = Mapping[str, bytes | list[str] | str]
MakeFiles = Callable[[Tree], FileAccess]


class FakeFiles:
    """bytes: a file. list: a folder. str: something else, by what it is. Knows a path by its number."""

    def __init__(self, tree: Tree) -> None:
        self.tree = dict(tree)

    def read(self, path: str, limit: int) -> RegularFile | Folder | Unreadable:
        found = self.tree.get(os.path.normpath(path))
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if isinstance(found, bytes):
            return RegularFile(self.stamp(path), found[: limit + 1])
        if isinstance(found, list):
            return Folder(self.stamp(path), tuple(found))
        return Unreadable(self.stamp(path), found)

    def stamp(self, path: str) -> Stamp:
        known = os.path.normpath(path)
        if known not in self.tree:
            return Stamp(path)
        return Stamp(path, 1, list(self.tree).index(known) + 1, len(self.tree[known]))


@pytest.fixture
def make_files() -> MakeFiles:
    return FakeFiles
