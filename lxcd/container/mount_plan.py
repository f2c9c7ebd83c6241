"""The part of a plan that is mounts: root file system, /dev, automatic mounts, mount entries."""

from __future__ import annotations

from lxcd.config.model import DEFAULT, CgroupSetting, MountAuto, MountEntry, Rootfs
from lxcd.container import devices, mounts, resources, rootfs
from lxcd.container.draft import Draft, fail
from lxcd.container.fstab import MountOptions, parse_options
from lxcd.kernel import identity


class MountPlanner:
    """Adds mounts to a draft, in LXC's order: `rootfs`, then `below`."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._config = draft.config
        self._entries = [(entry, self._target(entry)) for entry in self._config.mount_entries]
        # Places of the container that a mount entry lies over.
        self.covered = {target for _, target in self._entries}
        # A /dev that the configuration binds in stays as it is: nothing is made in it.
        self.own_dev = self._config.autodev and "dev" not in self.covered

    def below(self) -> None:
        """All that lies below the root."""
        if self.own_dev:
            self._draft.add(
                devices.MakeDev(
                    origin=self._draft.origin("lxc.autodev"),
                    size_bytes=self._config.autodev_tmpfs_size_bytes,
                    bind="user" in self._draft.namespaces,
                )
            )
        autos = self._config.mount_auto + self._legacy_autos()
        self._auto(autos, ("proc", "sys"))
        for entry, target in self._entries:
            self._entry(entry, target)
        self._auto(autos, ("cgroup", "cgroup2", "cgroup-full"))

    def rootfs(self) -> None:
        """The root file system."""
        root = self._config.rootfs
        if root is None:
            # LXC without lxc.rootfs.path: the host's own root, in namespaces of its own.
            fd = self._draft.take(
                resources.TakeTree(origin=DEFAULT, step="rootfs", path="/", recursive=True)
            )
            # All that is mounted on the host is in it: what the host unmounts, as LXC has it too,
            # may not be busy because of that.
            self._attach(DEFAULT, fd, "/ (the host's own)", follow=True)
            return
        try:
            options = parse_options(root.options)
        except ValueError as error:
            raise fail("rootfs", self._draft.origin("lxc.rootfs.options"), str(error)) from None
        if root.kind == "dir" and not root.plain:
            fd = self._draft.take(self._directory(root, options))
        elif root.plain or root.kind in ("loop", "lvm"):
            fd = self._draft.take(
                resources.MountImage(
                    origin=root.origin,
                    step="rootfs",
                    path=root.path,
                    container=self._draft.life.name,
                    partition=root.partition,
                    options=options.filesystem,
                    set_=options.set_,
                    idmap=options.idmap,
                    directory=self._directory(root, options) if root.plain else None,
                )
            )
        elif root.kind == "overlay":
            fd = self._draft.take(self._overlay(root.path, options, root.origin))
        else:
            raise fail(
                "rootfs",
                root.origin,
                f"a root file system of type {root.kind} is not supported yet",
            )
        follow = root.kind == "dir" and not root.path.strip("/")
        self._attach(root.origin, fd, f"{root.kind}:{root.path}", follow=follow)

    def _attach(self, origin: str, fd: int, source: str, *, follow: bool = False) -> None:
        self._draft.add(rootfs.AttachRootfs(origin=origin, fd=fd, source=source, follow=follow))
        life = self._draft.life
        if life.application or life.idle or life.whole_fstab:
            return
        if self.covered & {"", "etc", "etc/fstab"} or _may_use_disks(self._config.cgroups):
            return
        devices = tuple(sorted(path for path in self.covered if path.startswith("dev/")))
        fit = resources.FitFstab(
            origin=DEFAULT, step="cover_fstab", rootfs=fd, devices=devices, optional=True
        )
        self._draft.add(mounts.CoverFstab(origin=DEFAULT, fd=self._draft.take(fit)))

    @staticmethod
    def _directory(root: Rootfs, options: MountOptions) -> resources.TakeDirectory:
        return resources.TakeDirectory(
            origin=root.origin,
            step="rootfs",
            path=root.path,
            # What is mounted below comes along, as with LXC's recursive bind.
            recursive=True,
            set_=options.set_,
            clear=options.clear,
            idmap=options.idmap,
        )

    def _overlay(self, path: str, options: MountOptions, origin: str) -> resources.MountOverlay:
        parts = path.split(":")
        if len(parts) < 2 or not all(parts):  # noqa: PLR2004
            raise fail("rootfs", origin, "an overlay is overlay:LOWER:UPPER")
        if options.idmap:
            raise fail(
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

    def _target(self, entry: MountEntry) -> str:
        """A mount entry's target below the container's root, without leading slash."""
        path = entry.target
        if path.startswith("/") and self._config.rootfs is not None:
            root = self._config.rootfs
            for above in (
                root.path if root.kind == "dir" else "",
                root.mount,
                f"{self._draft.life.directory}/rootfs",
            ):
                if above and (path == above or path.startswith(above.rstrip("/") + "/")):
                    path = path[len(above.rstrip("/")) :]
                    break
            else:
                text = f"mount target {path} is neither relative nor below the rootfs {root.path}"
                raise fail("mount_entry", entry.origin, text)
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise fail("mount_entry", entry.origin, f"mount target {entry.target} has a `..`")
        return "/".join(parts)

    def _legacy_autos(self) -> tuple[MountAuto, ...]:
        """lxc-init of the 0.7 era mounted /proc and the like itself where the configuration had
        not.
        """
        if not (self._draft.life.application and self._config.legacy):
            return ()
        asked = {auto.what for auto in self._config.mount_auto}
        words = [
            MountAuto(what=what, mode="mixed", force=False, arguments=(), origin=DEFAULT)
            for what in ("proc", "sys")
        ]
        return tuple(auto for auto in words if auto.what not in self.covered | asked)

    def _auto(self, autos: tuple[MountAuto, ...], kinds: tuple[str, ...]) -> None:
        for auto in autos:
            if auto.what not in kinds:
                continue
            if auto.what == "proc":
                self._draft.add(mounts.MountProc(origin=auto.origin, mode=auto.mode or "mixed"))
            elif auto.what == "sys":
                self._draft.add(mounts.MountSys(origin=auto.origin, mode=auto.mode or "mixed"))
            else:
                self._draft.add(
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
            mode = (
                "rw"
                if self._draft.capabilities is None or sys_admin in self._draft.capabilities
                else "mixed"
            )
        found: list[tuple[str, str | None, bool]] = []
        for directory, options in self._draft.host.hierarchies:
            if auto.what == "cgroup2" and options is not None:
                continue
            delegated = options is None or "name=" in options
            writable = mode == "rw" or (mode == "mixed" and delegated)
            # Without a namespace of its own it would see, and could write, the host's whole trees.
            found.append((directory, options, writable and "cgroup" in self._draft.namespaces))
        if auto.what == "cgroup2" and found:
            return (("", None, found[0][2]),)
        return tuple(found)

    def _entry(self, entry: MountEntry, target: str) -> None:
        try:
            options = parse_options(entry.options)
        except ValueError as error:
            raise fail("mount_entry", entry.origin, str(error)) from None
        bind = options.bind or options.move or entry.fstype in ("none", "bind", "auto", "")
        if options.relative and bind:
            self._draft.add(
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
            and not self._draft.host.filesystems.get(entry.fstype, True)
            and entry.fstype != "overlay"
        ):
            named = () if entry.source in ("none", "") else (("source", entry.source),)
            self._draft.add(
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
        fd = self._draft.take(self._source(entry, options, bind=bind))
        self._draft.add(
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


def _may_use_disks(settings: tuple[CgroupSetting, ...]) -> bool:
    """Whether a device rule gives the container block devices, to more than make nodes of."""
    for setting in settings:
        kind, *rest = setting.value.split() or ("",)
        access = rest[-1] if rest else "rwm"
        if setting.name == "devices.allow" and kind in ("a", "b") and set(access) & set("rw"):
            return True
    return False
