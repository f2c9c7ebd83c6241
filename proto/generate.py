"""Make `lxcd/v1/` from `proto/lxcd/v1/*.proto`: the one way to do it.

With `--check` nothing is written; the exit status is 1 if what is there is not what would be made.
"""

from __future__ import annotations

import filecmp
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PROTO = Path(__file__).resolve().parent
TARGET = PROTO.parent / "lxcd" / "v1"
DOCSTRING = '''"""The wire format of the API, made by `proto/generate.py`. Never edited."""
'''


def generate(into: Path) -> None:
    """Write the generated package to `into`/lxcd/v1."""
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.glob("lxcd/v1/*.proto"))
    include = str(files("grpc_tools") / "_proto")
    status = protoc.main(
        [
            "protoc",
            f"-I{PROTO}",
            f"-I{include}",
            f"--python_out={into}",
            f"--grpc_python_out={into}",
            f"--mypy_out=quiet:{into}",
            f"--mypy_grpc_out=quiet,only_async:{into}",
            *sources,
        ]
    )
    if status != 0:
        raise SystemExit(status)
    (into / "lxcd" / "v1" / "__init__.py").write_text(DOCSTRING)


def main() -> int:
    """Generate, or compare with `--check`."""
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory) / "lxcd" / "v1"
        generate(Path(directory))
        names = sorted(path.name for path in made.iterdir())
        if "--check" in sys.argv[1:]:
            there = sorted(path.name for path in TARGET.iterdir() if path.is_file())
            _, differ, errors = filecmp.cmpfiles(made, TARGET, names, shallow=False)
            if there != names or differ or errors:
                print(f"lxcd/v1 is not what proto/generate.py makes: {differ + errors or there}")
                return 1
            return 0
        shutil.rmtree(TARGET, ignore_errors=True)
        shutil.copytree(made, TARGET)
    return 0


if __name__ == "__main__":
    sys.exit(main())
