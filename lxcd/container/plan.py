"""The plan of a start: a pure function from a configuration and facts about the host to everything
that will be done.

The order is LXC's (lxc_spawn, do_start, lxc_setup), with a place for what comes later:

    clocks · barrier identity (id maps) · barrier limits (prlimit, /proc/PID) · [barrier network]
    cgroup namespace · hostname · keyring · core scheduling · lo [pre-mount hooks] · root file
    system · /dev · proc, sys · fstab and mount entries · cgroups · [mount, autodev hooks] devpts ·
    console and ttys · sysctls · pivot_root · personality · capabilities [LSM label] · no_new_privs
    · [seccomp] · [start hooks] · [barrier ready: device program, start-host hooks] · exec
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.config.model import DEFAULT, ContainerConfig, MountAuto, MountEntry
from lxcd.container import credentials, devices, mounts, namespaces, resources, rootfs
from lxcd.container.fstab import MountOptions, parse_options
from lxcd.container.spec import Spec, Step
from lxcd.kernel import identity, process

if TYPE_CHECKING:
    from collections.abc import Mapping

# Barriers, in the order in which a child reaches them.
IDENTITY = "identity"
LIMITS = "limits"

_ALWAYS = ("mnt", "pid", "uts", "ipc", "cgroup", "net")
# Namespaces that clone3 makes at the fork; cgroup and time come as steps, when the child sits where
# it will stay.
_LATER = ("cgroup", "time")
_DEVPTS_DEFAULT_MAX = 1024
_TTY_GROUP = 5
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ARCHITECTURES_32 = {"i686", "i386", "x86", "armv7l", "arm", "mips", "ppc"}


@dataclass(frozen=True, slots=True)
class Host:
    """What a plan has to know of the host."""

    machine: str  # uname -m
    last_capability: int
    filesystems: Mapping[str, bool]  # type -> needs a device
    # (directory below /sys/fs/cgroup, mount options of version 1 or None for version 2)
    hierarchies: tuple[tuple[str, str | None], ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Life:
    """What this one start asks for beyond the configuration."""

    name: str
    directory: str  # LXCPATH/NAME: a target below its `rootfs` is one of the container's
    command: tuple[str, ...] = ()
    application: bool = False  # `command` (or lxc.execute.cmd) runs under the reaping PID 1
    pipes: bool = False  # standard streams are pipes instead of the console
    # Nothing to run unless lxc.init.cmd says so: the reaping PID 1 alone (the image `host`).
    idle: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """All of a start. Indexes of descriptors in `spec` are places in `resources`."""

    namespaces: tuple[str, ...]
    flags: int  # of clone3
    resources: tuple[resources.Resource, ...]
    spec: Spec
    capabilities: tuple[int, ...] | None  # all that any process of it may have; None: not limited
    command: tuple[str, ...]


def compile_plan(config: ContainerConfig, host: Host, life: Life) -> Plan:
    """Compile. Raises StartFailed for a configuration that cannot be carried out, with its line."""
    return _Compiler(config, host, life).plan()


def chosen_namespaces(config: ContainerConfig) -> tuple[str, ...]:
    """Which namespaces the container gets of its own."""
    if config.namespace_clone is not None:
        chosen = set(config.namespace_clone)
    else:
        chosen = set(_ALWAYS)
        if config.time_offset_boot_ns or config.time_offset_monotonic_ns:
            chosen.add("time")
        # lxc.namespace.share is not in force yet; one of its own is what separates.
        chosen -= set(config.namespace_keep)
    if config.idmap:
        chosen.add("user")
    if "mnt" not in chosen:
        raise _fail(
            "namespaces",
            config.origin("lxc.namespace.keep"),
            "a container needs a mount namespace of its own",
        )
    return tuple(name for name in process.NAMESPACES if name in chosen)


def kept_capabilities(config: ContainerConfig, last: int) -> tuple[int, ...] | None:
    """Capabilities that the container may have; None where the configuration says nothing of
    them.
    """
    every = range(last + 1)
    if config.cap_keep is not None:
        kept = {identity.capability_number(entry.value) for entry in config.cap_keep}
        return tuple(number for number in every if number in kept)
    if config.cap_drop:
        dropped = {identity.capability_number(entry.value) for entry in config.cap_drop}
        return tuple(number for number in every if number not in dropped)
    return None


def _fail(step: str, origin: str, text: str) -> errors.StartFailed:
    return errors.StartFailed(f"{origin}: {text}", step=step, origin=origin, index="-1")


class _Compiler:
    """Collects steps and resources in order. One use."""

    def __init__(self, config: ContainerConfig, host: Host, life: Life) -> None:
        self.config = config
        self.host = host
        self.life = life
        self.namespaces = chosen_namespaces(config)
        self.capabilities = kept_capabilities(config, host.last_capability)
        self.unprivileged = "user" in self.namespaces
        self.steps: list[Step] = []
        self.resources: list[resources.Resource] = []
        self.entries = [(entry, self._target(entry)) for entry in config.mount_entries]

    def plan(self) -> Plan:
        """Walk the order once."""
        self._identity()
        self._names()
        self._rootfs()
        covered = {target for _, target in self.entries}
        if self.config.autodev and "dev" not in covered:
            self._add(
                devices.MakeDev(
                    origin=self._origin("lxc.autodev"),
                    size_bytes=self.config.autodev_tmpfs_size_bytes,
                    bind=self.unprivileged,
                )
            )
        autos = self.config.mount_auto + self._legacy_autos(covered)
        self._auto(autos, ("proc", "sys"))
        for entry, target in self.entries:
            self._entry(entry, target)
        self._auto(autos, ("cgroup", "cgroup2", "cgroup-full"))
        self._terminals(covered)
        for setting in self.config.sysctls:
            self._add(
                credentials.WriteSysctl(
                    origin=setting.origin, key=setting.name, value=setting.value
                )
            )
        self._add(rootfs.PivotRoot(origin=DEFAULT))
        self._add(rootfs.ShareMounts(origin=DEFAULT))
        self._rights()
        execute = self._execute()
        self._add(execute)
        flags = 0
        for name in self.namespaces:
            flags |= 0 if name in _LATER else process.NAMESPACES[name]
        return Plan(
            namespaces=self.namespaces,
            flags=flags,
            resources=tuple(self.resources),
            spec=Spec(self.life.name, tuple(self.steps)),
            capabilities=self.capabilities,
            command=execute.argv,
        )

    def _add(self, step: Step) -> None:
        self.steps.append(step)

    def _origin(self, key: str) -> str:
        return self.config.origin(key)

    def _take(self, resource: resources.Resource) -> int:
        self.resources.append(resource)
        return len(self.resources) - 1

    # ---- before the root file system

    def _identity(self) -> None:
        config = self.config
        if "time" in self.namespaces:
            # Before the ids change: /proc/self of a process that is not dumpable belongs to the
            # host's root.
            origin = self._origin("lxc.time.offset.monotonic")
            if origin == DEFAULT:
                origin = self._origin("lxc.time.offset.boot")
            self._add(
                namespaces.OffsetClocks(
                    origin=origin,
                    monotonic_ns=config.time_offset_monotonic_ns,
                    boot_ns=config.time_offset_boot_ns,
                )
            )
        if self.unprivileged:
            origin = config.idmap[0].origin if config.idmap else self._origin("lxc.namespace.clone")
            for kind, what in (("u", "user"), ("g", "group")):
                if not any(m.kind == kind and m.first == 0 and m.count > 0 for m in config.idmap):
                    raise _fail(
                        "identity",
                        origin,
                        f"lxc.idmap maps no {what} 0: the container would have no root",
                    )
            self._add(
                namespaces.Barrier(origin=origin, barrier=IDENTITY, why="id maps, idmapped mounts")
            )
            self._add(namespaces.BecomeRoot(origin=origin))
        outside = [limit.origin for limit in config.prlimits]
        outside += [setting.origin for setting in config.procs]
        if outside:
            self._add(
                namespaces.Barrier(
                    origin=outside[0], barrier=LIMITS, why="resource limits, /proc/PID"
                )
            )

    def _names(self) -> None:
        config = self.config
        if "cgroup" in self.namespaces:
            self._add(namespaces.UnshareCgroups(origin=DEFAULT))
        if "uts" in self.namespaces:
            self._add(
                namespaces.SetHostname(
                    origin=self._origin("lxc.uts.name"), hostname=config.uts_name or self.life.name
                )
            )
        if not config.keyring_disable_session:
            self._add(namespaces.NewKeyring(origin=DEFAULT))
        if config.sched_core:
            self._add(namespaces.NewCoreCookie(origin=self._origin("lxc.sched.core")))
        if "net" in self.namespaces:
            self._add(namespaces.LoopbackUp(origin=DEFAULT))

    def _rootfs(self) -> None:
        root = self.config.rootfs
        if root is None:
            # LXC without lxc.rootfs.path: the host's own root, in namespaces of its own.
            fd = self._take(
                resources.TakeTree(origin=DEFAULT, step="rootfs", path="/", recursive=True)
            )
            self._add(rootfs.AttachRootfs(origin=DEFAULT, fd=fd, source="/ (the host's own)"))
            return
        try:
            options = parse_options(root.options)
        except ValueError as error:
            raise _fail("rootfs", self._origin("lxc.rootfs.options"), str(error)) from None
        if root.kind == "dir":
            fd = self._take(
                resources.TakeDirectory(
                    origin=root.origin,
                    step="rootfs",
                    path=root.path,
                    # What is mounted below comes along, as with LXC's recursive bind.
                    recursive=True,
                    set_=options.set_,
                    clear=options.clear,
                    idmap=options.idmap,
                )
            )
        elif root.kind == "overlay":
            fd = self._take(self._overlay(root.path, options, root.origin))
        else:
            raise _fail(
                "rootfs",
                root.origin,
                f"a root file system of type {root.kind} is not supported yet",
            )
        self._add(rootfs.AttachRootfs(origin=root.origin, fd=fd, source=f"{root.kind}:{root.path}"))

    def _overlay(self, path: str, options: MountOptions, origin: str) -> resources.MountOverlay:
        parts = path.split(":")
        if len(parts) < 2 or not all(parts):  # noqa: PLR2004
            raise _fail("rootfs", origin, "an overlay is overlay:LOWER:UPPER")
        if options.idmap:
            raise _fail(
                "rootfs",
                origin,
                "idmap= of an overlay is not supported: overlayfs cannot be idmapped itself",
            )
        upper = parts[-1].rstrip("/")
        # LXC keeps the work directory beside the upper one, by this name.
        work = upper.rpartition("/")[0] + "/olwork"
        # Upper layers come last in LXC's text, topmost first in the kernel's.
        lower = tuple(reversed(parts[:-1]))
        return resources.MountOverlay(
            origin=origin,
            step="rootfs",
            lower=lower,
            upper=upper,
            work=work,
            options=options.filesystem,
            set_=options.set_,
        )

    # ---- mounts

    def _target(self, entry: MountEntry) -> str:
        """A mount entry's target below the container's root, without leading slash."""
        path = entry.target
        if path.startswith("/") and self.config.rootfs is not None:
            root = self.config.rootfs
            for above in (
                root.path if root.kind == "dir" else "",
                root.mount,
                f"{self.life.directory}/rootfs",
            ):
                if above and (path == above or path.startswith(above.rstrip("/") + "/")):
                    path = path[len(above.rstrip("/")) :]
                    break
            else:
                text = f"mount target {path} is neither relative nor below the rootfs {root.path}"
                raise _fail("mount_entry", entry.origin, text)
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise _fail("mount_entry", entry.origin, f"mount target {entry.target} has a `..`")
        return "/".join(parts)

    def _legacy_autos(self, covered: set[str]) -> tuple[MountAuto, ...]:
        """lxc-init of the 0.7 era mounted /proc and the like itself where the configuration had
        not.
        """
        if not (self.life.application and self.config.legacy):
            return ()
        asked = {auto.what for auto in self.config.mount_auto}
        words = [
            MountAuto(what=what, mode="mixed", force=False, arguments=(), origin=DEFAULT)
            for what in ("proc", "sys")
        ]
        return tuple(auto for auto in words if auto.what not in covered | asked)

    def _auto(self, autos: tuple[MountAuto, ...], kinds: tuple[str, ...]) -> None:
        for auto in autos:
            if auto.what not in kinds:
                continue
            if auto.what == "proc":
                self._add(mounts.MountProc(origin=auto.origin, mode=auto.mode or "mixed"))
            elif auto.what == "sys":
                self._add(mounts.MountSys(origin=auto.origin, mode=auto.mode or "mixed"))
            else:
                self._add(
                    mounts.MountCgroups(origin=auto.origin, hierarchies=self._hierarchies(auto))
                )

    def _hierarchies(self, auto: MountAuto) -> tuple[tuple[str, str | None, bool], ...]:
        """Which are writable inside. `mixed`: only those that hold no limit, so that none can be
        lifted from inside: version 1's `name=systemd`, and version 2, whose limits stand above what
        is delegated.
        """
        mode = auto.mode
        if not mode:
            sys_admin = identity.capability_number("sys_admin")
            mode = "rw" if self.capabilities is None or sys_admin in self.capabilities else "mixed"
        found = []
        for directory, options in self.host.hierarchies:
            if auto.what == "cgroup2" and options is not None:
                continue
            delegated = options is None or "name=" in options
            writable = mode == "rw" or (mode == "mixed" and delegated)
            # Without a namespace of its own it would see, and could write, the host's whole trees.
            found.append((directory, options, writable and "cgroup" in self.namespaces))
        if auto.what == "cgroup2" and found:
            return (("", None, found[0][2]),)
        return tuple(found)

    def _entry(self, entry: MountEntry, target: str) -> None:
        try:
            options = parse_options(entry.options)
        except ValueError as error:
            raise _fail("mount_entry", entry.origin, str(error)) from None
        bind = options.bind or options.move or entry.fstype in ("none", "bind", "auto", "")
        if options.relative and bind:
            self._add(
                mounts.MountBeneath(
                    origin=entry.origin,
                    source=entry.source.strip("/"),
                    target=target,
                    create=options.create,
                    optional=options.optional,
                    set_=options.set_,
                    clear=options.clear,
                    recursive=options.recursive,
                    move=options.move,
                    propagation=options.propagation,
                )
            )
            return
        if (
            not bind
            and not self.host.filesystems.get(entry.fstype, True)
            and entry.fstype != "overlay"
        ):
            named = () if entry.source in ("none", "") else (("source", entry.source),)
            self._add(
                mounts.MountFilesystem(
                    origin=entry.origin,
                    fstype=entry.fstype,
                    options=(*named, *options.filesystem),
                    attributes=options.set_,
                    target=target,
                    create=options.create,
                    optional=options.optional,
                    propagation=options.propagation,
                )
            )
            return
        fd = self._take(self._source(entry, options, bind=bind))
        self._add(
            mounts.MountTree(
                origin=entry.origin,
                fd=fd,
                source=entry.source,
                target=target,
                create=options.create,
                optional=options.optional,
                propagation=options.propagation,
                recursive=options.propagation_recursive,
            )
        )

    def _source(
        self, entry: MountEntry, options: MountOptions, *, bind: bool
    ) -> resources.Resource:
        step = "mount_entry"
        if bind:
            return resources.TakeTree(
                origin=entry.origin,
                step=step,
                path=entry.source,
                recursive=options.recursive,
                set_=options.set_,
                clear=options.clear,
                optional=options.optional,
                idmap=options.idmap,
            )
        if entry.fstype == "overlay":
            named = dict(options.filesystem)
            extra = tuple(
                item
                for item in options.filesystem
                if item[0] not in ("lowerdir", "upperdir", "workdir")
            )
            return resources.MountOverlay(
                origin=entry.origin,
                step=step,
                lower=tuple((named.get("lowerdir") or "").split(":")),
                upper=named.get("upperdir") or "",
                work=named.get("workdir") or "",
                options=extra,
                set_=options.set_,
                optional=options.optional,
            )
        return resources.MountDevice(
            origin=entry.origin,
            step=step,
            fstype=entry.fstype,
            source=entry.source,
            options=options.filesystem,
            set_=options.set_,
            optional=options.optional,
            idmap=options.idmap,
        )

    # ---- terminals

    def _terminals(self, covered: set[str]) -> None:
        config = self.config
        console = config.console_path != "none"
        origin = self._origin("lxc.pty.max")
        own_dev = config.autodev and "dev" not in covered
        visible = "dev/pts" not in covered and (own_dev or config.pty_max > 0)
        if visible or console or config.tty_max:
            self._add(
                devices.MountDevpts(
                    origin=origin,
                    max=(config.pty_max or _DEVPTS_DEFAULT_MAX) + config.tty_max + 1,
                    gid=_TTY_GROUP,
                    visible=visible,
                )
            )
        if console or config.tty_max:
            self._add(
                devices.OpenTerminals(
                    origin=self._origin("lxc.tty.max"),
                    console=console,
                    ttys=config.tty_max,
                    directory=config.tty_dir,
                )
            )
        if not console:
            self._add(devices.NoTerminal(origin=self._origin("lxc.console.path")))
        if self.life.pipes:
            self._add(devices.OpenPipes(origin=DEFAULT))

    # ---- rights and the program

    def _rights(self) -> None:
        config = self.config
        if config.arch is not None:
            persona = self._persona(config.arch)
            if persona is not None:
                self._add(
                    credentials.SetPersonality(
                        origin=self._origin("lxc.arch"), persona=persona, arch=config.arch
                    )
                )
        if self.capabilities is not None:
            entries = config.cap_keep or config.cap_drop
            origin = entries[0].origin if entries else self._origin("lxc.cap.keep")
            self._add(
                credentials.LimitCapabilities(
                    origin=origin, keep=self.capabilities, last=self.host.last_capability
                )
            )
        if config.no_new_privs:
            self._add(credentials.NoNewPrivs(origin=self._origin("lxc.no_new_privs")))

    def _persona(self, arch: str) -> int | None:
        wide = self.host.machine not in _ARCHITECTURES_32
        narrow = arch in _ARCHITECTURES_32 or arch == "linux32"
        return credentials.PERSONALITIES["linux32"] if wide and narrow else None

    def _execute(self) -> credentials.Execute:
        config, life = self.config, self.life
        if life.command:
            argv, origin = life.command, "command"
        elif life.application:
            argv, origin = config.execute_cmd, self._origin("lxc.execute.cmd")
            if not argv:
                raise _fail("exec", origin, "no command was given, and lxc.execute.cmd is not set")
        elif life.idle and self._origin("lxc.init.cmd") == DEFAULT:
            argv, origin = (), DEFAULT
        else:
            argv, origin = config.init_cmd, self._origin("lxc.init.cmd")
        return credentials.Execute(
            origin=origin,
            argv=argv,
            environment=tuple(
                initial_environment(config, self.host, application=life.application).items()
            ),
            cwd=config.init_cwd or "/",
            uid=config.init_uid,
            gid=config.init_gid,
            groups=config.init_groups,
            reaper=life.application or not argv,
        )


def initial_environment(
    config: ContainerConfig, host: Host, *, application: bool
) -> dict[str, str]:
    """What init, or the command of an application container, finds in its environment."""
    found = {"container": "lxc"}
    if application:
        home = "/root" if config.init_uid == 0 else "/"
        found |= {"PATH": _PATH, "HOME": home, "TERM": "linux", "LANG": "C.UTF-8"}
    for variable in config.environment:
        if variable.scope == "hooks":
            continue
        if variable.value is not None:
            found[variable.name] = variable.value
        elif variable.name in host.environment:
            found[variable.name] = host.environment[variable.name]
    return found


def without_optional(plan: Plan, missing: set[int]) -> Plan:
    """The same plan where optional resources could not be opened: their steps say so and mount
    nothing.

    Indexes move up; `missing` are those of `plan`.
    """
    places: dict[int, int] = {}
    for index in range(len(plan.resources)):
        places[index] = -1 if index in missing else len([i for i in places.values() if i >= 0])
    steps: list[Step] = []
    for step in plan.spec.steps:
        if isinstance(step, mounts.MountTree | rootfs.AttachRootfs):
            steps.append(replace(step, fd=places[step.fd]))
        else:
            steps.append(step)
    kept = tuple(resource for index, resource in enumerate(plan.resources) if index not in missing)
    return replace(plan, resources=kept, spec=replace(plan.spec, steps=tuple(steps)))
