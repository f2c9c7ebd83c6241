"""Every key in force that mounts something: /dev, terminals, mount.auto, mount.entry, rootfs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.system import roots
from tests.system.boxes import IDMAP, KERNEL_MOUNTS, Box, Refused, box, busybox_up, defined, over
from tests.system.host import Host

pytestmark = pytest.mark.vm

Start = Callable[..., AbstractContextManager[Box]]


@pytest.fixture
def start(shared_host: Host, busybox_root: Path) -> Start:
    """Start a busybox container with these lines; /proc and /sys are theirs."""
    return lambda *lines: box(
        shared_host, over(shared_host, busybox_root) + "\n".join(lines) + "\n"
    )


@pytest.fixture
def shared(shared_host: Host, request: pytest.FixtureRequest) -> Path:
    """A directory of the host for a container to see."""
    place = shared_host.root / f"shared-{request.node.name.translate({91: 45, 93: 45, 47: 45})}"
    (place / "below").mkdir(parents=True)
    (place / "file").write_text("from the host\n")
    return place


def _refused(host: Host, root: Path, *lines: str) -> Refused:
    with defined(host, over(host, root) + "\n".join(lines) + "\n") as made:
        with pytest.raises(Refused) as caught:
            made.start()
        assert caught.value.reason == "START_FAILED", caught.value
        assert made.info().pid == 0
        return caught.value


def _options(made: Box, target: str) -> str:
    """Options of the topmost mount on a place, as /proc/mounts has them."""
    found = [line.split() for line in made.sh("cat /proc/self/mounts").splitlines()]
    return [line[3] for line in found if line[1] == target][-1]


# /dev and terminals


def test_autodev_makes_dev_a_tmpfs_with_the_usual_nodes(start: Start) -> None:
    with start(KERNEL_MOUNTS) as made:
        assert made.sh("stat -f -c %T /dev") == "tmpfs"
        for name in ("null", "zero", "full", "random", "urandom", "tty", "console", "ptmx"):
            assert made.sh(f"test -c /dev/{name} && echo yes") == "yes", name
        assert made.sh("readlink /dev/fd; readlink /dev/stdin") == "/proc/self/fd\n/proc/self/fd/0"
        assert made.sh("stat -c %t:%T /dev/null") == "1:3"


def test_autodev_tmpfs_size(start: Start) -> None:
    with start(KERNEL_MOUNTS, "lxc.autodev.tmpfs.size = 1048576") as made:
        blocks, size = made.sh("stat -f -c '%b %S' /dev").split()
        assert int(blocks) * int(size) == 1048576
        assert "No space" in made.fails("dd if=/dev/zero of=/dev/big bs=64k count=17")


def test_without_autodev_the_root_s_own_dev_is_seen(start: Start) -> None:
    with start(KERNEL_MOUNTS, "lxc.autodev = 0") as made:
        assert made.sh("stat -f -c %T /dev") != "tmpfs"
        assert made.sh("ls /dev") == "pts\nshm"


def test_a_root_whose_ptmx_is_a_link_starts_without_autodev(
    shared_host: Host, busybox_root: Path
) -> None:
    # As every root that was made for LXC 0.7: the article has it, and devpts's own documentation recommends it.
    root = roots.copy(busybox_root, shared_host.root / "ptmx")
    (root / "dev/ptmx").symlink_to("pts/ptmx")
    config = f"lxc.rootfs.path = {root}\nlxc.autodev = 0\nlxc.pty.max = 8\n{KERNEL_MOUNTS}"
    with box(shared_host, config) as made:
        assert made.sh("ls /dev/pts").split()[-1] == "ptmx"
        assert made.sh("test -c /dev/ptmx && echo yes") == "yes"


def test_pty_max_limits_the_ptys(start: Start) -> None:
    with start(KERNEL_MOUNTS, "lxc.pty.max = 7", "lxc.tty.max = 2") as made:
        # The console and the ttys are ptys of the same file system, and are not taken from the 7.
        assert "max=10" in _options(made, "/dev/pts").split(",")
        assert "ptmxmode=666" in _options(made, "/dev/pts")


def test_tty_max_and_console_are_terminals_with_a_log_of_their_own(start: Start) -> None:
    with start(KERNEL_MOUNTS, "lxc.tty.max = 3") as made:
        busybox_up(made)
        made.sh("echo one > /dev/tty2; echo two > /dev/tty3; echo three > /dev/console")
        made.shows("one", stream="tty2")
        made.shows("two", stream="tty3")
        made.shows("three")
        assert b"one" not in made.log("tty3")
        assert made.sh("test -e /dev/tty4 || echo none") == "none"
        assert {"console", "tty1", "tty2", "tty3"} == set(made.info().streams)


def test_tty_dir_holds_the_terminals_and_links_stay(start: Start) -> None:
    with start(KERNEL_MOUNTS, "lxc.tty.max = 2", "lxc.tty.dir = lxc") as made:
        assert made.sh("readlink /dev/tty1; readlink /dev/tty2") == "lxc/tty1\nlxc/tty2"
        assert made.sh("ls /dev/lxc") == "console\ntty1\ntty2"
        made.sh("echo hello > /dev/lxc/tty2; echo again > /dev/tty2")
        made.shows("hello", "again", stream="tty2")


def test_console_path_none_means_no_console(start: Start) -> None:
    with start(KERNEL_MOUNTS, "lxc.console.path = none", "lxc.init.cmd = /bin/sleep 1000") as made:
        assert made.sh("stat -L -c %t:%T /proc/1/fd/0 /proc/1/fd/1") == "1:3\n1:3"
        assert "console" not in made.info().streams


# lxc.mount.auto

_READ_ONLY = "Read-only file system"


def _open_for_writing(place: str) -> str:
    """A script that opens and writes nothing: most of /proc and /sys is the host's own, and one byte may act on it."""
    return f": >> {place}"


def test_mount_auto_proc_mixed(start: Start) -> None:
    with start("lxc.mount.auto = proc:mixed") as made:
        assert _READ_ONLY in made.fails("echo mine > /proc/sys/kernel/domainname")
        if Path("/proc/sysrq-trigger").exists():  # not with every kernel
            assert _READ_ONLY in made.fails(_open_for_writing("/proc/sysrq-trigger"))
        assert made.sh("echo 1 > /proc/sys/net/ipv4/ip_forward; cat /proc/sys/net/ipv4/ip_forward")


def test_mount_auto_proc_rw(start: Start) -> None:
    with start("lxc.mount.auto = proc:rw") as made:
        made.sh("echo mine > /proc/sys/kernel/domainname")
        assert made.sh("cat /proc/sys/kernel/domainname") == "mine"


@pytest.mark.parametrize(
    ("mode", "queue", "net"), [("mixed", False, True), ("ro", False, False), ("rw", True, True)]
)
def test_mount_auto_sys(start: Start, mode: str, *, queue: bool, net: bool) -> None:
    places = {
        "/sys/kernel/mm/transparent_hugepage/enabled": queue,
        "/sys/devices/virtual/net/lo/tx_queue_len": net,
    }
    with start(f"lxc.mount.auto = proc sys:{mode}") as made:
        for place, writable in places.items():
            done = made.run("/bin/sh", "-c", _open_for_writing(place))
            assert (done.exit.code == 0) == writable, (place, done.stderr)
            assert (_READ_ONLY.encode() in done.stderr) != writable, (place, done.stderr)


@pytest.mark.parametrize("tree", ["cgroup", "cgroup-full"])
@pytest.mark.parametrize("mode", ["mixed", "ro", "rw"])
def test_mount_auto_cgroup(start: Start, tree: str, mode: str) -> None:
    with start(f"lxc.mount.auto = proc sys {tree}:{mode}") as made:
        mounts = [line.split() for line in made.sh("cat /proc/self/mounts").splitlines()]
        trees = {m[1]: m for m in mounts if m[2] in ("cgroup", "cgroup2")}
        assert trees
        for place, fields in trees.items():
            delegated = fields[2] == "cgroup2" or "name=" in fields[3]
            writable = mode == "rw" or (mode == "mixed" and delegated)
            if writable:
                made.sh(f"mkdir {place}/mine && rmdir {place}/mine")
            else:
                assert _READ_ONLY in made.fails(f"mkdir {place}/mine")


@pytest.mark.vm(short=True)
def test_mount_auto_cgroup2_is_the_unified_tree(start: Start) -> None:
    with start("lxc.mount.auto = proc sys cgroup2") as made:
        assert made.sh("stat -f -c %t /sys/fs/cgroup") == "63677270"  # CGROUP2_SUPER_MAGIC
        made.sh("mkdir /sys/fs/cgroup/mine && rmdir /sys/fs/cgroup/mine")
    with start("lxc.mount.auto = proc sys cgroup2:ro") as made:
        assert _READ_ONLY in made.fails("mkdir /sys/fs/cgroup/mine")


def test_cgroup_without_a_mode_is_mixed_where_sys_admin_is_dropped(start: Start) -> None:
    with start("lxc.mount.auto = proc sys cgroup", "lxc.cap.drop = sys_admin") as made:
        places = [line.split() for line in made.sh("cat /proc/self/mounts").splitlines()]
        limits = [p for p in places if p[2] == "cgroup" and "name=" not in p[3]]
        assert all("ro" in p[3].split(",") for p in limits)


def test_a_root_without_proc_and_sys_directories_starts(
    shared_host: Host, busybox_root: Path
) -> None:
    root = roots.copy(busybox_root, shared_host.root / "procsys")
    for name in ("proc", "sys", "dev"):
        for below in (root / name).glob("*"):
            below.rmdir()
        (root / name).rmdir()
    config = f"lxc.rootfs.path = {root}\nlxc.mount.auto = proc:mixed sys:mixed cgroup:mixed\n"
    with box(shared_host, config) as made:
        assert made.sh("cat /proc/version").startswith("Linux")
        assert "fs" in made.sh("ls /sys").split()


# lxc.mount.entry


def _entry(source: Path | str, target: str, options: str, fstype: str = "none") -> str:
    return f"lxc.mount.entry = {source} {target} {fstype} {options} 0 0"


def test_bind_shows_the_host_s_directory_and_writes_through(start: Start, shared: Path) -> None:
    with start(KERNEL_MOUNTS, _entry(shared, "mnt", "bind")) as made:
        assert made.sh("cat /mnt/file") == "from the host"
        made.sh("echo back > /mnt/answer")
    assert (shared / "answer").read_text() == "back\n"


def test_bind_takes_one_mount_and_rbind_what_is_below(
    start: Start, shared: Path, shared_host: Host
) -> None:
    shared_host.machine.run("mount", "-t", "tmpfs", "none", str(shared / "below"))
    try:
        shared_host.machine.run("touch", str(shared / "below/deep"))
        with start(KERNEL_MOUNTS, _entry(shared, "mnt", "bind")) as made:
            assert made.sh("ls /mnt/below") == ""
        with start(KERNEL_MOUNTS, _entry(shared, "mnt", "rbind,ro")) as made:
            assert made.sh("ls /mnt/below") == "deep"
            assert _READ_ONLY in made.fails("touch /mnt/x")
            assert _READ_ONLY in made.fails("touch /mnt/below/x")
    finally:
        shared_host.machine.run("umount", str(shared / "below"))


def test_ro_nosuid_nodev_noexec_are_in_force(start: Start, shared: Path) -> None:
    with start(KERNEL_MOUNTS, _entry(shared, "mnt", "bind,ro,nosuid,nodev,noexec")) as made:
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(_options(made, "/mnt").split(","))
        assert _READ_ONLY in made.fails("touch /mnt/x")
        assert "ermission denied" in made.fails("/mnt/file")


def test_create_makes_directories_and_files(start: Start, shared: Path) -> None:
    lines = (
        _entry(shared, "srv/a/b", "bind,create=dir"),
        _entry(shared / "file", "srv/c/d", "bind,create=file"),
    )
    with start(KERNEL_MOUNTS, *lines) as made:
        assert made.sh("cat /srv/a/b/file /srv/c/d") == "from the host\nfrom the host"


def test_optional_passes_over_what_is_missing(start: Start, shared: Path) -> None:
    lines = (
        _entry(shared / "missing", "mnt", "bind,optional"),
        _entry(shared, "no/such/target", "bind,optional"),
        _entry(shared, "home", "bind,optional"),
    )
    with start(KERNEL_MOUNTS, *lines) as made:
        assert made.sh("cat /home/file") == "from the host"
        assert made.sh("test -e /no || echo none") == "none"


@pytest.mark.parametrize(
    ("source", "target", "side"), [("missing", "mnt", "source"), ("", "no/such", "target")]
)
def test_without_optional_a_missing_end_fails_with_its_line(
    shared_host: Host, busybox_root: Path, shared: Path, source: str, target: str, side: str
) -> None:
    refused = _refused(shared_host, busybox_root, _entry(shared / source, target, "bind"))
    assert refused.metadata["errno"] == "ENOENT"
    assert refused.metadata["origin"].endswith("config:2")


def test_relative_takes_its_source_from_the_container(start: Start) -> None:
    with start(KERNEL_MOUNTS, _entry("etc/inittab", "mnt/x", "bind,relative,create=file")) as made:
        assert made.sh("cat /mnt/x") == made.sh("cat /etc/inittab")


def test_a_file_system_without_device_is_made_inside(start: Start) -> None:
    line = _entry("tmpfs", "mnt", "size=64k,mode=700,nosuid", "tmpfs")
    with start(KERNEL_MOUNTS, line) as made:
        assert made.sh("stat -f -c %T /mnt") == "tmpfs"
        assert made.sh("stat -c %a /mnt") == "700"
        assert "size=64k" in _options(made, "/mnt")


def test_idmap_container_shifts_a_bind(shared_host: Host, busybox_root: Path, shared: Path) -> None:
    root = roots.copy(busybox_root, shared_host.root / "shifted")
    config = (
        f"lxc.rootfs.path = {root}\nlxc.rootfs.options = idmap=container\n{IDMAP}{KERNEL_MOUNTS}"
        f"{_entry(shared, 'mnt', 'bind,idmap=container')}\n{_entry(shared, 'home', 'bind')}\n"
    )
    with box(shared_host, config) as made:
        assert made.sh("stat -c %u /mnt/file /home/file") == "0\n65534"
        made.sh("touch /mnt/new")
        assert "ermission denied" in made.fails("touch /home/new")
    assert (shared / "new").stat().st_uid == 0


def test_idmap_shifts_what_is_mounted_below_as_well(
    shared_host: Host, busybox_root: Path, shared: Path
) -> None:
    root = roots.copy(busybox_root, shared_host.root / "shifted-below")
    other = shared_host.root / "other"
    other.mkdir()
    (other / "deep").touch()
    config = (
        f"lxc.rootfs.path = {root}\nlxc.rootfs.options = idmap=container\n{IDMAP}{KERNEL_MOUNTS}"
        f"{_entry(shared, 'home', 'rbind,idmap=container')}\n"
    )
    below = (root / "mnt", shared / "below")
    try:
        for place in below:
            shared_host.machine.run("mount", "--bind", str(other), str(place))
        with box(shared_host, config) as made:
            assert made.sh("stat -c %u /home/file /home/below/deep /mnt/deep") == "0\n0\n0"
            made.sh("touch /mnt/new")
    finally:
        for place in below:
            shared_host.machine.run("umount", "--lazy", str(place), check=False)
    assert (other / "new").stat().st_uid == 0


def test_what_cannot_be_shifted_below_is_said(shared_host: Host, busybox_root: Path) -> None:
    root = roots.copy(busybox_root, shared_host.root / "not-shifted")
    config = f"lxc.rootfs.path = {root}\nlxc.rootfs.options = idmap=container\n{IDMAP}"
    shared_host.machine.run("mount", "-t", "proc", "proc", str(root / "proc"))
    try:
        with defined(shared_host, config) as made:
            with pytest.raises(Refused) as caught:
                made.start()
            assert "not possible there, or of what is mounted below" in caught.value.text
            assert caught.value.metadata["syscall"] == "mount_setattr"
    finally:
        shared_host.machine.run("umount", str(root / "proc"))


@pytest.mark.parametrize("target", ["mnt/link", "mnt/up/dir", "mnt/host", "mnt/proc"])
def test_a_symlink_in_the_target_is_refused(
    shared_host: Host, busybox_root: Path, shared: Path, target: str
) -> None:
    root = roots.copy(busybox_root, shared_host.root / f"links-{target.replace('/', '-')}")
    (root / "mnt/dir").mkdir()
    (root / "mnt/link").symlink_to("dir")
    (root / "mnt/up").symlink_to("../mnt")
    (root / "mnt/host").symlink_to(shared_host.root)
    (root / "mnt/proc").symlink_to("/proc")
    config = f"lxc.rootfs.path = {root}\n{_entry(shared, target, 'bind')}\n"
    with defined(shared_host, config) as made:
        with pytest.raises(Refused) as caught:
            made.start()
        assert caught.value.metadata["errno"] == "ELOOP", caught.value
        assert caught.value.metadata["step"] == "mount_tree"
        # lxc-test-symlink: an absolute target below the rootfs, no link in it, is fine.
        path = made.directory / "config"
        path.write_text(path.read_text().replace(f" {target} ", f" {root}/mnt/dir "))
        made.start()
        assert made.sh("cat /mnt/dir/file") == "from the host"


def test_a_symlink_as_the_target_of_a_file_is_refused(
    shared_host: Host, busybox_root: Path, shared: Path
) -> None:
    root = roots.copy(busybox_root, shared_host.root / "links-file")
    (root / "mnt/link").symlink_to("/etc/inittab")
    config = f"lxc.rootfs.path = {root}\n{_entry(shared / 'file', 'mnt/link', 'bind')}\n"
    with defined(shared_host, config) as made:
        with pytest.raises(Refused) as caught:
            made.start()
        assert caught.value.metadata["errno"] == "ELOOP", caught.value


def test_fstab_is_read_before_the_entries(start: Start, shared: Path) -> None:
    fstab = shared.with_name(f"{shared.name}.fstab")
    fstab.write_text(
        f"# a comment\n\ntmpfs mnt tmpfs size=64k 0 0\n{shared} mnt/in none bind,create=dir 0 0\n"
    )
    lines = (f"lxc.mount.fstab = {fstab}", _entry(shared, "mnt/in/below", "bind"))
    with start(KERNEL_MOUNTS, *lines) as made:
        assert made.sh("cat /mnt/in/file /mnt/in/below/file") == "from the host\nfrom the host"


# lxc.rootfs.*


def test_an_overlay_keeps_changes_in_its_upper_layer(
    start: Start, shared_host: Host, busybox_root: Path
) -> None:
    with start(KERNEL_MOUNTS) as made:
        made.sh("echo changed > /etc/mine; rm /etc/profile")
        assert made.sh("stat -f -c %t /") == "794c7630"  # OVERLAYFS_SUPER_MAGIC
    upper = shared_host.root / "upper/box/delta"
    assert (upper / "etc/mine").read_text() == "changed\n"
    assert not (busybox_root / "etc/mine").exists()
    assert (busybox_root / "etc/profile").exists()


def test_rootfs_options_ro(shared_host: Host, busybox_root: Path) -> None:
    config = f"lxc.rootfs.path = {busybox_root}\nlxc.rootfs.options = ro\n{KERNEL_MOUNTS}"
    with box(shared_host, config, "box", "/bin/sleep", "1000") as made:
        assert _READ_ONLY in made.fails("touch /root/x")
        assert "ro" in _options(made, "/").split(",")
        made.sh("touch /dev/x")
