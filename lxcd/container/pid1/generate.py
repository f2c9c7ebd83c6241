"""Make `images.py` from `pid1.c`: the one way to do it. Needs the packages gcc and
gcc-aarch64-linux-gnu.

With `--check` nothing is written; the exit status is 1 if `images.py` was not made from this source
by this command, or if a compiler that is here in the recorded version makes something else of it.
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
SOURCE = HERE / "pid1.c"
TARGET = HERE / "images.py"
# As uname(2) names them, and Debian its compilers.
MACHINES = ("aarch64", "x86_64")
COMPILER = "{machine}-linux-gnu-gcc"
OPTIONS = (
    *("-std=c11", "-Wall", "-Wextra", "-Werror", "-Os"),
    # Nothing of a C library, nothing that would want one, no tables for a debugger.
    *("-ffreestanding", "-nostdlib", "-static", "-fno-stack-protector"),
    *("-fno-unwind-tables", "-fno-asynchronous-unwind-tables", "-fno-ident", "-s"),
    # One segment, to be read and executed: no page of its own for headers, for data or for the
    # loader's relocations.
    *("-fno-pic", "-no-pie", "-Wl,--build-id=none,-z,noseparate-code,-z,noexecstack"),
)
_HEX_DIGITS_IN_A_LINE = 88


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
    TARGET.write_text(text_of({machine: compile_for(machine) for machine in MACHINES}))
    return 0


def check(made: dict[str, Any]) -> list[str]:
    """What is wrong with what is there."""
    wrong: list[str] = []
    if made["SOURCE"] != digest():
        wrong.append(f"not made from this {SOURCE.name}")
    if made["COMMAND"] != (COMPILER, *OPTIONS):
        wrong.append(f"not made by this {Path(__file__).name}")
    if tuple(made["PROGRAMS"]) != MACHINES:
        wrong.append(f"made for {' '.join(made['PROGRAMS'])}")
    if wrong:
        return wrong
    return [
        f"{made['TOOLS'][machine][0]} makes another program for {machine}"
        for machine in MACHINES
        if tools(machine) == made["TOOLS"][machine]
        and compile_for(machine) != bytes.fromhex(made["PROGRAMS"][machine])
    ]


def digest() -> str:
    """What `images.py` knows its source by."""
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()


def tools(machine: str) -> tuple[str, ...]:
    """What compiler and linker say that they are; nothing if they are not here."""
    compiler = shutil.which(COMPILER.format(machine=machine))
    linker = compiler and shutil.which(_output(compiler, "-print-prog-name=ld"))
    if not compiler or not linker:
        return ()
    return tuple(_output(tool, "--version").splitlines()[0] for tool in (compiler, linker))


def compile_for(machine: str) -> bytes:
    """The program."""
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory, "pid1")
        _output(COMPILER.format(machine=machine), *OPTIONS, "-o", str(made), str(SOURCE))
        return made.read_bytes()


def _output(*command: str) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def text_of(programs: dict[str, bytes]) -> str:
    """The module, as the formatter would have it."""
    lines = [
        f'"""What `{SOURCE.name}` becomes, made by `{Path(__file__).name}`. Never edited."""',
        "",
        "from __future__ import annotations",
        "",
        f"# SHA-256 of {SOURCE.name}.",
        f'SOURCE = "{digest()}"',
        "",
        "COMMAND = (",
        *(f'    "{word}",' for word in (COMPILER, *OPTIONS)),
        ")",
        "",
        "# Compiler and linker, for each machine as uname(2) names it.",
        "TOOLS = {",
    ]
    for machine in programs:
        lines += [
            f'    "{machine}": (',
            *(f'        "{tool}",' for tool in tools(machine)),
            "    ),",
        ]
    lines += ["}", "", "# Hexadecimal.", "PROGRAMS = {"]
    for machine, program in programs.items():
        digits, step = program.hex(), _HEX_DIGITS_IN_A_LINE
        lines.append(f'    "{machine}": (')
        lines += [f'        "{digits[at : at + step]}"' for at in range(0, len(digits), step)]
        lines.append("    ),")
    return "\n".join([*lines, "}", ""])


if __name__ == "__main__":
    sys.exit(main())
