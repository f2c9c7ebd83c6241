"""The plan of a start: a pure function from a configuration and facts about the host to everything
that will be done.

The order is LXC's (lxc_spawn, do_start, lxc_setup), with a place for what comes later:

    [join shared namespaces, make the others] · (id maps, from outside) · fork · clocks
    barrier limits (prlimit, /proc/PID)
    cgroup namespace · hostname · keyring · core scheduling · lo
    [pre-mount hooks] · root file system · its /etc/fstab · /dev · proc, sys
    fstab and mount entries · cgroups · [mount, autodev hooks]
    devpts · console and ttys · barrier network · sysctls · pivot_root
    personality · capabilities · [LSM label] · guard · no_new_privs · [seccomp] · [start hooks]
    barrier ready [device program, start-host hooks] · exec
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.config.model import DEFAULT, ContainerConfig, Nic
from lxcd.container import credentials, devices, namespaces, resources, rootfs
from lxcd.container.draft import Draft, Host, Life, fail
from lxcd.container.mount_plan import MountPlanner
from lxcd.container.spec import Spec
from lxcd.kernel import identity, process, seccomp

if TYPE_CHECKING:
    from lxcd.container.calls import Program

__all__ = ["Host", "Life", "Plan", "compile_plan"]

# Barriers, in the order in which a child reaches them.
IDENTITY = "identity"  # only where namespaces are shared; else the id maps are there before
LIMITS = "limits"
NETWORK = "network"
READY = "ready"

_ALWAYS: tuple[str, ...] = ("mnt", "pid", "uts", "ipc", "cgroup", "net")
# Namespaces that come as steps, once it is known which container a prepared child becomes, and it
# sits where it will stay; all others are made with the child.
_LATER = ("cgroup", "time", "pid")
SHAREABLE = ("net", "ipc", "uts")
_DEVPTS_DEFAULT_MAX = 1024
_TTY_GROUP = 5
_HOSTNAME = 64  # __NEW_UTS_LEN
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The clock, the kernel's modules, ports (of the hardware clock, too), rules of security modules:
# what common.conf of LXC drops.
_HOSTS = ("sys_time", "sys_module", "sys_rawio", "mac_admin", "mac_override")
_ARCHITECTURES_32 = {"i686", "i386", "x86", "armv7l", "arm", "mips", "ppc"}


@dataclass(frozen=True, slots=True)
class Plan:
    """All of a start. Indexes of descriptors in `spec` are places in `resources`."""

    namespaces: tuple[str, ...]
    flags: int  # of clone3
    resources: tuple[resources.Resource, ...]
    spec: Spec
    program: Program  # what the child is told of the spec
    capabilities: tuple[int, ...] | None  # all that any process of it may have; None: not limited
    command: tuple[str, ...]
    barriers: dict[str, int]  # which there are, and the index of the step that waits there
    streams: tuple[str, ...]  # terminals and pipes that the keeper gets of it

    @property
    def identity_later(self) -> bool:
        """The id maps are written at a barrier, not before the walk."""
        return IDENTITY in self.barriers


def compile_plan(config: ContainerConfig, host: Host, life: Life) -> Plan:
    """Compile. Raises StartFailed for a configuration that cannot be carried out, with its line.

    One with an error in it is not carried out either: a rootfs that could not be understood would
    else be the host's own.
    """
    for problem in config.problems:
        if problem.severity == "error":
            raise fail("config", problem.origin, problem.message)
    return _Compiler(config, host, life).plan()


def chosen_namespaces(config: ContainerConfig) -> tuple[str, ...]:
    """Which namespaces the container gets of its own."""
    if config.namespace_clone is not None:
        chosen: set[str] = set(config.namespace_clone)
    else:
        chosen = set(_ALWAYS)
        if config.time_offset_boot_ns or config.time_offset_monotonic_ns:
            chosen.add("time")
        chosen -= set(config.namespace_keep)
    for share in config.namespace_share:
        if share.namespace not in SHAREABLE:
            key, can = f"lxc.namespace.share.{share.namespace}", ", ".join(SHAREABLE)
            raise fail("namespaces", share.origin, f"{key}: only {can} can be shared")
        chosen.discard(share.namespace)
    if any(nic.kind == "none" for nic in config.nics):
        chosen.discard("net")
    if config.idmap:
        chosen.add("user")
    if "mnt" not in chosen:
        raise fail(
            "namespaces",
            next(
                (
                    line.origin
                    for line in config.lines
                    if line.name in ("lxc.namespace.keep", "lxc.namespace.clone")
                ),
                DEFAULT,
            ),
            "a container needs a mount namespace of its own",
        )
    return tuple(name for name in process.NAMESPACES if name in chosen)


def _option(nic: Nic, name: str) -> str:
    return next((one.value for one in nic.options if one.name == name), "")


def kept_capabilities(config: ContainerConfig, last: int) -> tuple[int, ...] | None:
    """Capabilities that the container may have; None: any.

    Without a word of them, and without a user namespace, these are not those with which it would
    change what has no namespace: see `_HOSTS`. `lxc.cap.drop =` with nothing behind it is a word.
    """
    every = range(last + 1)
    if config.cap_keep is not None:
        kept = {identity.capability_number(entry.value) for entry in config.cap_keep}
        return tuple(number for number in every if number in kept)
    if config.cap_drop:
        dropped = {identity.capability_number(entry.value) for entry in config.cap_drop}
        return tuple(number for number in every if number not in dropped)
    silent = not any(line.name in ("lxc.cap.drop", "lxc.cap.keep") for line in config.lines)
    if silent and "user" not in chosen_namespaces(config):
        dropped = {identity.capability_number(name) for name in _HOSTS}
        return tuple(number for number in every if number not in dropped)
    return None


def is_guarded(namespaces: tuple[str, ...], capabilities: tuple[int, ...] | None) -> bool:
    """Whether a container has CAP_SYS_ADMIN of the host, and not by `lxc.cap.drop =`: who gives it
    every capability has said that it may change the host. Not on a machine whose system calls have
    numbers that are not known here.
    """
    admin = identity.capability_number("sys_admin")
    if not seccomp.is_known():
        return False
    return "user" not in namespaces and capabilities is not None and admin in capabilities


def is_shared(config: ContainerConfig) -> bool:
    """Whether it sees a file system which is not its own: its root's, or one that is bound in. A
    plain path may turn out to be an image; it counts as a directory.
    """
    root = config.rootfs
    bound = any(
        entry.source.startswith("/") and "relative" not in entry.options
        for entry in config.mount_entries
    )
    return root is None or root.kind == "dir" or bound


def persona_of(arch: str, machine: str) -> int | None:
    """What personality(2) shows a 64-bit kernel as `arch`; None where nothing has to be done."""
    wide = machine not in _ARCHITECTURES_32
    narrow = arch in _ARCHITECTURES_32 or arch == "linux32"
    return credentials.PERSONALITIES["linux32"] if wide and narrow else None


class _Compiler:
    """Fills a draft in order. One use."""

    def __init__(self, config: ContainerConfig, host: Host, life: Life) -> None:
        self.draft = Draft(
            config,
            host,
            life,
            chosen_namespaces(config),
            kept_capabilities(config, host.last_capability),
        )

    def plan(self) -> Plan:
        """Walk the order once."""
        draft = self.draft
        flags = 0
        for name in draft.namespaces:
            flags |= 0 if name in _LATER else process.NAMESPACES[name]
        flags = self._shares(flags)
        self._identity()
        self._names()
        mounting = MountPlanner(draft)
        mounting.rootfs()
        mounting.below()
        self._terminals(mounting)
        self._network()
        for setting in draft.config.sysctls:
            draft.add(
                credentials.WriteSysctl(
                    origin=setting.origin, key=setting.name, value=setting.value
                )
            )
        draft.add(rootfs.PivotRoot(origin=DEFAULT))
        draft.add(rootfs.ShareMounts(origin=DEFAULT))
        self._rights()
        execute = self._execute()
        draft.add(
            namespaces.Barrier(
                origin=DEFAULT, barrier=READY, why="what it holds is held here too, cgroups are its"
            )
        )
        draft.add(execute)
        if any(version is None for _, version in draft.host.hierarchies):
            # Its cgroup comes behind all that is opened for it.
            kinds = [type(step) for step in draft.steps]
            draft.steps[kinds.index(namespaces.Fork)] = self._fork(len(draft.resources))
        spec = Spec(tuple(draft.steps))
        return Plan(
            namespaces=draft.namespaces,
            flags=flags,
            resources=tuple(draft.resources),
            spec=spec,
            # And its cgroup of version 2.
            program=spec.compile(len(draft.resources) + 1),
            capabilities=draft.capabilities,
            command=execute.argv,
            barriers={
                step.barrier: index
                for index, step in enumerate(spec.steps)
                if isinstance(step, namespaces.Barrier)
            },
            streams=tuple(name for step in spec.steps for name in step.streams),
        )

    # ---- before the root file system

    def _shares(self, flags: int) -> int:
        """Join what is shared; what the spawn shall make then, as flags of clone3."""
        draft, mapped = self.draft, "user" in self.draft.namespaces
        for share in draft.config.namespace_share:
            fd = draft.take(
                resources.TakeNamespace(
                    step=namespaces.ShareNamespace.name,
                    origin=share.origin,
                    path=draft.life.shared.get(share.namespace, ""),
                    kind=process.NAMESPACES[share.namespace],
                )
            )
            draft.add(
                namespaces.ShareNamespace(
                    origin=share.origin, fd=fd, namespace=share.namespace, whose=share.target
                )
            )
        if not draft.config.namespace_share or not mapped:
            return flags
        made = tuple(name for name in draft.namespaces if name not in _LATER)
        draft.add(namespaces.MakeNamespaces(origin=DEFAULT, namespaces=made))
        draft.add(namespaces.Barrier(origin=DEFAULT, barrier=IDENTITY, why="id maps"))
        return 0

    def _identity(self) -> None:
        config = self.draft.config
        self.draft.add(self._fork(-1))
        if "time" in self.draft.namespaces:
            # Before the ids change: /proc/self of a process that is not dumpable belongs to the
            # host's root.
            origin = self.draft.origin("lxc.time.offset.monotonic")
            if origin == DEFAULT:
                origin = self.draft.origin("lxc.time.offset.boot")
            self.draft.add(
                namespaces.OffsetClocks(
                    origin=origin,
                    monotonic_ns=config.time_offset_monotonic_ns,
                    boot_ns=config.time_offset_boot_ns,
                )
            )
        if "user" in self.draft.namespaces:
            origin = (
                config.idmap[0].origin if config.idmap else self.draft.origin("lxc.namespace.clone")
            )
            for kind, what in (("u", "user"), ("g", "group")):
                if not any(m.kind == kind and m.first == 0 and m.count > 0 for m in config.idmap):
                    raise fail(
                        "identity",
                        origin,
                        f"lxc.idmap maps no {what} 0: the container would have no root",
                    )
            self.draft.add(namespaces.BecomeRoot(origin=origin))
        outside = [limit.origin for limit in config.prlimits]
        outside += [setting.origin for setting in config.procs]
        if outside:
            self.draft.add(
                namespaces.Barrier(
                    origin=outside[0], barrier=LIMITS, why="resource limits, /proc/PID"
                )
            )

    def _fork(self, fd: int) -> namespaces.Fork:
        has_pid = "pid" in self.draft.namespaces
        return namespaces.Fork(origin=DEFAULT, fd=fd, pid_namespace=has_pid)

    def _names(self) -> None:
        config = self.draft.config
        if "cgroup" in self.draft.namespaces:
            self.draft.add(namespaces.UnshareCgroups(origin=DEFAULT))
        if "uts" in self.draft.namespaces:
            self.draft.add(
                namespaces.SetHostname(
                    origin=self.draft.origin("lxc.uts.name"),
                    hostname=config.uts_name or self.draft.life.name[:_HOSTNAME],
                )
            )
        if not config.keyring_disable_session:
            self.draft.add(namespaces.NewKeyring(origin=DEFAULT))
        if config.sched_core:
            self.draft.add(namespaces.NewCoreCookie(origin=self.draft.origin("lxc.sched.core")))
        if "net" in self.draft.namespaces:
            self.draft.add(namespaces.LoopbackUp(origin=DEFAULT))

    def _network(self) -> None:
        """Devices are made from outside, meanwhile; what is set below /proc/sys/net is set when
        they are there.
        """
        nics = [nic for nic in self.draft.config.nics if nic.kind != "none"]
        scripted = {"script.up", "script.down"}
        made = [n for n in nics if n.kind != "empty" or scripted & {one.name for one in n.options}]
        if made and "net" in self.draft.namespaces:
            links = {nic.index: _option(nic, "link") for nic in made}
            words = [f"{n.kind} on {links[n.index]}" if links[n.index] else n.kind for n in made]
            why = f"network devices: {', '.join(words)}"
            self.draft.add(namespaces.Barrier(origin=made[0].origin, barrier=NETWORK, why=why))

    # ---- terminals

    def _terminals(self, mounting: MountPlanner) -> None:
        config = self.draft.config
        console = config.console_path != "none"
        origin = self.draft.origin("lxc.pty.max")
        own = mounting.own_dev or config.pty_max > 0
        visible = own and "dev/pts" not in mounting.covered
        if visible or console or config.tty_max:
            self.draft.add(
                devices.MountDevpts(
                    origin=origin,
                    max=(config.pty_max or _DEVPTS_DEFAULT_MAX) + config.tty_max + 1,
                    gid=_TTY_GROUP,
                    visible=visible,
                )
            )
        if console or config.tty_max:
            self.draft.add(
                devices.OpenTerminals(
                    origin=self.draft.origin("lxc.tty.max"),
                    console=console,
                    ttys=config.tty_max,
                    directory=config.tty_dir,
                    history_bytes=config.console_buffer_size_bytes,
                )
            )
        if not console:
            self.draft.add(devices.NoTerminal(origin=self.draft.origin("lxc.console.path")))
        if self.draft.life.pipes:
            self._pipes()

    def _pipes(self) -> None:
        life = self.draft.life
        kinds: dict[str, int] = {}
        for name in ("stdin", "stdout", "stderr"):
            if name in life.given:
                given = resources.Given(step=devices.OpenPipes.name, origin=DEFAULT, stream=name)
                kinds[name] = self.draft.take(given)
            else:
                piped = name != "stdin" or life.stdin
                kinds[name] = devices.PIPE if piped else devices.NULL
        self.draft.add(
            devices.OpenPipes(
                origin=DEFAULT,
                stdin=kinds["stdin"],
                stdout=kinds["stdout"],
                stderr=kinds["stderr"],
            )
        )

    # ---- rights and the program

    def _rights(self) -> None:
        config = self.draft.config
        if config.arch is not None:
            persona = persona_of(config.arch, self.draft.host.machine)
            if persona is not None:
                self.draft.add(
                    credentials.SetPersonality(
                        origin=self.draft.origin("lxc.arch"), persona=persona, arch=config.arch
                    )
                )
        if self.draft.capabilities is not None:
            entries = config.cap_keep or config.cap_drop
            origin = entries[0].origin if entries else self.draft.origin("lxc.cap.keep")
            self.draft.add(
                credentials.LimitCapabilities(
                    origin=origin,
                    keep=self.draft.capabilities,
                    last=self.draft.host.last_capability,
                )
            )
        if is_guarded(self.draft.namespaces, self.draft.capabilities):
            self.draft.add(credentials.GuardHost(origin=DEFAULT, remounts=is_shared(config)))
        if config.no_new_privs:
            self.draft.add(credentials.NoNewPrivs(origin=self.draft.origin("lxc.no_new_privs")))

    def _execute(self) -> credentials.Execute:
        config, life = self.draft.config, self.draft.life
        if life.command:
            argv, origin = life.command, "command"
        elif life.application:
            argv, origin = config.execute_cmd, self.draft.origin("lxc.execute.cmd")
            if not argv:
                raise fail("exec", origin, "no command was given, and lxc.execute.cmd is not set")
        elif life.idle and self.draft.origin("lxc.init.cmd") == DEFAULT:
            argv, origin = (), DEFAULT
        else:
            argv, origin = config.init_cmd, self.draft.origin("lxc.init.cmd")
        return credentials.Execute(
            origin=origin,
            argv=argv,
            environment=tuple(
                initial_environment(config, self.draft.host, application=life.application).items()
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
