"""The image `host`: a full userland in milliseconds, with no download and none of the host's
secrets.

/usr is the host's own, read-only; where ids are mapped its files belong to nobody inside. All else
is the container's: a fresh /etc with what programs need to run, empty /root, /home, /var, /tmp. It
is written out as plain LXC configuration, which stock LXC (5.0 and later, for `idmap=container`)
starts as well.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.images.ranges import COUNT

if TYPE_CHECKING:
    from lxcd.config.model import ContainerConfig

NAME = "host"
_USR_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_DIRECTORIES = (
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
)
_USERS = (
    "root:x:0:0:root:/root:/bin/sh\n"
    "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
    "bin:x:2:2:bin:/bin:/usr/sbin/nologin\n"
    "sys:x:3:3:sys:/dev:/usr/sbin/nologin\n"
    "mail:x:8:8:mail:/var/mail:/usr/sbin/nologin\n"
    "www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
)
_GROUP = (
    "root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\nadm:x:4:\ntty:x:5:\ndisk:x:6:\nmail:x:8:\nwww-data:x:33:\n"
    "shadow:x:42:\nutmp:x:43:\nusers:x:100:\nnogroup:x:65534:\n"
)
_COPY_LIMIT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Skeleton:
    """What the root file system holds besides empty directories."""

    links: tuple[tuple[str, str], ...]  # path, where it points
    files: tuple[tuple[str, bytes, int], ...]  # path, content, mode


def skeleton(name: str) -> Skeleton:
    """Look at the host and decide. Reads files of the host; not on the event loop for a slow
    /etc.
    """
    links = [(word, os.readlink(f"/{word}")) for word in _USR_LINKS if os.path.islink(f"/{word}")]
    links += [
        ("var/run", "/run"),
        ("var/lock", "/run/lock"),
        ("etc/os-release", "../usr/lib/os-release"),
        ("etc/mtab", "../proc/self/mounts"),
    ]
    if os.path.islink("/etc/localtime"):
        links.append(("etc/localtime", os.readlink("/etc/localtime")))
    files = [
        ("etc/passwd", _USERS.encode(), 0o644),
        ("etc/group", _GROUP.encode(), 0o644),
        ("etc/shadow", b"root:*:19000:0:99999:7:::\n", 0o640),
        ("etc/hostname", f"{name}\n".encode(), 0o644),
        ("etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n".encode(), 0o644),
        ("etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n", 0o644),
        ("etc/resolv.conf", b"", 0o644),
        (
            "etc/profile",
            b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin\nexport PATH\n",
            0o644,
        ),
    ]
    for path in ("ld.so.cache", "ld.so.conf", "shells", "services", "protocols", "login.defs"):
        content = _read(f"/etc/{path}")
        if content is not None:
            files.append((f"etc/{path}", content, 0o644))
    for directory in ("ld.so.conf.d", "alternatives"):
        for word in _names(f"/etc/{directory}"):
            source, target = f"/etc/{directory}/{word}", f"etc/{directory}/{word}"
            if os.path.islink(source):
                links.append((target, os.readlink(source)))
            elif (content := _read(source)) is not None:
                files.append((target, content, 0o644))
    return Skeleton(tuple(links), tuple(files))


def build(path: str, wanted: Skeleton) -> None:
    """Make the root file system at `path`, which must not exist. Raises OSError."""
    # The root of a container that maps its ids must be enterable by them.
    os.mkdir(path, 0o755)
    for word, mode in _DIRECTORIES:
        os.mkdir(f"{path}/{word}", mode)
        os.chmod(f"{path}/{word}", mode)
    for where in _USR_LINKS:
        # A host whose /bin is a real directory has it bound in by the configuration.
        if os.path.isdir(f"/{where}") and not os.path.islink(f"/{where}"):
            os.mkdir(f"{path}/{where}", 0o755)
    for target, where in wanted.links:
        os.makedirs(os.path.dirname(f"{path}/{target}"), mode=0o755, exist_ok=True)
        os.symlink(where, f"{path}/{target}")
    for target, content, mode in wanted.files:
        os.makedirs(os.path.dirname(f"{path}/{target}"), mode=0o755, exist_ok=True)
        fd = os.open(f"{path}/{target}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)


def config_items(
    rootfs: str, first_id: int | None, own: ContainerConfig
) -> tuple[tuple[str, str], ...]:
    """The configuration of the image, but for what the container's `own` says itself."""
    items: list[tuple[str, str]] = []
    if first_id is not None:
        items.append(("lxc.idmap", f"u 0 {first_id} {COUNT}"))
        items.append(("lxc.idmap", f"g 0 {first_id} {COUNT}"))
    items.append(("lxc.rootfs.path", f"dir:{rootfs}"))
    if own.idmap or first_id is not None:
        items.append(("lxc.rootfs.options", "idmap=container"))
    # Its ids are never mapped: read-only is a flag that the root of the container's own mount
    # namespace can take off, and with mapped ids the host's files would then be its own.
    items.extend(
        ("lxc.mount.entry", f"/{word} {word} none bind,ro,nodev 0 0")
        for word in ("usr", *_USR_LINKS)
        if os.path.isdir(f"/{word}") and not os.path.islink(f"/{word}")
    )
    items.append(("lxc.mount.entry", "tmpfs run tmpfs nosuid,nodev,mode=755 0 0"))
    items.append(("lxc.mount.entry", "tmpfs dev/shm tmpfs nosuid,nodev,create=dir 0 0"))
    if not own.mount_auto:
        items.append(("lxc.mount.auto", "proc:mixed sys:mixed cgroup:mixed"))
    return tuple(items)


def _read(path: str) -> bytes | None:
    """A small regular file of the host that everybody may read; anything else is not for a
    container.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or not found.st_mode & stat.S_IROTH:
            return None
        content = file.read(_COPY_LIMIT_BYTES + 1)
    return content if len(content) <= _COPY_LIMIT_BYTES else None


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []
