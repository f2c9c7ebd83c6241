"""House rules that no linter knows: what lies where, how long a file may be, who may load and call what."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

TOP = {"LICENSE", "README.md", "contrib", "lxcctl", "lxcd", "proto", "pyproject.toml", "tests"}

# If a function has no room, a room is missing.
NAMELESS = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}

LONGEST = 800

# What only some files may import, or call by its dotted name; a folder ends with a slash. All is forbidden elsewhere in
# lxcd and lxcctl.
IMPORTS = {
    "ctypes": ["lxcd/kernel/"],
    "subprocess": [
        "lxcctl/commands/",  # the user's editor and ps; "only the keeper forks" is about lxcd
        "lxcd/kernel/native/generate.py",  # a script: compilers
    ],
    "multiprocessing": [],
    "concurrent.futures.process": [],
}
CALLS = {
    "os.fork": ["lxcd/keeper/"],
    "os.forkpty": [],
    "pty.fork": [],
    "pty.spawn": [],
    "os.posix_spawn": ["lxcctl/terminal.py", "lxcd/supervisor/launch.py"],
    "os.posix_spawnp": [],
    "os.system": [],
    "os.popen": [],
    "os.spawnl": [],
    "os.spawnv": [],
    "os.spawnve": [],
    "os.spawnvp": [],
    "os.spawnvpe": [],
    "asyncio.to_thread": [],  # `lxcd.threads` says why
    "asyncio.create_subprocess_exec": [],
    "asyncio.create_subprocess_shell": [],
}


@cache
def _files() -> tuple[str, ...]:
    """Every file that is in the repository or would be with the next `git add .`."""
    done = subprocess.run(
        # The checkout may belong to somebody else than the root that runs the tests.
        [
            "git",
            "-c",
            "safe.directory=*",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
        text=True,
    )
    return tuple(name for name in done.stdout.split("\0") if name and (CHECKOUT / name).exists())


def _written() -> list[str]:
    """The Python files that people write: all but the generated ones."""
    return [name for name in _files() if name.endswith(".py") and not name.startswith("lxcd/v1/")]


def _house() -> list[str]:
    return [name for name in _written() if name.startswith(("lxcd/", "lxcctl/"))]


def _imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # `from os import fork` is as good as os.fork.
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _used(tree: ast.AST) -> Iterator[tuple[int, str]]:
    yield from _imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.lineno, f"{node.value.id}.{node.attr}"


def _is_allowed(name: str, places: list[str]) -> bool:
    return any(name.startswith(place) if place.endswith("/") else name == place for place in places)


def test_the_top_of_the_tree_is_what_it_is() -> None:
    assert {name.partition("/")[0] for name in _files() if not name.startswith(".")} == TOP


def test_every_file_has_a_name_that_says_something() -> None:
    nameless = [n for n in _files() if {Path(part).stem for part in Path(n).parts} & NAMELESS]
    assert nameless == []


def test_no_file_is_two_rooms() -> None:
    lengths = {name: len((CHECKOUT / name).read_bytes().splitlines()) for name in _written()}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


@pytest.mark.parametrize("module", IMPORTS)
def test_only_those_who_may_import(module: str) -> None:
    found = [
        f"{name}:{line}"
        for name in _house()
        if not _is_allowed(name, IMPORTS[module])
        for line, imported in _imported(ast.parse((CHECKOUT / name).read_bytes()))
        if f"{imported}.".startswith(f"{module}.")
    ]
    assert found == []


@pytest.mark.parametrize("call", CALLS)
def test_only_those_who_may_call(call: str) -> None:
    found = [
        f"{name}:{line}"
        for name in _house()
        if not _is_allowed(name, CALLS[call])
        for line, used in _used(ast.parse((CHECKOUT / name).read_bytes()))
        if used == call
    ]
    assert found == []


@pytest.mark.parametrize("room", ["lxcd/", "lxcd/rpc/", "lxcd/supervisor/"])
def test_a_map_shows_every_door(room: str) -> None:
    known = set(re.findall(r"\w+", (CHECKOUT / room / "__init__.py").read_text()))
    doors = {name.removeprefix(room).split("/")[0] for name in _files() if name.startswith(room)}
    assert {door.removesuffix(".py") for door in doors} - known - {"__init__"} == set()
