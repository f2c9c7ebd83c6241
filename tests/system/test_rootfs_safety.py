"""What lxcd deletes is a container's own, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxcd.v1 import container_pb2, types_pb2
from tests.system import roots
from tests.system.boxes import Box, Refused, box, defined, tree_hash
from tests.system.host import Host
from tests.system.machine import DEADLINE, until

pytestmark = pytest.mark.vm


@pytest.fixture
def outside(host: Host, busybox_root: Path) -> Path:
    """A root file system which is somebody's own, not below the container's directory."""
    root = roots.copy(busybox_root, host.root / "mine")
    (root / "root/diary").write_text("years of work\n")
    return root


def _gone(made: Box) -> None:
    """Wait until nothing is left of an ephemeral container."""

    def absent() -> bool:
        try:
            made.info()
        except Refused as refused:
            if refused.reason != "CONTAINER_NOT_FOUND":
                raise
            return True
        return False

    until(absent, f"{made.name} is gone")


@pytest.mark.parametrize(
    "how", ["{root}", "dir:{root}", "{root}/", "{root}/../mine", "/proc/self/root{root}"]
)
def test_delete_leaves_a_rootfs_outside_of_the_directory_alone(
    host: Host, outside: Path, how: str
) -> None:
    before = tree_hash(outside)
    config = f"lxc.rootfs.path = {how.format(root=outside)}\nlxc.rootfs.managed = 1\n"
    with defined(host, config) as made:
        kept = made.delete().kept_rootfs
        assert Path(kept).resolve() == outside or kept.startswith("/proc/self/root")
        assert not made.directory.exists()
    assert tree_hash(outside) == before


def test_lxcctl_says_which_rootfs_it_left_alone(host: Host, outside: Path) -> None:
    host.ctl("create", "mine", "--config", "-", input=f"lxc.rootfs.path = {outside}\n")
    done = host.ctl("delete", "mine")
    assert f"left the root file system at {outside} alone" in done.stderr
    assert (outside / "root/diary").exists()


def test_delete_after_a_life_leaves_a_rootfs_outside_as_that_life_left_it(
    host: Host, outside: Path
) -> None:
    with box(host, f"lxc.rootfs.path = {outside}\n") as made:
        made.sh("echo more >> /root/diary")
        made.stop(kill=True)
        before = tree_hash(outside)
        made.delete()
        assert tree_hash(outside) == before
    assert (outside / "root/diary").read_text() == "years of work\nmore\n"


def test_an_ephemeral_start_leaves_a_rootfs_outside_alone(host: Host, outside: Path) -> None:
    before = tree_hash(outside)
    with defined(host, f"lxc.rootfs.path = {outside}\n") as made:
        made.start("/bin/true", ephemeral=True)
        _gone(made)
        assert not made.directory.exists()
    assert tree_hash(outside) == before


def test_lxc_ephemeral_deletes_the_container_when_it_stops_and_no_foreign_rootfs(
    host: Host, outside: Path
) -> None:
    before = tree_hash(outside)
    config = f"lxc.rootfs.path = {outside}\nlxc.ephemeral = 1\nlxc.init.cmd = /bin/true\n"
    with defined(host, config) as made:
        assert made.info().ephemeral
        made.start()
        _gone(made)
        assert not made.directory.exists()
    assert tree_hash(outside) == before


def test_run_rm_leaves_the_rootfs_of_its_config_alone(host: Host, outside: Path) -> None:
    before = tree_hash(outside)
    config = host.root / "app.conf"
    config.write_text(f"lxc.rootfs.path = {outside}\n")
    done = host.ctl(
        "run", "host", "--rm", "--name", "app", "--config", str(config), "--", "cat", "/root/diary"
    )
    assert done.stdout == "years of work\n"
    assert tree_hash(outside) == before
    assert not (host.lxcpath / "app").exists()


def test_a_container_whose_root_is_the_host_s_own_deletes_nothing_of_it(host: Host) -> None:
    # The article's application containers have no rootfs at all, or bind `/`.
    witness = host.root / "witness"
    witness.write_text("here\n")
    for config in ("lxc.rootfs.path = /\n", "lxc.rootfs.path = dir:/\nlxc.rootfs.options = ro\n"):
        with defined(host, config, "root") as made:
            made.start("/bin/true", ephemeral=True)
            _gone(made)
        assert witness.read_text() == "here\n"


def test_a_rootfs_inside_the_directory_goes_with_it(host: Host, busybox_root: Path) -> None:
    with defined(host, f"lxc.rootfs.path = {host.lxcpath}/box/rootfs\n") as made:
        roots.copy(busybox_root, made.directory / "rootfs")
        made.start("/bin/true")
        made.wait(types_pb2.STATE_STOPPED)
        assert made.delete().kept_rootfs == ""
        assert not made.directory.exists()
    assert list(host.lxcpath.iterdir()) == []


@pytest.mark.parametrize(
    "spelling", ["{own}/rootfs", "{above}//box/rootfs", "{above}/./box/rootfs", "{own}/rootfs/"]
)
def test_an_unmanaged_rootfs_inside_is_kept_however_its_path_is_spelt(
    host: Host, busybox_root: Path, spelling: str
) -> None:
    own = host.lxcpath / "box"
    path = spelling.format(own=own, above=host.lxcpath)
    with defined(host, f"lxc.rootfs.path = {path}\nlxc.rootfs.managed = 0\n") as made:
        root = roots.copy(busybox_root, own / "rootfs")
        before = tree_hash(root)
        made.delete()
        assert not (own / "config").exists()
        assert root.is_dir(), "the unmanaged root file system was deleted"
        assert tree_hash(root) == before


def test_an_unmanaged_rootfs_is_kept_below_an_lxcpath_that_is_a_link(
    host: Host, busybox_root: Path
) -> None:
    real, link = host.root / "real", host.root / "link"
    real.mkdir()
    link.symlink_to(real)
    config = f"lxc.rootfs.path = {real}/box/rootfs\nlxc.rootfs.managed = 0\n"
    host.ctl("--lxcpath", str(link), "create", "box", "--config", "-", input=config)
    root = roots.copy(busybox_root, real / "box/rootfs")
    before = tree_hash(root)
    host.ctl("--lxcpath", str(link), "delete", "box")
    assert root.is_dir(), "the unmanaged root file system was deleted"
    assert tree_hash(root) == before


def test_the_unmanaged_lower_layer_of_an_overlay_inside_is_kept(
    host: Host, busybox_root: Path
) -> None:
    own = host.lxcpath / "box"
    config = f"lxc.rootfs.path = overlay:{own}/base:{own}/delta\nlxc.rootfs.managed = 0\n"
    with defined(host, config) as made:
        base = roots.copy(busybox_root, own / "base")
        (own / "delta").mkdir()
        (own / "delta/written").write_text("kept\n")
        before = tree_hash(base)
        made.delete()
        assert (own / "delta/written").exists()
        assert base.is_dir(), "the lower layer was deleted"
        assert tree_hash(base) == before


def test_a_mount_below_the_directory_makes_delete_refuse_and_lose_nothing(
    host: Host, outside: Path
) -> None:
    before = tree_hash(outside)
    with defined(host, f"lxc.rootfs.path = {host.lxcpath}/box/rootfs\n") as made:
        place = made.directory / "rootfs"
        place.mkdir()
        (made.directory / "beside").write_text("also here\n")
        host.machine.run("mount", "--bind", str(outside), str(place))
        with pytest.raises(Refused) as caught:
            made.delete()
        assert (caught.value.code, caught.value.reason) == ("FAILED_PRECONDITION", "MOUNTED")
        assert caught.value.metadata["path"] == str(place)
        assert host.ctl("delete", "box", check=False).returncode == 4
        assert (made.directory / "config").exists()
        assert (made.directory / "beside").exists()
        assert tree_hash(outside) == before
        assert "box" in host.ctl("list", "-1").stdout
        host.machine.run("umount", str(place))
        made.delete()
        assert not made.directory.exists()
    assert tree_hash(outside) == before


def test_a_rootfs_that_is_a_link_starts_and_only_the_link_is_deleted(
    host: Host, outside: Path
) -> None:
    with defined(host, f"lxc.rootfs.path = {host.lxcpath}/box/rootfs\n") as made:
        (made.directory / "rootfs").symlink_to(outside)
        made.start()
        assert made.sh("cat /root/diary") == "years of work"
        made.stop(kill=True)
        before = tree_hash(outside)
        made.delete()
        assert not made.directory.exists()
    assert tree_hash(outside) == before


def test_a_directory_that_is_a_link_is_only_unlinked(host: Host, outside: Path) -> None:
    elsewhere = host.root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config").write_text(f"lxc.rootfs.path = {outside}\n")
    (elsewhere / "notes").write_text("mine\n")
    (host.lxcpath / "linked").symlink_to(elsewhere)
    host.ctl("delete", "linked")
    assert not (host.lxcpath / "linked").is_symlink()
    assert (elsewhere / "notes").read_text() == "mine\n"
    assert (outside / "root/diary").exists()


def test_links_inside_a_rootfs_are_not_followed_by_delete(host: Host, outside: Path) -> None:
    before = tree_hash(outside)
    with defined(host, f"lxc.rootfs.path = {host.lxcpath}/box/rootfs\n") as made:
        (made.directory / "rootfs").mkdir()
        (made.directory / "rootfs/trap").symlink_to(outside)
        (made.directory / "rootfs/other").symlink_to(host.root)
        made.delete()
        assert not made.directory.exists()
    assert tree_hash(outside) == before


def test_a_running_container_is_not_deleted_without_force(host: Host, outside: Path) -> None:
    with box(host, f"lxc.rootfs.path = {outside}\n") as made:
        with pytest.raises(Refused) as caught:
            made.delete()
        assert caught.value.reason == "CONTAINER_RUNNING"
        assert made.info().state == types_pb2.STATE_RUNNING
        assert made.delete(force=True).kept_rootfs == str(outside)


def test_two_containers_on_one_rootfs_outlive_each_other(host: Host, outside: Path) -> None:
    config = f"lxc.rootfs.path = {outside}\n"
    with defined(host, config, "one") as one, box(host, config, "two") as two:
        one.delete()
        assert two.sh("cat /root/diary") == "years of work"


def test_an_undefined_ephemeral_container_from_a_text_leaves_its_rootfs(
    host: Host, outside: Path
) -> None:
    before = tree_hash(outside)
    request = container_pb2.StartContainerRequest(
        name="text", config_text=f"lxc.rootfs.path = {outside}\n", command=["/bin/true"]
    )
    with host.channel() as api:
        api.container.StartContainer(request, timeout=DEADLINE)
        wait = container_pb2.WaitContainerRequest(name="text", generation=1)
        assert api.container.WaitContainer(wait, timeout=DEADLINE).exit.code == 0
    until(lambda: "text" not in host.ctl("list", "-1").stdout.split(), "it is gone")
    assert tree_hash(outside) == before
