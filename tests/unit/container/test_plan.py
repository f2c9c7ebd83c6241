from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd import errors
from lxcd.config import keys, loader
from lxcd.container import devices, mounts, plan, resources, rootfs
from lxcd.container.credentials import Execute, GuardHost, LimitCapabilities
from lxcd.container.plan import Host, Life, Plan
from lxcd.kernel import identity, process

STEADY = settings(deadline=None, derandomize=True, database=None, max_examples=300)
Compile = Callable[..., Plan]
ROOT = "lxc.rootfs.path = dir:/srv/c\n"
IDMAP = "lxc.idmap = u 0 100000 65536\nlxc.idmap = g 0 100000 65536\n"
HOST = Host("x86_64", 40, {"tmpfs": False, "proc": False, "ext4": True}, (("unified", None),))


def names(made: Plan) -> list[str]:
    return [step.name for step in made.spec.steps]


def by_origin(made: Plan, line: int) -> list[str]:
    found = [step.name for step in made.spec.steps if step.origin == f"c/config:{line}"]
    return found + [wanted.step for wanted in made.resources if wanted.origin == f"c/config:{line}"]


def test_the_order_of_a_plain_container(compiled: Compile) -> None:
    assert names(compiled(ROOT)) == [
        "fork",
        "unshare_cgroups",
        "set_hostname",
        "new_keyring",
        "loopback_up",
        "attach_rootfs",
        "cover_fstab",
        "make_dev",
        "mount_devpts",
        "open_terminals",
        "pivot_root",
        "share_mounts",
        "limit_capabilities",
        "guard_host",
        "barrier",
        "execute",
    ]


def test_the_order_of_everything(compiled: Compile) -> None:
    text = (
        ROOT
        + IDMAP
        + (
            "lxc.time.offset.boot = 5s\nlxc.prlimit.nofile = 10\nlxc.sched.core = 1\n"
            "lxc.mount.auto = cgroup sys proc\nlxc.mount.entry = /a b none bind 0 0\n"
            "lxc.sysctl.kernel.msgmax = 1\nlxc.arch = i686\nlxc.cap.drop = sys_admin\n"
            "lxc.no_new_privs = 1\nlxc.console.path = none\n"
        )
    )
    assert names(compiled(text, pipes=True)) == [
        "fork",
        "offset_clocks",
        "become_root",
        "barrier",
        "unshare_cgroups",
        "set_hostname",
        "new_keyring",
        "new_core_cookie",
        "loopback_up",
        "attach_rootfs",
        "cover_fstab",
        "make_dev",
        "mount_sys",
        "mount_proc",
        "mount_tree",
        "mount_cgroups",
        "mount_devpts",
        "no_terminal",
        "open_pipes",
        "write_sysctl",
        "pivot_root",
        "share_mounts",
        "set_personality",
        "limit_capabilities",
        "no_new_privs",
        "barrier",
        "execute",
    ]


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("lxc.uts.name = n", "set_hostname"),
        ("lxc.utsname = n", "set_hostname"),
        ("lxc.sched.core = 1", "new_core_cookie"),
        ("lxc.autodev = 1", "make_dev"),
        ("lxc.mount.auto = proc:rw", "mount_proc"),
        ("lxc.mount.auto = sys:ro", "mount_sys"),
        ("lxc.mount.auto = cgroup:mixed", "mount_cgroups"),
        ("lxc.mount.entry = /a b none bind 0 0", "mount_tree"),
        ("lxc.mount.entry = a b none bind,relative 0 0", "mount_beneath"),
        ("lxc.mount.entry = tmpfs b tmpfs size=1m 0 0", "mount_filesystem"),
        ("lxc.mount.entry = /dev/sda b ext4 ro 0 0", "mount_tree"),
        ("lxc.pty.max = 5", "mount_devpts"),
        ("lxc.pts = 5", "mount_devpts"),
        ("lxc.tty.max = 5", "open_terminals"),
        ("lxc.console.path = none", "no_terminal"),
        ("lxc.sysctl.net.ipv4.ip_forward = 1", "write_sysctl"),
        ("lxc.arch = i686", "set_personality"),
        ("lxc.cap.drop = mknod", "limit_capabilities"),
        ("lxc.cap.keep = chown", "limit_capabilities"),
        ("lxc.no_new_privs = 1", "no_new_privs"),
        ("lxc.init.cmd = /bin/sh", "execute"),
        ("lxc.prlimit.nofile = 10", "barrier"),
        ("lxc.proc.oom_score_adj = 10", "barrier"),
        ("lxc.time.offset.boot = 5s", "offset_clocks"),
        ("lxc.time.offset.monotonic = 5s", "offset_clocks"),
    ],
)
def test_each_key_and_its_step(compiled: Compile, line: str, step: str) -> None:
    assert step in by_origin(compiled(f"{ROOT}{line}\n"), 2)


def test_an_image_is_mounted_and_a_plain_path_may_be_one(compiled: Compile) -> None:
    options = "lxc.rootfs.options = partition=2,ro,commit=9,idmap=container\n"
    (image,) = compiled("lxc.rootfs.path = loop:/vm.img\n" + IDMAP + options).resources[:1]
    assert isinstance(image, resources.MountImage)
    assert (image.path, image.partition, image.container) == ("/vm.img", 2, "c")
    assert (image.options, image.idmap, image.directory) == ((("commit", "9"),), "container", None)
    assert image.origin == "c/config:1"
    assert (
        image.describe() == "mount partition 2 of the image /vm.img (ro), ids mapped by container"
    )
    (plain,) = compiled("lxc.rootfs = /srv/c\n").resources[:1]
    assert isinstance(plain, resources.MountImage)
    assert plain.directory is not None
    assert plain.describe() == plain.directory.describe() == "take /srv/c with all below"
    (directory,) = compiled(ROOT).resources[:1]
    assert isinstance(directory, resources.TakeDirectory)


def test_only_a_container_on_the_host_s_own_root_follows_its_mounts(compiled: Compile) -> None:
    def follows(text: str) -> bool:
        (step,) = (s for s in compiled(text).spec.steps if isinstance(s, rootfs.AttachRootfs))
        return step.follow

    assert follows("lxc.uts.name = c\n")
    assert follows("lxc.rootfs.path = dir:/\n")
    assert not follows(ROOT)
    assert not follows("lxc.rootfs.path = loop:/vm.img\n")


def test_flags(compiled: Compile) -> None:
    made = compiled(ROOT + IDMAP)
    assert made.namespaces == ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    assert made.flags & process.CLONE_NEWUSER
    assert not made.flags & process.CLONE_NEWCGROUP
    made = compiled(ROOT + "lxc.namespace.keep = net ipc\n")
    assert not made.flags & (process.CLONE_NEWNET | process.CLONE_NEWIPC)
    assert "loopback_up" not in names(made)


def test_in_a_dev_that_is_mounted_nothing_is_made(compiled: Compile) -> None:
    made = compiled(ROOT + "lxc.mount.entry = /dev dev none bind 0 0\nlxc.tty.max = 2\n")
    assert "make_dev" not in names(made)
    devpts = next(step for step in made.spec.steps if isinstance(step, devices.MountDevpts))
    assert not devpts.visible


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("a/b", "a/b"),
        ("./a//b/", "a/b"),
        ("/srv/c/a", "a"),
        ("/srv/c", ""),
        ("/var/lib/lxc/c/rootfs/a", "a"),
        (".", ""),
        ("a\\040b", "a b"),
        ("...", "..."),
    ],
)
def test_targets(compiled: Compile, target: str, expected: str) -> None:
    made = compiled(f"{ROOT}lxc.mount.entry = /x {target} none bind 0 0\n")
    (step,) = (step for step in made.spec.steps if isinstance(step, mounts.MountTree))
    assert step.target == expected


@pytest.mark.parametrize(
    "target", ["..", "a/../b", "/srv/c/../x", "/srv/cc/a", "/etc", "/srv/c/../../etc", "a/.."]
)
def test_targets_that_lead_out_are_refused_with_their_line(compiled: Compile, target: str) -> None:
    with pytest.raises(errors.StartFailed) as caught:
        compiled(f"{ROOT}lxc.mount.entry = /x {target} none bind 0 0\n")
    assert caught.value.metadata["origin"] == "c/config:2"
    assert "c/config:2" in caught.value.text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("lxc.rootfs.path = zfs:a/b\n", 1),
        (ROOT + "lxc.mount.entry = a b none bind,create=x 0 0\n", 2),
        (ROOT + "lxc.namespace.keep = mnt\n", 2),
        (ROOT + "lxc.idmap = u 1 100000 5\nlxc.idmap = g 0 100000 5\n", 2),
    ],
)
def test_errors_name_their_line(compiled: Compile, text: str, line: int) -> None:
    with pytest.raises(errors.StartFailed) as caught:
        compiled(text)
    assert caught.value.metadata["origin"] == f"c/config:{line}"


def test_no_command_for_an_application(compiled: Compile) -> None:
    with pytest.raises(errors.StartFailed):
        compiled(ROOT, application=True)
    made = compiled(ROOT + "lxc.execute.cmd = /bin/a b\n", application=True)
    assert made.command == ("/bin/a", "b")


def test_capabilities(compiled: Compile) -> None:
    assert compiled(ROOT + "lxc.cap.drop =\n").capabilities is None
    made = compiled(ROOT + "lxc.cap.keep = none\n")
    assert made.capabilities == ()
    (step,) = (step for step in made.spec.steps if isinstance(step, LimitCapabilities))
    assert step.keep == ()
    dropped = compiled(ROOT + "lxc.cap.drop = CAP_SYS_ADMIN 40\n").capabilities
    assert dropped is not None
    assert set(range(41)) - set(dropped) == {21, 40}


WORDS = st.sampled_from(
    [
        *("0", "1", "5", "none", "mnt", "net", "user", "proc:mixed", "sys:rw", "cgroup:rw:force"),
        *("u 0 1 1", "g 0 1 1", "/a", "/a b none bind 0 0", "tmpfs /srv/c/t tmpfs rw 0 0", "x y"),
        *("overlay:/a:/b", "dir:/srv/c", "nbd:x", "i686", "..", "sys_admin", "\u00e9", "5s", ""),
        *("/sbin/init 'a b", "create=x", "idmap=container", "\udcff", "a=b", "10:20"),
    ]
)
NAMES = st.sampled_from(
    [row.name for row in keys.KEYS] + ["lxc.net.0.type", "lxc.sysctl.a.b", "lxc.prlimit.nofile"]
)
LINES = st.lists(
    st.tuples(
        NAMES,
        WORDS
        | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=12),
    ),
    max_size=8,
)


@STEADY
@given(lines=LINES, application=st.booleans(), pipes=st.booleans())
def test_whatever_can_be_loaded_makes_a_plan_or_an_error_of_ours(
    *, lines: list[tuple[str, str]], application: bool, pipes: bool
) -> None:
    text = "".join(f"{key} = {value}\n" for key, value in lines)
    data = text.encode(errors="surrogateescape")
    config, _ = loader.load(data, "c/config")
    life = Life("c", "/var/lib/lxc/c", application=application, pipes=pipes)
    try:
        made = plan.compile_plan(config, HOST, life)
    except errors.LxcdError:
        return
    last = made.spec.steps[-1]
    assert isinstance(last, Execute)
    assert last.argv
    assert made.program.steps == tuple(step.name for step in made.spec.steps)
    for words in (
        *(step.describe() for step in made.spec.steps),
        *(wanted.describe() for wanted in made.resources),
    ):
        assert words
        assert len(words.splitlines()) == 1, words


def test_a_command_of_several_lines_is_described_in_one(compiled: Compile) -> None:
    made = compiled(ROOT, command=("/bin/sh", "-c", "a\nb\x1b[2J"))
    assert made.spec.steps[-1].describe().isprintable()


# what is the host's


def _limits(made: Plan) -> tuple[bool, bool]:
    """Whether it may set the clock, and whether it may change swap."""
    every = made.capabilities is None
    clock = every or identity.capability_number("sys_time") in (made.capabilities or ())
    return clock, "guard_host" not in names(made)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (False, False)),
        ("lxc.network.type = empty\n", (False, False)),
        # Whoever speaks of capabilities means it.
        ("lxc.cap.drop =\n", (True, True)),
        ("lxc.cap.drop = mac_admin\n", (True, False)),
        ("lxc.cap.drop = sys_time\nlxc.cap.drop = sys_module\n", (False, False)),
        ("lxc.cap.keep = sys_admin sys_time\n", (True, False)),
        ("lxc.cap.keep = chown\n", (False, True)),
        # There the kernel asks for rights that nobody in a user namespace has.
        (IDMAP, (True, True)),
    ],
)
def test_the_clock_and_swap_are_the_host_s(
    compiled: Compile, text: str, expected: tuple[bool, bool]
) -> None:
    assert _limits(compiled(ROOT + text)) == expected


def test_only_what_common_conf_of_lxc_drops_is_dropped_without_a_word(compiled: Compile) -> None:
    (step,) = (s for s in compiled(ROOT).spec.steps if isinstance(s, LimitCapabilities))
    dropped = set(range(41)) - set(step.keep)
    assert dropped == {
        identity.capability_number(name)
        for name in ("sys_time", "sys_module", "sys_rawio", "mac_admin", "mac_override")
    }


# the guest's fstab


@pytest.mark.parametrize(
    ("text", "life"),
    [
        ("lxc.mount.entry = /etc/mine etc/fstab none bind 0 0\n", {}),
        ("lxc.mount.entry = /etc etc none bind 0 0\n", {}),
        ("lxc.cgroup.devices.allow = b 8:17 rwm\n", {}),
        ("lxc.cgroup2.devices.allow = a\n", {}),
        ("", {"application": True, "command": ("/bin/true",)}),
        ("", {"idle": True}),
        ("", {"whole_fstab": True}),
    ],
)
def test_the_guest_s_fstab_stays_where_it_may_be_right(
    compiled: Compile, text: str, life: dict[str, object]
) -> None:
    assert "cover_fstab" not in names(compiled(ROOT + text, **life))


def test_devices_that_are_mounted_for_it_are_known_to_its_fstab(compiled: Compile) -> None:
    text = (
        "lxc.mount.entry = /dev/vg/x dev/sdb1 none bind,create=file 0 0\n"
        "lxc.mount.entry = /srv srv none bind 0 0\n"
        "lxc.cgroup.devices.allow = b *:* m\nlxc.cgroup.devices.allow = c 1:3 rwm\n"
    )
    made = compiled(ROOT + text)
    assert "cover_fstab" in names(made)
    (fit,) = (r for r in made.resources if isinstance(r, resources.FitFstab))
    assert fit.devices == ("dev/sdb1",)
    assert isinstance(made.resources[fit.rootfs], resources.TakeDirectory)


def test_a_file_system_of_the_host_is_not_made_read_only(compiled: Compile) -> None:
    found: list[bool] = []
    for root in ("", ROOT, "lxc.rootfs.path = overlay:/srv/c:/srv/u\n"):
        (step,) = (s for s in compiled(root).spec.steps if isinstance(s, GuardHost))
        found.append(step.remounts)
    assert found == [True, True, False]
