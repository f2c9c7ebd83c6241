"""What a container's configuration says, as frozen data. Every value knows its line.

An `origin` is the text `file:line`, or where else a value comes from: `default`, `define`. Numbers
are checked and typed here; whether a path exists or the kernel can do it is not this room's
business.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, or worth knowing. An error stops a start; a warning never does."""

    severity: Literal["warning", "error"]
    origin: str
    key: str
    message: str


@dataclass(frozen=True, slots=True)
class Line:
    """One `key = value` line as written, includes expanded, defines behind the file's own."""

    key: str  # as written: `lxc.utsname`
    name: str  # the modern name of that key: `lxc.uts.name`; equal to `key` where there is none
    value: str  # without surrounding blanks and quotes
    origin: str
    in_force: bool  # lxcd acts on it


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of a key that holds a list of plain texts."""

    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class Setting:
    """One `lxc.sysctl.NAME`, `lxc.proc.NAME` … : what stands behind the prefix, and its value."""

    name: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class IdMapping:
    """One `lxc.idmap` line: container ids [first, first + count) are host ids from `host` on."""

    kind: Literal["u", "g"]
    first: int
    host: int
    count: int
    origin: str


@dataclass(frozen=True, slots=True)
class Rootfs:
    """`lxc.rootfs.*`. `kind` is LXC's storage type; `path` what stands behind `type:`."""

    kind: str  # `dir`, `overlay`, `btrfs`, `zfs`, `lvm`, `loop`, `rbd`, `nbd`
    path: str  # of a dir: the directory. Of an overlay: `LOWER[:LOWER…]:UPPER`
    options: tuple[str, ...]  # `lxc.rootfs.options`, split at commas, without `partition=`
    partition: int | None  # which of an image; 0: the whole
    plain: bool  # no type was given: what is there counts
    managed: bool
    # `lxc.rootfs.mount`: where LXC would mount it on the host. Targets of mount entries may be
    # written below it.
    mount: str
    origin: str


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of fstab(5): from `lxc.mount.entry`, or from the file of `lxc.mount.fstab`."""

    source: str
    target: str
    fstype: str
    options: tuple[str, ...]
    origin: str


@dataclass(frozen=True, slots=True)
class MountAuto:
    """One word of `lxc.mount.auto`: `proc:mixed`, `cgroup:ro:force`, `shmounts:/host:/cont`."""

    what: Literal["proc", "sys", "cgroup", "cgroup2", "cgroup-full", "shmounts"]
    mode: Literal["", "ro", "rw", "mixed"]
    force: bool
    arguments: tuple[str, ...]  # of shmounts: host path, container path
    origin: str


@dataclass(frozen=True, slots=True)
class Variable:
    """One `lxc.environment*` line. None as value: inherited from lxcd's own environment."""

    name: str
    value: str | None
    scope: Literal["all", "runtime", "hooks"]
    origin: str


@dataclass(frozen=True, slots=True)
class ResourceLimit:
    """One `lxc.prlimit.NAME`. None is unlimited."""

    name: str  # lower case: `nofile`
    soft: int | None
    hard: int | None
    origin: str


@dataclass(frozen=True, slots=True)
class CgroupSetting:
    """One `lxc.cgroup.FILE` (version 1) or `lxc.cgroup2.FILE` (version 2) line."""

    version: Literal[1, 2]
    name: str  # `memory.max`
    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class Hook:
    """One `lxc.hook.TYPE` line."""

    kind: str  # `pre-start` …
    command: str
    origin: str


@dataclass(frozen=True, slots=True)
class Nic:
    """One network device, of `lxc.net.N.*` or of a `lxc.network.type` group.

    `options` holds the other keys of it, by their modern name behind the index (`veth.pair`,
    `ipv4.gateway`); list keys keep their order.
    """

    index: int
    kind: str  # `veth`, `macvlan`, `ipvlan`, `vlan`, `phys`, `empty`, `none`
    options: tuple[Setting, ...]
    origin: str


@dataclass(frozen=True, slots=True)
class Share:
    """One `lxc.namespace.share.NS`: a container's name, a pid, or a path."""

    namespace: str
    target: str
    origin: str


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """A whole configuration. Fields are named after keys; what no key says has LXC's default."""

    lines: tuple[Line, ...] = ()
    problems: tuple[Problem, ...] = ()
    # Modern key -> origin of the value that counts, for keys that hold one value.
    origins: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    # At least one key of LXC before 2.1 is used: the text is of the era of the 0.7 to 2.0 tools.
    legacy: bool = False

    arch: str | None = None  # as uname -m says it: `x86_64`, `i686`
    uts_name: str = ""
    rootfs: Rootfs | None = None

    autodev: bool = True
    autodev_tmpfs_size_bytes: int = 500000
    pty_max: int = 0
    tty_max: int = 0
    tty_dir: str = ""
    console_path: str = ""  # `none`: no console
    console_logfile: str = ""
    console_buffer_size_bytes: int = 0
    console_size_bytes: int = 0
    console_rotate: bool = False

    mount_auto: tuple[MountAuto, ...] = ()
    mount_entries: tuple[
        MountEntry, ...
    ] = ()  # fstab file first, then the entries, as LXC mounts them
    mount_fstab: str = ""

    cap_drop: tuple[Entry, ...] = ()  # value: lower case without `cap_`, or a number
    cap_keep: tuple[Entry, ...] | None = None  # None: key not used; (): `none`

    init_cmd: tuple[str, ...] = ("/sbin/init",)
    init_cwd: str = ""
    init_uid: int = 0
    init_gid: int = 0
    init_groups: tuple[int, ...] = ()
    execute_cmd: tuple[str, ...] = ()
    environment: tuple[Variable, ...] = ()

    idmap: tuple[IdMapping, ...] = ()
    namespace_clone: tuple[str, ...] | None = (
        None  # `cgroup ipc mnt net pid time user uts`; None: all that fit
    )
    namespace_keep: tuple[str, ...] = ()
    namespace_share: tuple[Share, ...] = ()
    time_offset_boot_ns: int = 0
    time_offset_monotonic_ns: int = 0

    no_new_privs: bool = False
    keyring_disable_session: bool = False
    prlimits: tuple[ResourceLimit, ...] = ()
    sysctls: tuple[Setting, ...] = ()
    procs: tuple[Setting, ...] = ()
    sched_core: bool = False

    signal_halt: int | None = None
    signal_reboot: int | None = None
    signal_stop: int | None = None

    start_auto: bool = False
    start_delay_seconds: int = 0
    start_order: int = 0
    groups: tuple[str, ...] = ()
    ephemeral: bool = False

    cgroup_dir: str = ""
    cgroup_dir_container: str = ""
    cgroup_dir_container_inner: str = ""
    cgroup_dir_monitor: str = ""
    cgroup_dir_monitor_pivot: str = ""
    cgroup_relative: bool = False
    cgroups: tuple[CgroupSetting, ...] = ()

    nics: tuple[Nic, ...] = ()
    hooks: tuple[Hook, ...] = ()
    hook_version: int = 0

    apparmor_profile: str = ""
    apparmor_allow_incomplete: bool = False
    apparmor_allow_nesting: bool = False
    apparmor_raw: tuple[Entry, ...] = ()
    selinux_context: str = ""
    selinux_context_keyring: str = ""
    seccomp_profile: str = ""
    seccomp_allow_nesting: bool = False
    seccomp_notify_proxy: str = ""
    seccomp_notify_cookie: str = ""

    log_level: str = ""
    log_file: str = ""
    log_syslog: str = ""
    monitor_unshare: bool = False
    monitor_signal_pdeath: int | None = None

    def origin(self, key: str) -> str:
        """Say where a one-value key's value comes from, by its modern name; or `default`."""
        return self.origins.get(key, DEFAULT)
