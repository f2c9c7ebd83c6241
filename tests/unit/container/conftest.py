"""A host for plans, and the way from a text to a plan."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lxcd.config import loader
from lxcd.container import plan
from lxcd.container.plan import Host, Life, Plan

HOST = Host(
    machine="x86_64",
    last_capability=40,
    filesystems={"tmpfs": False, "proc": False, "mqueue": False, "overlay": False, "ext4": True},
    hierarchies=(("memory", "memory"), ("systemd", "name=systemd"), ("unified", None)),
    environment={"TERM": "xterm"},
)
Compile = Callable[..., Plan]


def compile_text(text: str, **life: object) -> Plan:
    config, _ = loader.load(text.encode(errors="surrogateescape"), "c/config")
    return plan.compile_plan(config, HOST, Life("c", "/var/lib/lxc/c", **life))  # type: ignore[arg-type]


@pytest.fixture
def compiled() -> Compile:
    return compile_text
