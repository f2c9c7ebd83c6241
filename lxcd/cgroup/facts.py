"""What a translation of limits needs to know of the host: effects, in one place."""

from __future__ import annotations

import contextlib
import os
import resource
import stat
from types import MappingProxyType
from typing import TYPE_CHECKING

from lxcd.cgroup import amounts
from lxcd.cgroup.amounts import Host
from lxcd.cgroup.limits import Controllers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lxcd.cgroup.tree import Hierarchy, Trees
    from lxcd.config.model import CgroupSetting

_CPUS = "/sys/devices/system/cpu/online"
_NODES = "/sys/devices/system/node/has_memory"
_BLOCK = "/dev/"
# A host of many services has thousands of cgroups; one of the first few shows what there is.
_LOOKED_AT = 64


def controllers(trees: Trees) -> Controllers:
    """See which controller is in which tree, and what files a cgroup has of it."""
    versions: dict[str, int] = {}
    files: dict[str, frozenset[str]] = {}
    for tree in trees.hierarchies:
        if tree.version == 1:
            names = [one for one in tree.options.split(",") if one and "=" not in one]
        else:
            versions["cgroup"] = 2
            names = _read(f"{tree.mountpoint}/cgroup.controllers").split()
        for name in names:
            versions[name] = tree.version
        files.update(_files(tree, names))
    return Controllers(MappingProxyType(versions), MappingProxyType(files))


def _files(tree: Hierarchy, names: list[str]) -> dict[str, frozenset[str]]:
    """Look into cgroups: the root itself lacks most files, and in version 2 each lacks those of the
    controllers that are not enabled in it.
    """
    found: dict[str, frozenset[str]] = {}
    with contextlib.suppress(OSError), os.scandir(tree.mountpoint) as entries:
        below = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        for entry in below[:_LOOKED_AT]:
            enabled = set(names)
            if tree.version != 1:
                enabled &= set(_read(f"{entry.path}/cgroup.controllers").split())
            with contextlib.suppress(OSError):
                listed = os.listdir(entry.path)
                for name in enabled - found.keys():
                    own = frozenset(file for file in listed if file.startswith(f"{name}."))
                    # It may have been removed in the midst of it.
                    found.update({name: own} if own else {})
            if len(found) == len(names):
                break
    return found


def host(settings: Iterable[CgroupSetting] = ()) -> Host:
    """Look at the host; at the block devices only that `settings` name by a path."""
    cpus = amounts.number_set(_read(_CPUS) or "0", 0)
    nodes = amounts.number_set(_read(_NODES) or "0", 0)
    devices: dict[str, str] = {}
    for one in settings:
        path = one.value.partition(" ")[0]
        if path.startswith(_BLOCK):
            with contextlib.suppress(OSError):
                status = os.stat(path)
                if stat.S_ISBLK(status.st_mode):
                    device = status.st_rdev
                    devices[path] = f"{os.major(device)}:{os.minor(device)}"
    page_bytes = resource.getpagesize()
    return Host(cpus, nodes, page_bytes, MappingProxyType(devices))


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
        return file.read().strip()
    return ""
