"""The daemon that lxcctl's tests have."""

from tests.unit.lxcctl.conftest import daemon, refusal

__all__ = ["daemon", "refusal"]
