"""What this host is and can do: facts for plans, and what GetHost tells."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.container import plan
from lxcd.kernel import features, identity, procfs
from lxcd.supervisor import programs

if TYPE_CHECKING:
    from lxcd.cgroup.tree import Trees

# Capabilities that lxcd makes use of; one that is missing is done without, or fails by name where
# used.
_USED = frozenset(
    [
        "chown",
        "dac_override",
        "dac_read_search",
        "fowner",
        "fsetid",
        "kill",
        "setgid",
        "setuid",
        "setpcap",
        "net_admin",
        "sys_chroot",
        "sys_ptrace",
        "sys_admin",
        "sys_resource",
        "mknod",
        "setfcap",
        "sys_boot",
    ]
)

# Programs of the host that lxcd runs: what for, and where Debian has them.
_PROGRAMS = (
    ("dnsmasq", "DHCP and DNS of managed networks", "Debian: dnsmasq-base"),
    ("nft", "NAT, forwards and filters of managed networks", "Debian: nftables"),
)


def facts(trees: Trees) -> plan.Host:
    """For `plan.compile_plan`."""
    return plan.Host(
        machine=os.uname().machine,
        last_capability=identity.last_capability(),
        filesystems=procfs.filesystems(),
        hierarchies=tuple(
            (tree.directory, tree.options if tree.version == 1 else None)
            for tree in trees.hierarchies
        ),
        environment=dict(os.environ),
    )


def missing_capabilities() -> tuple[str, ...]:
    """Capabilities that lxcd does not have, of those that it would use."""
    have = identity.effective_capabilities()
    return tuple(
        f"CAP_{name.upper()}"
        for number, name in enumerate(identity.CAPABILITIES)
        if number not in have and name in _USED
    )


def probe() -> tuple[features.Feature, ...]:
    """What this kernel offers, and which programs there are. Blocks."""
    found = tuple(
        features.Feature(
            "Programs",
            name,
            available=shutil.which(name, path=programs.PATH) is not None,
            required=False,
            needed_by=needed_by,
            detail=detail,
        )
        for name, needed_by, detail in _PROGRAMS
    )
    return (*features.probe(), *found)


def require() -> tuple[features.Feature, ...]:
    """Features of this kernel. Raises FailedPrecondition if one is missing that nothing works
    without.
    """
    found = features.probe()
    lacking = features.missing(found)
    if lacking:
        words = "; ".join(f"{feature.name} (needed for {feature.needed_by})" for feature in lacking)
        raise errors.FailedPrecondition(
            f"this kernel ({os.uname().release}) lacks: {words}. lxcd needs Linux 5.12 or newer",
            "KERNEL_FEATURE_MISSING",
        )
    return found
