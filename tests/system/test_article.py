"""The article, word for word: `contrib/article` runs once, each of its steps is a test."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from contrib.walkthrough.preparations import PREPARATIONS
from contrib.walkthrough.table import STEPS
from tests.patience import PATIENCE
from tests.system import ledger

_CHECKOUT = Path(__file__).resolve().parents[2]
# It takes about one: only a hang takes as long.
_MINUTES = 15


@dataclass(frozen=True, slots=True)
class _Run:
    status: int
    shown: str
    results: dict[str, Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Run]:
    before = ledger.take()
    file = tmp_path_factory.mktemp("article") / "results"
    done = subprocess.run(
        [_CHECKOUT / "contrib/article", "--patience", str(PATIENCE), "--json", file],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONWARNINGS": ""},
        text=True,
        check=False,
        timeout=_MINUTES * 60 * PATIENCE,
    )
    results = json.loads(file.read_text()) if file.exists() else {}
    yield _Run(done.returncode, done.stdout, results)
    ledger.settle(before)


@pytest.mark.slow
@pytest.mark.parametrize("step", [step.name for step in STEPS])
def test_step(run: _Run, step: str) -> None:
    assert step in run.results, f"it was not reached:\n{run.shown[-4000:]}"
    assert run.results[step]["good"], run.results[step]


@pytest.mark.slow
def test_all_that_was_shown(run: _Run) -> None:
    assert run.status == 0, run.shown[-4000:]
    assert f"{len(STEPS)} of {len(STEPS)} steps as in the article." in run.shown
    for step in STEPS:
        assert f"[{step.name}]\n{step.typed}\n" in run.shown
    for preparation in PREPARATIONS:
        assert preparation.reason in run.shown
