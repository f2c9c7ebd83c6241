"""The machine code is what its sources say, and what a kernel needs to run it anywhere."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from lxcd.kernel import native
from lxcd.kernel.native import images
from lxcd.supervisor import launch

ROOM = Path(native.__file__).parent
PROGRAMS = ("pid1", "walker")
MACHINES = {"x86_64": 62, "aarch64": 183}  # elf.h, EM_*
LOAD, GNU_STACK = 1, 0x6474E551


def _check(room: Path, path: str | None = None) -> tuple[int, str]:
    """Exit status and output of `generate.py --check`."""
    done = subprocess.run(
        [sys.executable, "-I", room / "generate.py", "--check"],
        env=None if path is None else {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr
    return done.returncode, done.stdout


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(ROOM, tmp_path / "native"))


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_programs_are_those_of_the_source() -> None:
    assert _check(ROOM) == (0, "")


def test_without_compilers_they_are_believed(room: Path, tmp_path: Path) -> None:
    assert _check(room, path=str(tmp_path)) == (0, "")


def test_a_changed_source_is_noticed_without_a_compiler(room: Path, tmp_path: Path) -> None:
    _replace(room / "machine.h", "SIGPWR = 30", "SIGPWR = 31")
    assert _check(room, path=str(tmp_path)) == (1, "images.py: not made from these sources\n")


def test_another_command_is_noticed(room: Path, tmp_path: Path) -> None:
    _replace(room / "generate.py", '"-Os"', '"-O2"')
    assert _check(room, path=str(tmp_path)) == (1, "images.py: not made by this generate.py\n")


def test_a_changed_program_is_noticed_by_the_compiler_that_made_it(
    room: Path, tmp_path: Path
) -> None:
    """One that says the same of itself, and makes another program."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for machine in MACHINES:
        compiler, linker = images.TOOLS[machine]
        (tools / f"{machine}-linux-gnu-gcc").write_text(
            "#!/bin/sh\n"
            f'case "$1" in --version) echo "{compiler}";; -print-prog-name=ld) echo ld-{machine};;\n'
            "-print-prog-name=objcopy) echo cut;;\n"
            '*) while [ "$1" != -o ]; do shift; done; echo other >"$2";; esac\n'
        )
        (tools / f"ld-{machine}").write_text(f'#!/bin/sh\necho "{linker}"\n')
    (tools / "cut").write_text('#!/bin/sh\nshift 4\necho other >"$2"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    status, output = _check(room, path=f"{tools}:/bin")
    assert status == 1
    wanted = [(name, machine) for name in images.IMAGES for machine in sorted(MACHINES)]
    found = output.splitlines()
    assert len(found) == len(wanted)
    for (name, machine), line in zip(wanted, found, strict=True):
        assert line.endswith(f"another {name} for {machine}"), line


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("machine", MACHINES)
def test_a_program_is_one_page_that_is_read_and_executed(name: str, machine: str) -> None:
    """No loader, no library, no data: what a process of it costs is its stack."""
    program = bytes.fromhex(images.IMAGES[name][machine])
    assert program[:7] == b"\x7fELF\x02\x01\x01"
    kind, found_machine = struct.unpack_from("<HH", program, 16)
    assert (kind, found_machine) == (2, MACHINES[machine])  # ET_EXEC
    entry, first = struct.unpack_from("<QQ", program, 24)
    size, count = struct.unpack_from("<HH", program, 54)
    headers = [struct.unpack_from("<IIQQQQQ", program, first + size * n) for n in range(count)]
    assert [header[0] for header in headers] == [LOAD, GNU_STACK]
    (_, flags, offset, address, _, in_file, in_memory), (_, stack_flags, *_) = headers
    assert (flags, stack_flags) == (4 | 1, 4 | 2)
    assert offset == 0
    assert in_file == in_memory < 4096
    assert address <= entry < address + in_file


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("images.py", "7f454c46", "7f454c47"), ("machine.h", "SIGPWR = 30", "SIGPWR = 31")],
)
def test_a_build_of_the_keeper_is_known_by_its_programs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str
) -> None:
    package = Path(launch.__file__).parents[1]
    copy = shutil.copytree(package, tmp_path / "lxcd", ignore=shutil.ignore_patterns("__pycache__"))
    before = launch.own_build()
    monkeypatch.setattr(launch, "_PACKAGE", str(copy))
    assert launch.own_build() == before
    _replace(copy / "kernel/native" / name, old, new)
    assert launch.own_build() != before
