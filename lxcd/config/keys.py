"""The table of all keys of LXC 7.0, one row each; documentation and completion come from it too.

Not in it: options of network devices (`nic_keys`), names that keys had before (`legacy_keys`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from lxcd.config import entries, rootfs, values
from lxcd.config.characters import words
from lxcd.config.model import Entry

if TYPE_CHECKING:
    from collections.abc import Callable

# Where Debian's LXC on amd64 mounts a root file system. Only a place in texts: lxcd itself mounts
# nothing there.
ROOTFS_MOUNT = "/usr/lib/x86_64-linux-gnu/lxc/rootfs"
HOOKS = (
    *("pre-start", "pre-mount", "mount", "autodev", "start-host"),
    *("start", "stop", "post-stop", "clone", "destroy"),
)
FLAG = ("0", "1")


@dataclass(frozen=True, slots=True)
class Given:
    """What a row's parser gets: a value that is not empty; of a prefix key, what is behind it."""

    value: str
    origin: str
    rest: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """One row. A name that ends with a dot is a prefix."""

    name: str
    # value: one, the last line counts, an empty value resets it. list: lines add up, an empty one
    # clears. map: one value per name behind the prefix.
    shape: Literal["value", "list", "map"]
    field: str  # of ContainerConfig; `rootfs.X` is put together by the loader; empty: none
    parse: Callable[[Given], object]
    syntax: str
    help: str
    default: str = ""  # as it would be written
    in_force: bool = True
    words: bool = False  # the value is several items, with blanks between
    choices: tuple[str, ...] = ()  # for completion
    only: Callable[[str], bool] | None = None  # in force for these values (or words) alone

    @property
    def prefix(self) -> bool:
        """Tell whether the row is for all keys that begin with its name."""
        return self.name.endswith(".")

    @property
    def family(self) -> str:
        """Name the key that clears this one by an empty value, among others: `lxc.hook`."""
        if self.prefix:
            return self.name.removesuffix(".")
        return "lxc.hook" if self.field == "hooks" else self.name

    def acts_on(self, text: str) -> bool:
        """Tell whether lxcd acts on this value of the key; never asked about an empty one."""
        parts = words(text) if self.words else [text]
        return self.in_force and (self.only is None or all(self.only(part) for part in parts))


@dataclass(frozen=True, slots=True)
class Found:
    """The row of a key that somebody wrote."""

    row: Key
    name: str  # the whole modern name: with what stands behind the prefix
    rest: str


def _simple(read: Callable[[str], object]) -> Callable[[Given], object]:
    return lambda given: read(given.value)


def _item(read: Callable[[str, str], object]) -> Callable[[Given], object]:
    return lambda given: read(given.value, given.origin)


def _named(read: Callable[[str, str, str], object]) -> Callable[[Given], object]:
    return lambda given: read(given.rest, given.value, given.origin)


def _entry(read: Callable[[str], str]) -> Callable[[Given], object]:
    return lambda given: Entry(read(given.value), given.origin)


def _keep(given: Given) -> Entry:
    value = given.value if given.value == "none" else values.capability(given.value)
    return Entry(value, given.origin)


def _row(  # noqa: PLR0913
    name: str,
    field: str,
    read: Callable[[str], object],
    syntax: str,
    text: str,
    *,
    default: str = "",
    live: bool = True,
    choices: tuple[str, ...] = (),
    only: Callable[[str], bool] | None = None,
) -> Key:
    return Key(
        name,
        "value",
        field,
        _simple(read),
        syntax,
        text,
        default,
        in_force=live,
        choices=choices,
        only=only,
    )


def _flag(name: str, field: str, text: str, *, default: str = "0", live: bool = True) -> Key:
    return _row(name, field, values.boolean, "0|1", text, default=default, live=live, choices=FLAG)


def _list(  # noqa: PLR0913
    name: str,
    field: str,
    parse: Callable[[Given], object],
    syntax: str,
    text: str,
    *,
    live: bool = True,
    words: bool = False,
    choices: tuple[str, ...] = (),
    only: Callable[[str], bool] | None = None,
) -> Key:
    return Key(
        name,
        "list",
        field,
        parse,
        syntax,
        text,
        in_force=live,
        words=words,
        choices=choices,
        only=only,
    )


def _map(
    name: str,
    field: str,
    read: Callable[[str, str, str], object],
    syntax: str,
    text: str,
    *,
    live: bool = True,
) -> Key:
    return Key(name, "map", field, _named(read), syntax, text, in_force=live)


def _is_none(text: str) -> bool:
    return text == "none"


def _storage_in_force(text: str) -> bool:
    try:
        return rootfs.split_path(text)[0] in rootfs.IN_FORCE
    except ValueError:
        return False


_id = values.number(0, values.LARGEST_ID)
_count = values.number(0, values.LARGEST_INT)
_signals = ("SIGHUP", "SIGINT", "SIGKILL", "SIGPWR", "SIGTERM", "SIGUSR1", "SIGRTMIN+3")
_sizes = "BYTES[kB|MB|GB]|auto"
_ns = values.NAMESPACES


# fmt: off
KEYS: tuple[Key, ...] = (
    _row("lxc.arch", "arch", values.architecture, "NAME",
         "machine that the container believes to run on", choices=tuple(values.ARCHITECTURES)),
    _row("lxc.uts.name", "uts_name", values.host_name, "NAME", "host name of the container"),
    _list("lxc.include", "", _simple(values.some_path), "PATH",
         "file to read in this place, or folder whose *.conf files are read in sorted order"),

    _row("lxc.rootfs.path", "rootfs.path", values.plain, "[TYPE:]PATH",
         "root file system; without it the container sees the host's", only=_storage_in_force,
         choices=("dir:", "overlay:", "btrfs:", "zfs:", "lvm:", "loop:", "rbd:", "nbd:")),
    _row("lxc.rootfs.mount", "rootfs.mount", values.absolute, "PATH",
         "where LXC mounts the root file system on the host", default=ROOTFS_MOUNT),
    _row("lxc.rootfs.options", "rootfs.options", values.comma_list, "OPTION[,OPTION…]",
         "mount options of the root file system; idmap=container shifts ids without chown;"
         " partition=N is the root of an image (lxcd's own)"),
    _flag("lxc.rootfs.managed", "rootfs.managed",
          "deleting the container deletes its root file system", default="1"),

    _list("lxc.mount.auto", "mount_auto", _item(entries.mount_auto), "WORD…",
          "kernel file systems to mount: proc sys cgroup shmounts", words=True,
          only=lambda word: not word.startswith("shmounts"),
          choices=("proc:mixed", "proc:rw", "sys:mixed", "sys:ro", "sys:rw", "cgroup:mixed",
                   "cgroup:ro", "cgroup:rw", "cgroup-full:mixed", "cgroup-full:ro",
                   "cgroup-full:rw", "cgroup2", "shmounts:")),
    _list("lxc.mount.entry", "mount_entries", _item(entries.mount_entry), "FSTAB LINE",
          "one mount, as a line of fstab(5); also optional create=dir create=file relative"),
    _row("lxc.mount.fstab", "mount_fstab", values.some_path, "PATH",
         "file of fstab(5) with mounts, made before those of lxc.mount.entry"),
    _row("lxc.autodev", "autodev", values.autodev, "0|1",
         "make /dev a tmpfs with the usual devices", default="1", choices=FLAG),
    _row("lxc.autodev.tmpfs.size", "autodev_tmpfs_size_bytes",
         values.number(0, 2**63 - 1), "BYTES", "size of that tmpfs", default="500000"),

    # 2^20 is NR_UNIX98_PTY_MAX: devpts refuses a larger max= (fs/devpts/inode.c).
    _row("lxc.pty.max", "pty_max", values.number(0, 1 << 20), "NUMBER",
         "ptys that the container may open; 0: no devpts of its own", default="0"),
    _row("lxc.tty.max", "tty_max", values.number(0, 1024), "NUMBER",
         "ttys for getty: /dev/tty1 and so on", default="0"),
    _row("lxc.tty.dir", "tty_dir", values.beneath, "FOLDER",
         "folder below /dev for console and ttys; links to them stay in /dev"),
    _row("lxc.console.path", "console_path", values.plain, "PATH|none",
         "device for the console in place of a pty; none: no console", only=_is_none,
         choices=("none",)),
    _row("lxc.console.logfile", "console_logfile", values.some_path, "PATH",
         "file for everything that the console shows"),
    _row("lxc.console.buffer.size", "console_buffer_size_bytes", values.size, _sizes,
         "how much of the console is kept in memory", default="0", choices=("auto",)),
    _row("lxc.console.size", "console_size_bytes", values.size, _sizes,
         "largest size of the console's log file", default="0", choices=("auto",)),
    _flag("lxc.console.rotate", "console_rotate",
          "rename a full console log to FILE.1"),

    _list("lxc.cap.drop", "cap_drop", _entry(values.capability), "NAME…",
          "capabilities that the container does not get; without this key and lxc.cap.keep, and"
          " without lxc.idmap: sys_time sys_module sys_rawio mac_admin mac_override", words=True,
          choices=values.CAPABILITIES),
    _list("lxc.cap.keep", "cap_keep", _keep, "NAME…|none",
          "the only capabilities that the container gets", words=True,
          choices=("none", *values.CAPABILITIES)),

    _row("lxc.init.cmd", "init_cmd", values.command, "COMMAND LINE",
         "first process of a system container", default="/sbin/init"),
    _row("lxc.init.cwd", "init_cwd", values.absolute, "PATH", "working directory of that process"),
    _row("lxc.init.uid", "init_uid", _id, "NUMBER", "user id of that process", default="0"),
    _row("lxc.init.gid", "init_gid", _id, "NUMBER", "group id of that process", default="0"),
    _row("lxc.init.groups", "init_groups", values.group_ids, "NUMBER[,NUMBER…]",
         "supplementary group ids of that process"),
    _row("lxc.execute.cmd", "execute_cmd", values.command, "COMMAND LINE",
         "command of an application container that is started without one"),
    _list("lxc.environment", "environment", _item(partial(entries.variable, "all")),
          "NAME[=VALUE]", "environment variable of init, execs and hooks"),
    _list("lxc.environment.runtime", "environment", _item(partial(entries.variable, "runtime")),
          "NAME[=VALUE]", "environment variable of init and execs"),
    _list("lxc.environment.hooks", "environment", _item(partial(entries.variable, "hooks")),
          "NAME[=VALUE]", "environment variable of hooks", live=False),

    _list("lxc.idmap", "idmap", _item(entries.id_mapping), "u|g FIRST HOST COUNT",
          "range of ids of a user namespace: first in the container, first on the host, how many"),
    _list("lxc.namespace.clone", "namespace_clone", _simple(values.namespace), "NAME…",
          "the only namespaces that are made", words=True, choices=_ns),
    _list("lxc.namespace.keep", "namespace_keep", _simple(values.namespace), "NAME…",
          "namespaces that stay lxcd's own", words=True, choices=_ns),
    _map("lxc.namespace.share.", "namespace_share", entries.share, "CONTAINER|PID|PATH",
         "whose namespace of that kind to join: net, ipc or uts"),
    _row("lxc.time.offset.boot", "time_offset_boot_ns", values.time_offset, "NUMBER UNIT",
         "how far the container's boot time clock is ahead: h m s ms us ns"),
    _row("lxc.time.offset.monotonic", "time_offset_monotonic_ns", values.time_offset,
         "NUMBER UNIT", "how far the container's monotonic clock is ahead: h m s ms us ns"),

    _flag("lxc.no_new_privs", "no_new_privs", "setuid programs give no privileges (prctl(2))"),
    _flag("lxc.keyring.session", "keyring_disable_session",
          "1: share the session keyring instead of making a new one"),
    _map("lxc.prlimit.", "prlimits", entries.resource_limit, "SOFT[:HARD]|unlimited",
         "limit of setrlimit(2) by its name in lower case"),
    _map("lxc.sysctl.", "sysctls", entries.sysctl, "TEXT",
         "kernel parameter of sysctl(8), written within the container's namespaces"),
    _map("lxc.proc.", "procs", entries.proc, "TEXT",
         "file below /proc/PID of init, written from outside"),
    _flag("lxc.sched.core", "sched_core", "share no processor core with strangers"),

    _row("lxc.signal.halt", "signal_halt", values.signal_number, "SIGNAL",
         "asks init to halt; default SIGPWR, SIGRTMIN+3 for systemd", choices=_signals),
    _row("lxc.signal.reboot", "signal_reboot", values.signal_number, "SIGNAL",
         "asks init to reboot; default SIGINT", choices=_signals),
    _row("lxc.signal.stop", "signal_stop", values.signal_number, "SIGNAL",
         "ends the container at once; default SIGKILL", choices=_signals),

    _flag("lxc.start.auto", "start_auto", "start with lxcd", live=False),
    _row("lxc.start.delay", "start_delay_seconds", _count, "SECONDS",
         "how long to wait after the start of this container", default="0", live=False),
    _row("lxc.start.order", "start_order", values.number(-values.LARGEST_INT, values.LARGEST_INT),
         "NUMBER", "small numbers start first", default="0", live=False),
    _list("lxc.group", "groups", _simple(values.plain), "NAME…",
          "groups that the container belongs to", words=True),
    _flag("lxc.ephemeral", "ephemeral", "delete the container when it stops"),

    _row("lxc.cgroup.dir", "cgroup_dir", values.beneath, "PATH", "cgroup of the container"),
    _row("lxc.cgroup.dir.container", "cgroup_dir_container", values.beneath, "PATH",
         "cgroup of the container, apart from the monitor's"),
    _row("lxc.cgroup.dir.container.inner", "cgroup_dir_container_inner", values.beneath, "PATH",
         "cgroup below that, the root of the container's cgroup namespace"),
    _row("lxc.cgroup.dir.monitor", "cgroup_dir_monitor", values.beneath, "PATH",
         "cgroup of LXC's monitor", live=False),
    _row("lxc.cgroup.dir.monitor.pivot", "cgroup_dir_monitor_pivot", values.beneath, "PATH",
         "cgroup where LXC's monitor goes at the end", live=False),
    _flag("lxc.cgroup.relative", "cgroup_relative", "make cgroups below lxcd's own"),
    Key("lxc.cgroup.", "list", "cgroups", _named(partial(entries.cgroup, 1)), "TEXT",
        "file of a version 1 cgroup; not in LXC 7.0"),
    Key("lxc.cgroup2.", "list", "cgroups", _named(partial(entries.cgroup, 2)), "TEXT",
        "file of a version 2 cgroup; devices.allow and devices.deny also"),

    *(_list(f"lxc.hook.{kind}", "hooks", _item(partial(entries.hook, kind)), "COMMAND LINE",
            f"command to run at {kind}", live=False) for kind in HOOKS),
    _row("lxc.hook.version", "hook_version", values.number(0, 1), "0|1",
         "0: hooks get arguments; 1: variables", default="0", live=False, choices=FLAG),

    _row("lxc.apparmor.profile", "apparmor_profile", values.plain,
         "NAME|generated|unconfined|unchanged", "AppArmor profile of the container", live=False,
         choices=("generated", "unconfined", "unchanged")),
    _flag("lxc.apparmor.allow_incomplete", "apparmor_allow_incomplete",
          "start though the kernel's AppArmor knows no mounts", live=False),
    _flag("lxc.apparmor.allow_nesting", "apparmor_allow_nesting",
          "let a generated profile allow containers within", live=False),
    _list("lxc.apparmor.raw", "apparmor_raw", _entry(values.plain), "LINE",
          "line to add to a generated profile", live=False),
    _row("lxc.selinux.context", "selinux_context", values.plain, "CONTEXT",
         "SELinux context of the container", live=False),
    _row("lxc.selinux.context.keyring", "selinux_context_keyring", values.plain, "CONTEXT",
         "SELinux context of its session keyring", live=False),
    _row("lxc.seccomp.profile", "seccomp_profile", values.some_path, "PATH",
         "file that says which system calls are refused", live=False),
    _flag("lxc.seccomp.allow_nesting", "seccomp_allow_nesting",
          "load it though a filter is there already", live=False),
    _row("lxc.seccomp.notify.proxy", "seccomp_notify_proxy", values.unix_socket, "unix:PATH",
         "who is asked about the system calls with the action notify", live=False),
    _row("lxc.seccomp.notify.cookie", "seccomp_notify_cookie", values.plain, "TEXT",
         "text that goes to it with each question", live=False),

    _row("lxc.log.level", "log_level", values.log_level, "0-8|NAME",
         "least importance of what LXC logs", live=False, choices=values.LOG_LEVELS),
    _row("lxc.log.file", "log_file", values.some_path, "PATH", "file for LXC's log", live=False),
    _row("lxc.log.syslog", "log_syslog", values.one_of(*values.SYSLOG), "FACILITY",
         "syslog facility for LXC's log", live=False, choices=values.SYSLOG),
    _flag("lxc.monitor.unshare", "monitor_unshare",
          "give LXC's monitor a mount namespace", live=False),
    _row("lxc.monitor.signal.pdeath", "monitor_signal_pdeath", values.signal_number, "SIGNAL",
         "what init gets when LXC's monitor dies", live=False, choices=_signals),
)
# fmt: on

_EXACT = {row.name: row for row in KEYS if not row.prefix}
_PREFIX = tuple(row for row in KEYS if row.prefix)
# An empty value clears everything behind it: `lxc.hook =`, `lxc.sysctl =`. (`lxc.net =`: see
# `nics`.)
FAMILIES = frozenset(row.family for row in KEYS if row.family != row.name)
# Misspelt, these would otherwise be files of a controller called "dir".
_NOT_CONTROLLERS = ("lxc.cgroup.dir.", "lxc.cgroup.relative.")


def find(name: str) -> Found | None:
    """Find the row of a key by its modern name; None if there is no such key."""
    row = _EXACT.get(name)
    if row is not None:
        return Found(row, name, "")
    if name.startswith(_NOT_CONTROLLERS):
        return None
    for row in _PREFIX:
        rest = name.removeprefix(row.name)
        if rest and rest != name:
            return Found(row, name, rest)
    return None
