"""Make `images.py` from the sources beside it: the one way to do it. Needs the packages gcc and
gcc-aarch64-linux-gnu.

With `--check` nothing is written; the exit status is 1 if `images.py` was not made from these
sources by these commands, or if a compiler that is here in the recorded version makes something
else of them.
"""

from __future__ import annotations

import hashlib
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TARGET = HERE / "images.py"
# As uname(2) names them, and Debian its compilers.
MACHINES = ("aarch64", "x86_64")
COMPILER = "{machine}-linux-gnu-gcc"
_COMMON = (
    *("-std=c11", "-Wall", "-Wextra", "-Werror", "-Os"),
    # Nothing of a C library, nothing that would want one, no tables for a debugger.
    *("-ffreestanding", "-fno-builtin", "-fno-tree-loop-distribute-patterns", "-nostdlib"),
    *("-fno-stack-protector", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables"),
    "-fno-ident",
)
# By name of the source. A program has one segment, to be read and executed: no page of its own for
# headers, for data or for the loader's relocations. Of a function there is nothing but its code,
# which may lie anywhere.
_PROGRAM = (
    *(*_COMMON, "-s", "-static", "-fno-pic", "-no-pie"),
    "-Wl,--build-id=none,-z,noseparate-code,-z,noexecstack",
)
_FUNCTION = (*_COMMON, "-fPIC", "-c")
OPTIONS = {"pid1": _PROGRAM, "spawn": _FUNCTION, "walker": _PROGRAM}
_EXTRACT = ("-O", "binary", "-j", ".text")
_HEX_DIGITS_IN_A_LINE = 80


def main() -> int:
    """Generate, or compare with `--check`."""
    if "--check" in sys.argv[1:]:
        wrong = check(runpy.run_path(str(TARGET)))
        print(*(f"{TARGET.name}: {line}" for line in wrong), sep="\n", end="\n" if wrong else "")
        return 1 if wrong else 0
    missing = [COMPILER.format(machine=machine) for machine in MACHINES if not tools(machine)]
    if missing:
        print(f"not installed: {' '.join(missing)}; contrib/packages gcc gcc-aarch64-linux-gnu")
        return 1
    made = {name: {one: compile_for(one, name) for one in MACHINES} for name in OPTIONS}
    TARGET.write_text(text_of(made))
    return 0


def check(made: dict[str, Any]) -> list[str]:
    """What is wrong with what is there."""
    wrong: list[str] = []
    if made["SOURCES"] != digest():
        wrong.append("not made from these sources")
    if made["COMMANDS"] != OPTIONS:
        wrong.append(f"not made by this {Path(__file__).name}")
    if any(tuple(programs) != MACHINES for programs in made["IMAGES"].values()):
        wrong.append("made for other machines")
    if wrong:
        return wrong
    return [
        f"{made['TOOLS'][machine][0]} makes another {name} for {machine}"
        for name in OPTIONS
        for machine in MACHINES
        if tools(machine) == made["TOOLS"][machine]
        and compile_for(machine, name) != bytes.fromhex(made["IMAGES"][name][machine])
    ]


def digest() -> str:
    """What `images.py` knows its sources by."""
    found = hashlib.sha256()
    for source in sorted(HERE.glob("*.[ch]")):
        found.update(source.name.encode() + b"\0" + source.read_bytes())
    return found.hexdigest()


def tools(machine: str) -> tuple[str, ...]:
    """What compiler and linker say that they are; nothing if they are not here."""
    compiler = shutil.which(COMPILER.format(machine=machine))
    linker = compiler and shutil.which(_output(compiler, "-print-prog-name=ld"))
    if not compiler or not linker:
        return ()
    return tuple(_output(tool, "--version").splitlines()[0] for tool in (compiler, linker))


def compile_for(machine: str, name: str) -> bytes:
    """The program, or the code of the function."""
    compiler = COMPILER.format(machine=machine)
    with tempfile.TemporaryDirectory() as directory:
        made, code = Path(directory, name), Path(directory, "code")
        _output(compiler, *OPTIONS[name], "-o", str(made), str(HERE / f"{name}.c"))
        if OPTIONS[name] != _FUNCTION:
            return made.read_bytes()
        _output(_output(compiler, "-print-prog-name=objcopy"), *_EXTRACT, str(made), str(code))
        return code.read_bytes()


def _output(*command: str) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def text_of(images: dict[str, dict[str, bytes]]) -> str:
    """The module, as the formatter would have it."""
    lines = [
        f'"""What the sources here become, made by `{Path(__file__).name}`. Never edited."""',
        "",
        "from __future__ import annotations",
        "",
        "# SHA-256 of their names and texts.",
        f'SOURCES = "{digest()}"',
        "",
        "# What the compiler is told, for each.",
        "COMMANDS = {",
    ]
    for name, options in OPTIONS.items():
        lines += [f'    "{name}": (', *(f'        "{word}",' for word in options), "    ),"]
    lines += ["}", "", "# Compiler and linker, for each machine as uname(2) names it.", "TOOLS = {"]
    for machine in MACHINES:
        lines += [
            f'    "{machine}": (',
            *(f'        "{tool}",' for tool in tools(machine)),
            "    ),",
        ]
    lines += ["}", "", "# Hexadecimal.", "IMAGES = {"]
    for name, programs in images.items():
        lines.append(f'    "{name}": {{')
        for machine, program in programs.items():
            digits, step = program.hex(), _HEX_DIGITS_IN_A_LINE
            lines.append(f'        "{machine}": (')
            starts = range(0, len(digits), step)
            lines += [f'            "{digits[at : at + step]}"' for at in starts]
            lines.append("        ),")
        lines.append("    },")
    return "\n".join([*lines, "}", ""])


if __name__ == "__main__":
    sys.exit(main())
