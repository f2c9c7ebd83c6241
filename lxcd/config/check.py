"""Rules across keys, which no line can break by itself; and what is not in force yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lxcd.config import keys, nic_keys, rootfs
from lxcd.config.characters import quoted
from lxcd.config.model import ContainerConfig, Line, Nic, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = "lxc.rootfs.path"
_NEEDED = {"link": ("macvlan", "ipvlan", "vlan", "phys"), "vlan.id": ("vlan",)}
_SHARED_MEMORY = "/dev/shm/"  # noqa: S108 - a name to compare with; nothing is written there


def check(config: ContainerConfig) -> tuple[Problem, ...]:
    """Return all: what is wrong with a line, across lines, and what is not acted on yet."""
    return (*config.problems, *rules(config), *not_in_force(config))


def rules(config: ContainerConfig) -> tuple[Problem, ...]:
    """Return what is wrong across lines."""
    return (
        *_exclusive(config),
        *_root(config),
        *_ids(config),
        *_mapped_read_only(config),
        *_namespaces(config),
        *_network(config),
        *_devices(config),
        *_profiles(config),
    )


def not_in_force(config: ContainerConfig) -> tuple[Problem, ...]:
    """Return a warning for each key that is set, understood, and not acted upon yet."""
    lines: dict[str, list[Line]] = {}
    for line in _counting(config):
        if not line.in_force and _known(line.name):
            lines.setdefault(line.name, []).append(line)
    faulty = {one.origin for one in config.problems if one.severity == "error"}
    found: list[Problem] = []
    for name, those in lines.items():
        if all(line.origin in faulty for line in those):
            continue
        more = f" ({len(those)} lines)" if len(those) > 1 else ""
        text = f"{name} is understood, but lxcd does not act on it yet{more}"
        found.append(_warning(those[0].origin, those[0].key, text))
    return tuple(found)


def _known(name: str) -> bool:
    return nic_keys.split_name(name) is not None or keys.find(name) is not None


def _counting(config: ContainerConfig) -> list[Line]:
    """Return the lines that nothing after them has cleared or replaced."""
    kept: dict[str, dict[str, list[Line]]] = {}  # by family and name
    devices: dict[str, dict[str, list[Line]]] = {}
    for line in config.lines:
        what = nic_keys.split_name(line.name)
        found = keys.find(line.name)
        if what is not None:
            groups, family = devices, line.name.removesuffix("." + what.option)
            several = bool(what.option) and nic_keys.OPTIONS[what.option].several
        else:
            groups, family = kept, found.row.family if found else line.name
            several = found is not None and found.row.shape == "list"
        group = groups.setdefault(family, {})
        if line.value:
            held = group.setdefault(line.name, [])
            if not several:
                held.clear()
            held.append(line)
        elif line.name == "lxc.net":
            devices.clear()
        elif line.name == family:
            group.clear()
        else:
            group.pop(line.name, None)
    lines = [
        line
        for groups in (kept, devices)
        for group in groups.values()
        for held in group.values()
        for line in held
    ]
    place = {id(line): number for number, line in enumerate(config.lines)}
    return sorted(lines, key=lambda line: place[id(line)])


def _exclusive(config: ContainerConfig) -> Iterator[Problem]:
    if config.cap_drop and config.cap_keep is not None:
        origin = config.cap_drop[-1].origin
        yield _error(origin, "lxc.cap.drop", "cannot stand together with lxc.cap.keep")
    if config.namespace_clone is not None and config.namespace_keep:
        text = "cannot stand together with lxc.namespace.keep"
        yield _error(_line_of(config, "lxc.namespace.clone"), "lxc.namespace.clone", text)
    parts = {
        "lxc.cgroup.dir.container": config.cgroup_dir_container,
        "lxc.cgroup.dir.container.inner": config.cgroup_dir_container_inner,
        "lxc.cgroup.dir.monitor": config.cgroup_dir_monitor,
        "lxc.cgroup.dir.monitor.pivot": config.cgroup_dir_monitor_pivot,
    }
    for key, value in parts.items():
        if value and config.cgroup_dir:
            yield _error(config.origin(key), key, "cannot stand together with lxc.cgroup.dir")
    if config.cgroup_dir_container_inner and not config.cgroup_dir_container:
        key = "lxc.cgroup.dir.container.inner"
        yield _warning(config.origin(key), key, "has no effect without lxc.cgroup.dir.container")


def _root(config: ContainerConfig) -> Iterator[Problem]:
    root = config.rootfs
    if root is None:
        for key in ("lxc.rootfs.options", "lxc.rootfs.mount", "lxc.rootfs.managed"):
            if key in config.origins:
                yield _warning(config.origin(key), key, "has no effect without lxc.rootfs.path")
        return
    if root.kind in ("dir", "loop", "lvm") and not root.path.startswith("/"):
        yield _error(root.origin, _ROOT, f"{quoted(root.path)} must begin with a slash")
    device = root.path.startswith("/dev/") and not root.path.startswith(_SHARED_MEMORY)
    if root.kind == "dir" and device and not root.plain:
        text = f"{quoted(root.path)} looks like a block device, but is taken for a directory"
        yield _warning(root.origin, _ROOT, text)
    if root.partition is not None and not rootfs.may_be_parted(root.kind, plain=root.plain):
        key = "lxc.rootfs.options"
        text = f"partition={root.partition} has no effect: {root.kind} has no partitions"
        yield _warning(config.origin(key), key, text)
    if root.kind not in rootfs.IN_FORCE and _acted_on(config, _ROOT):
        # `lxc.rootfs.backend` says so, not the line itself, which is why no other warning comes.
        text = f"{root.kind} is understood, but lxcd does not act on it yet"
        yield _warning(root.origin, _ROOT, text)
    beneath = (root.path.rstrip("/") + "/", root.mount.rstrip("/") + "/")
    for mount in config.mount_entries if root.kind == "dir" else ():
        if mount.target.startswith("/") and not (mount.target + "/").startswith(beneath):
            text = f"{quoted(mount.target)} does not lie below {quoted(root.path)}"
            yield _warning(mount.origin, "lxc.mount.entry", text)


def _mapped_read_only(config: ContainerConfig) -> Iterator[Problem]:
    """Read-only is a flag of the mount, and the root of a container's own mount namespace may take
    it off: mount(8), remount. With mapped ids the files behind it are then its own to write.
    """
    for mount in config.mount_entries:
        options = set(mount.options)
        mapped = any(option.startswith("idmap=") for option in options)
        if config.idmap and mapped and "ro" in options and options & {"bind", "rbind"}:
            text = (
                f"{quoted(mount.source)} is not protected: with idmap= the container's root owns "
                "its files, and can make this mount writable"
            )
            yield _warning(mount.origin, "lxc.mount.entry", text)


def _ids(config: ContainerConfig) -> Iterator[Problem]:
    if not config.idmap:
        return
    for one in config.idmap:
        if not one.count:
            text = "a range of 0 ids: the kernel refuses it (user_namespaces(7))"
            yield _error(one.origin, "lxc.idmap", text)
    origin = config.idmap[0].origin
    for kind, what in (("u", "user"), ("g", "group")):
        mine = [one for one in config.idmap if one.kind == kind]
        if not mine:
            yield _warning(origin, "lxc.idmap", f"no {what} ids are mapped")
        elif not any(one.first == 0 and one.count for one in mine):
            yield _warning(mine[0].origin, "lxc.idmap", f"{what} id 0 is not mapped")
    root = config.rootfs
    if root is not None and not any(one.startswith("idmap=") for one in root.options):
        text = (
            "the files of the root file system must belong to the mapped ids already,"
            " or lxc.rootfs.options = idmap=container must shift them"
        )
        yield _warning(origin, "lxc.idmap", text)


def _namespaces(config: ContainerConfig) -> Iterator[Problem]:
    clone, keep = config.namespace_clone, config.namespace_keep

    def made(name: str) -> bool:
        return name in clone if clone is not None else name not in keep

    key = "lxc.namespace.clone" if clone is not None else "lxc.namespace.keep"
    origin = _line_of(config, key)
    if config.idmap and not made("user"):
        yield _error(origin, key, "no user namespace, but lxc.idmap asks for one")
    if (config.time_offset_boot_ns or config.time_offset_monotonic_ns) and not made("time"):
        yield _error(origin, key, "no time namespace, but lxc.time.offset asks for one")
    if config.rootfs is not None and not made("mnt"):
        yield _error(origin, key, "no mount namespace, but lxc.rootfs.path asks for one")
    if config.uts_name and not made("uts"):
        yield _error(origin, key, "no uts namespace: lxc.uts.name would rename the host")
    if config.nics and not made("net"):
        yield _warning(origin, key, "no network namespace: the network devices have no effect")
    for share in config.namespace_share:
        if clone is not None and share.namespace in clone:
            name = f"lxc.namespace.share.{share.namespace}"
            yield _error(share.origin, name, "cannot be shared and made at once")


def _network(config: ContainerConfig) -> Iterator[Problem]:
    for nic in config.nics:
        options = {one.name for one in nic.options}
        yield from _gateways(nic, options)
        for one in nic.options:
            kinds = nic_keys.OPTIONS[one.name].kinds
            if kinds and nic.kind not in kinds:
                key = f"lxc.net.{nic.index}.{one.name}"
                yield _warning(one.origin, key, f"has no effect on a device of type {nic.kind}")
        for needed, kinds in _NEEDED.items():
            if nic.kind in kinds and needed not in options:
                key = f"lxc.net.{nic.index}.{needed}"
                yield _error(nic.origin, key, f"a device of type {nic.kind} needs a {needed}")


def _gateways(nic: Nic, options: set[str]) -> Iterator[Problem]:
    for one in nic.options:
        version, _, option = one.name.partition(".")
        if option != "gateway":
            continue
        key = f"lxc.net.{nic.index}.{one.name}"
        if "flags" not in options:
            yield _error(one.origin, key, "a gateway needs flags = up")
        if one.value != "dev" and f"{version}.address" not in options:
            yield _error(one.origin, key, f"a gateway needs an {version}.address")
        if one.value == "auto" and "link" not in options:
            yield _error(one.origin, key, "auto is the address of the link, and there is none")


def _devices(config: ContainerConfig) -> Iterator[Problem]:
    if config.tty_dir and not config.autodev:
        text = "without lxc.autodev the folder must be there in the root file system's own /dev"
        yield _warning(config.origin("lxc.tty.dir"), "lxc.tty.dir", text)
    if "lxc.autodev.tmpfs.size" in config.origins and not config.autodev:
        key = "lxc.autodev.tmpfs.size"
        yield _warning(config.origin(key), key, "has no effect without lxc.autodev")


def _profiles(config: ContainerConfig) -> Iterator[Problem]:
    if config.apparmor_profile != "generated":
        text = "has no effect without lxc.apparmor.profile = generated"
        if config.apparmor_raw:
            yield _warning(config.apparmor_raw[0].origin, "lxc.apparmor.raw", text)
        if config.apparmor_allow_nesting:
            key = "lxc.apparmor.allow_nesting"
            yield _warning(config.origin(key), key, text)


def _line_of(config: ContainerConfig, name: str) -> str:
    return next((one.origin for one in reversed(config.lines) if one.name == name), "default")


def _acted_on(config: ContainerConfig, name: str) -> bool:
    return any(one.in_force for one in config.lines if one.name == name)


def _error(origin: str, key: str, message: str) -> Problem:
    return _problem("error", origin, key, message)


def _warning(origin: str, key: str, message: str) -> Problem:
    return _problem("warning", origin, key, message)


def _problem(severity: Literal["warning", "error"], origin: str, key: str, message: str) -> Problem:
    return Problem(severity, origin, key, message)
