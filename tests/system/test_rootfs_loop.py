"""A disk image as root file system: whatever is in it, it boots, and the host has nothing of it afterwards."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxcd.kernel import loop
from lxcd.kernel.fd import Fd
from lxcd.storage import claim
from lxcd.v1 import container_pb2, types_pb2
from tests.article import RESOURCES
from tests.system import calls, images, roots
from tests.system.boxes import IDMAP, KERNEL_MOUNTS, box, busybox_up, defined, generation_runs
from tests.system.calls import IDLE
from tests.system.host import Host
from tests.system.images import Filler
from tests.system.machine import until
from tests.system.tracer import at_call

LINUX = Filler("ext4")
BOOT = Filler("vfat", "EF")
_LOOP_CTL_REMOVE = 0x4C81


def config(path: Path | str, options: str = "", kind: str = "loop:") -> str:
    """Of a container whose root is in this image."""
    more = f"lxc.rootfs.options = {options}\n" if options else ""
    return f"lxc.rootfs.path = {kind}{path}\n{more}{KERNEL_MOUNTS}"


@pytest.fixture
def image(host: Host, busybox_root: Path) -> Path:
    """As the article's: a disk of two partitions, the second one is the root."""
    path = host.root / "vm.img"
    return images.disk(host, path, "dos", (Filler("swap", "82"), LINUX), busybox_root)


@pytest.mark.parametrize("kind", images.WITH_ROOT)
def test_a_file_system_over_the_whole_file(host: Host, busybox_root: Path, kind: str) -> None:
    path = images.filesystem(host, kind, busybox_root, host.root / "vm.img")
    read_only = kind in ("squashfs", "erofs")
    with defined(host, config(path)) as made:
        made.start(*IDLE)
        assert made.sh("grep ' / ' /proc/mounts").split()[2] == kind
        (device,) = images.attached(host)
        assert made.sh("cut -d' ' -f1 /proc/mounts | grep loop") == f"/dev/{device}"
        if not read_only:
            made.sh("echo written > /root/note; sync")
        made.stop(kill=True)
        images.none_attached(host)
        made.start(*IDLE)
        if not read_only:
            assert made.sh("cat /root/note") == "written"
        else:
            assert "Read-only" in made.fails("touch /root/note")


@pytest.mark.parametrize("label", ["dos", "gpt"])
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_partition_of_a_disk(host: Host, busybox_root: Path, label: str, kind: str) -> None:
    parts = (Filler("ext4"), Filler(kind))
    path = images.disk(host, host.root / "vm.img", label, parts, busybox_root)
    with box(host, config(path, "partition=2"), "box", *IDLE) as made:
        assert made.sh("grep ' / ' /proc/mounts").split()[2] == kind
        assert made.sh("ls /") == made.sh("ls /proc/1/root")
        made.sh("touch /root/note")
    images.none_attached(host)


@pytest.mark.parametrize("number", [1, 5, 6])
def test_a_logical_partition(host: Host, busybox_root: Path, number: int) -> None:
    parts = [Filler("ext4"), *[Filler("")] * 2, Filler("ext2"), Filler("ext3")]
    path = images.disk(host, host.root / "vm.img", "dos", parts, busybox_root)
    with box(host, config(path, f"partition={number}"), "box", *IDLE) as made:
        kind = {1: "ext4", 5: "ext2", 6: "ext3"}[number]
        assert made.sh("grep ' / ' /proc/mounts").split()[2] == kind


@pytest.mark.parametrize("kind", ["loop:", ""])
def test_the_one_linux_partition_needs_no_number(host: Host, image: Path, kind: str) -> None:
    with box(host, config(image, kind=kind)) as made:
        busybox_up(made)
        assert made.sh("cat /etc/inittab | wc -l") != "0"
        made.stop()
    images.none_attached(host)


def test_gpt_s_type_of_a_root_says_which_of_two_it_is(host: Host, busybox_root: Path) -> None:
    machine = os.uname().machine
    kind = {"x86_64": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"}.get(
        machine, "B921B045-1DF0-41C3-AF44-4C6F280D3FAE"
    )
    parts = (Filler("ext3"), Filler("ext4", kind))
    path = images.disk(host, host.root / "vm.img", "gpt", parts, busybox_root)
    with box(host, config(path), "box", *IDLE) as made:
        assert made.sh("grep ' / ' /proc/mounts").split()[2] == "ext4"


def test_ro_writes_nothing_to_the_image(host: Host, image: Path) -> None:
    before = image.read_bytes()
    image.chmod(0o444)
    with box(host, config(image, "partition=2,ro,noatime"), "box", *IDLE) as made:
        words = made.sh("grep ' / ' /proc/mounts").split()[3].split(",")
        assert {"ro", "noatime"} <= set(words)
        assert "Read-only" in made.fails("touch /root/note")
        made.fails("mount -o remount,rw /")
    images.none_attached(host)
    assert image.read_bytes() == before


def test_ids_are_shifted_in_an_image_as_in_a_directory(host: Host, image: Path) -> None:
    text = config(image, "partition=2,idmap=container") + IDMAP
    with box(host, text, "box", *IDLE) as made:
        made.sh("touch /root/note && chown 7:8 /root/note")
        assert made.sh("stat -c %u:%g /root/note /etc") == "7:8\n0:0"
        made.stop(kill=True)
    with box(host, config(image, "partition=2"), "plain", *IDLE) as made:
        assert made.sh("stat -c %u:%g /root/note") == "7:8"


def test_a_block_device_and_its_partition(host: Host, image: Path, busybox_root: Path) -> None:
    whole = images.filesystem(host, "ext4", busybox_root, host.root / "fs.img")
    for file, options in ((whole, ""), (image, "partition=2")):
        device = images.run("losetup", "--find", "--show", file).strip()
        try:
            for kind in ("", "lvm:"):
                with box(host, config(device, options, kind), "box", *IDLE) as made:
                    made.sh("touch /root/note")
        finally:
            images.run("losetup", "--detach", device)
    images.none_attached(host)


def test_a_partition_that_the_host_has_mounted_as_well(host: Host, image: Path) -> None:
    device = images.run("losetup", "--partscan", "--find", "--show", image).strip()
    name = f"{device.removeprefix('/dev/')}p2"
    place, node = host.root / "place", host.root / "node"
    place.mkdir()
    try:
        # This kernel reads no tables.
        images.run("partx", "--update", device)
        major, minor = Path(f"/sys/class/block/{name}/dev").read_text().split(":")
        os.mknod(node, 0o060600, os.makedev(int(major), int(minor)))
        host.machine.run("mount", str(node), str(place))
        with box(host, config(device, kind="lvm:"), "box", *IDLE) as made:
            made.sh("echo in > /root/note")
            assert host.machine.run("cat", f"{place}/root/note").stdout.strip() == "in"
            host.machine.run("touch", f"{place}/root/host")
            assert made.sh("ls /root") == "host\nnote"
            images.not_busy(host, place)
            made.sh("touch /root/more")
    finally:
        host.machine.run("umount", "--lazy", str(place), check=False)
        images.run("losetup", "--detach", device)
    images.none_attached(host)


def test_a_managed_image_in_the_container_s_directory_goes_with_it(host: Host, image: Path) -> None:
    own = host.lxcpath / "box/rootdev"
    with defined(host, config(own)) as made:
        image.rename(own)
        made.start(*IDLE)
        made.stop(kill=True)
        made.delete()
        assert not own.exists()


def test_an_image_elsewhere_is_left_alone(host: Host, image: Path) -> None:
    with defined(host, config(image)) as made:
        assert made.delete().kept_rootfs == str(image)
    assert image.exists()


def test_two_containers_may_have_two_partitions_and_read_one(
    host: Host, busybox_root: Path
) -> None:
    path = images.disk(host, host.root / "vm.img", "gpt", (LINUX, LINUX), busybox_root)
    with (
        box(host, config(path, "partition=1"), "one", *IDLE) as one,
        box(host, config(path, "partition=2,ro"), "two", *IDLE),
        box(host, config(path, "partition=2,ro"), "three", *IDLE) as three,
    ):
        one.sh("touch /root/note")
        three.fails("ls /root/note")
        assert len(list(images.attached(host))) == 3


def test_many_may_read_one_file_system(host: Host, busybox_root: Path) -> None:
    path = images.filesystem(host, "squashfs", busybox_root, host.root / "vm.img")
    with (
        box(host, config(path), "one", *IDLE) as one,
        box(host, config(path, "ro"), "two", *IDLE) as two,
        box(host, config(path, kind=""), "three", *IDLE) as three,
    ):
        assert one.sh("ls /etc") == two.sh("ls /etc") == three.sh("ls /etc")


def test_copies_of_an_image_run_side_by_side(host: Host, busybox_root: Path) -> None:
    # The same UUID in all, which xfs and btrfs do not like.
    for kind in ("xfs", "btrfs"):
        first = images.filesystem(host, kind, busybox_root, host.root / f"{kind}-1.img")
        second = roots.copy(first, host.root / f"{kind}-2.img")
        with (
            box(host, config(first), "one", *IDLE) as one,
            box(host, config(second), "two", *IDLE) as two,
        ):
            one.sh("echo one > /root/note")
            two.sh("echo two > /root/note")
            assert one.sh("cat /root/note") == "one"


def loop_numbers() -> set[int]:
    return {int(path.name.removeprefix("loop")) for path in Path("/sys/block").glob("loop*")}


@pytest.fixture
def loop_devices() -> Iterator[set[int]]:
    """Those there are. What is made beside them goes again: the kernel would keep it."""
    before = loop_numbers()
    yield before
    with Fd(loop.open_control()) as control:

        def gone(number: int) -> bool:
            try:
                fcntl.ioctl(control.fileno(), _LOOP_CTL_REMOVE, number)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    # Somebody else's by now; or udev looks at it for a moment.
                    return os.path.exists(f"/sys/block/loop{number}/loop/backing_file")
                if error.errno != errno.ENODEV:
                    raise
            return True

        for number in loop_numbers() - before:
            until(lambda: gone(number), f"loop{number} goes")  # noqa: B023


@pytest.mark.timeout(300)
def test_more_containers_than_there_were_loop_devices(
    loop_devices: set[int], host: Host, busybox_root: Path
) -> None:
    count = len(loop_devices) + 2
    first = images.filesystem(host, "ext4", busybox_root, host.root / "0.img")
    names = [f"many{number}" for number in range(count)]
    for name in names:
        roots.copy(first, host.root / f"{name}.img")
        host.ctl("create", name, "--config", "-", input=config(host.root / f"{name}.img"))
    failures: list[str] = []

    def start(name: str) -> None:
        try:
            host.ctl("start", name, "--", *IDLE)
        except Exception as error:  # noqa: BLE001
            failures.append(str(error))

    # Several at once, so that they ask for the same free device.
    threads = [threading.Thread(target=start, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(list(images.attached(host))) == count
    host.ctl("delete", "--force", *names)
    images.none_attached(host)


def test_a_host_whose_dev_has_no_loop_devices(cold_host: Host, busybox_root: Path) -> None:
    host = cold_host
    path = images.disk(host, host.root / "vm.img", "dos", (LINUX,), busybox_root)
    nodes = "null zero full random urandom tty ptmx pts shm"
    script = (
        "mkdir /run/lxcd-dev && mount -t tmpfs none /run/lxcd-dev && cd /run/lxcd-dev"
        f" && for n in {nodes}; do cp -a /dev/$n . || mkdir $n; done"
        " && mount --move /run/lxcd-dev /dev && rmdir /run/lxcd-dev"
    )
    host.machine.run("sh", "-c", script)
    try:
        host.start_daemon()
        with box(host, config(path), "box", *IDLE) as made:
            made.sh("touch /root/note")
            assert len(list(images.attached(host))) == 1
        images.none_attached(host)
        host.shutdown()
    finally:
        host.machine.run("umount", "--lazy", "/dev")


def test_nothing_is_left_after_every_kind_of_end(host: Host, image: Path) -> None:
    with defined(host, config(image)) as made:
        made.start(*IDLE)
        os.kill(made.info().pid, 9)
        made.wait(types_pb2.STATE_STOPPED)
        images.none_attached(host)
        made.start("/bin/true")
        made.wait()
        images.none_attached(host)
        made.start(*IDLE)
        host.kill_daemon()
        assert len(list(images.attached(host))) == 1
        host.start_daemon()
        assert made.sh("echo in") == "in"
        made.stop(kill=True)
        images.none_attached(host)


def test_a_restart_waits_for_the_device_of_the_life_before(host: Host, image: Path) -> None:
    with defined(host, config(image)) as made:
        for _ in range(10):
            made.start(*IDLE)
            made.sh("dd if=/dev/urandom of=/root/much bs=1M count=4 2>/dev/null")
            made.stop(kill=True)
    images.none_attached(host)


def test_a_start_waits_for_who_lets_go(host: Host, image: Path) -> None:
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    with defined(host, config(image)) as made, ThreadPoolExecutor(1) as pool:
        with open(image, "r+b") as file:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)
            started = pool.submit(made.start, *IDLE)
            made.wait(types_pb2.STATE_STARTING, types_pb2.STATE_RUNNING)
        started.result()
        assert made.sh("echo in") == "in"


def test_a_start_that_waits_for_the_life_before_ends_with_its_caller(
    host: Host, image: Path
) -> None:
    request = container_pb2.StartContainerRequest(name="box", command=IDLE)
    with defined(host, config(image)) as made:
        # As if the kernel wrote back what that has left, for minutes.
        with own_device(image, "box") as device:
            call = made.api.container.StartContainer.future(request, timeout=300)
            made.wait(types_pb2.STATE_STARTING)
            call.cancel()
            made.wait(types_pb2.STATE_STOPPED)
            assert f"{device} of container box has it read-write" in made.info().state_reason
        images.none_attached(host)
        made.start(*IDLE)
        assert made.sh("echo in") == "in"


@contextmanager
def own_device(image: Path, container: str) -> Iterator[str]:
    """A loop device over the image, as a life of this container that has ended would have left it."""
    with Fd(loop.open_control()) as control, Fd(os.open(image, os.O_RDWR | os.O_CLOEXEC)) as file:
        number = loop.free_number(control.fileno())
        with Fd(loop.open_device(number, writable=True)) as device:
            word = claim.reference(container)
            loop.configure(device.fileno(), file.fileno(), 0, 0, word, read_only=False)
            yield f"/dev/loop{number}"


def test_a_guest_that_reboots_gets_its_image_again(host: Host, image: Path) -> None:
    with box(host, config(image)) as made:
        busybox_up(made)
        made.sh("dd if=/dev/urandom of=/root/much bs=1M count=4 2>/dev/null; reboot")
        generation_runs(made, 2)
        busybox_up(made)
        assert made.sh("stat -c %s /root/much") == str(4 << 20)
        made.stop()
    images.none_attached(host)


def test_a_container_that_may_use_no_device_has_its_image(host: Host, image: Path) -> None:
    # Without what this machine has no swap for.
    rules = [line for line in RESOURCES.splitlines(keepends=True) if "devices" in line]
    text = config(image) + "".join(rules)
    with box(host, text, "box", *IDLE) as made:
        made.fails("mknod /root/loop b 7 0 && cat /root/loop")
        made.sh("touch /root/note && cat /dev/null")


def test_a_start_that_fails_later_leaves_nothing(host: Host, image: Path) -> None:
    text = config(image) + "lxc.mount.entry = /there/is/none mnt none bind 0 0\n"
    with defined(host, text):
        done = host.ctl("start", "box", check=False)
        assert done.returncode != 0
        assert "/there/is/none" in done.stderr
        images.none_attached(host)
        lines = host.ctl("plan", "box").stdout.splitlines()
        (line,) = [line for line in lines if f"mount the image {image}" in line]
        assert "config:1" in line


@pytest.mark.parametrize(
    ("call", "what"),
    [
        ("ioctl", "signal=SIGKILL"),  # many make one: which fails cannot be said
        *itertools.product(("fsopen", "fsconfig", "fsmount"), ("signal=SIGKILL", "error=EIO")),
    ],
)
def test_nothing_is_left_at_whatever_call_lxcd_dies_or_fails(
    host: Host, image: Path, tmp_path: Path, call: str, what: str
) -> None:
    with defined(host, config(image)) as made:
        made.start(*IDLE)
        made.stop(kill=True)
        assert host.daemon is not None
        with at_call(host.daemon, call, what, tmp_path / "trace"):
            refused = calls.refused(lambda: made.start(*IDLE))
        if what == "error=EIO":
            told = {key: refused.metadata.get(key) for key in ("step", "errno", "origin")}
            origin = f"{made.directory}/config:1"
            assert told == {"step": "rootfs", "errno": "EIO", "origin": origin}
            assert call in refused.metadata["syscall"]
        else:
            host.kill_daemon()
            host.start_daemon()
        images.none_attached(host)
        made.start(*IDLE)
        assert made.sh("echo in") == "in"
