"""Device policies against the real kernel: what version 1 makes of the rules, what a program answers, and what the pure
functions say must be one.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from lxcd.cgroup import device_control, devices, tree
from lxcd.cgroup.device_program import assemble
from lxcd.cgroup.devices import EVERYTHING, MKNOD, READ, WRITE, Kind, Policy, Rule
from lxcd.cgroup.tree import Payload
from lxcd.kernel import bpf, libc
from lxcd.kernel.fd import Fd
from tests.device_rules import KINDS, MAJORS, MINORS, rule_lists
from tests.kernel.forked import in_child

pytestmark = pytest.mark.vm

_TREES = tree.find_trees()
_FIRST = next((t for t in _TREES.hierarchies if "devices" in t.options.split(",")), None)
_TYPES = {"b": stat.S_IFBLK, "c": stat.S_IFCHR}
_MODES = {READ: os.O_RDONLY, WRITE: os.O_WRONLY, READ | WRITE: os.O_RDWR}
_DEVICES: list[tuple[Kind, int, int]] = [
    (kind, major, minor) for kind in KINDS for major in MAJORS for minor in MINORS
]
TRIES: list[tuple[Kind, int, int, int]] = [
    (*device, access) for device in _DEVICES for access in (*_MODES, MKNOD)
]


@contextmanager
def cgroup(*, first: bool, unique: str) -> Iterator[Payload]:
    """A directory in one tree only, and gone afterwards."""
    found = _FIRST if first else _TREES.unified
    assert found is not None
    path = f"{found.mountpoint}/{unique}"
    os.mkdir(path)
    try:
        yield Payload({found.key: path}, (path,))
    finally:
        os.rmdir(path)


def there() -> list[bool]:
    """Versions that this host has for devices: whether it is the first."""
    found = [True] if _FIRST is not None else []
    return [*found, False] if _TREES.unified is not None else found


@pytest.fixture(params=there(), ids=lambda first: "v1" if first else "v2")
def payload(request: pytest.FixtureRequest, unique: str) -> Iterator[Payload]:
    """A directory of either version."""
    with cgroup(first=request.param, unique=unique) as made:
        yield made


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All the devices that are tried."""
    folder = tmp_path_factory.mktemp("nodes")
    for kind, major, minor in _DEVICES:
        os.mknod(folder / f"{kind}-{major}-{minor}", _TYPES[kind] | 0o600, os.makedev(major, minor))
    return folder


def permitted(payload: Payload, nodes: Path) -> list[bool]:
    """Which accesses a process in there has."""
    (directory,) = payload.directories.values()

    def act() -> list[bool]:
        with open(f"{directory}/cgroup.procs", "w", encoding="ascii") as file:
            file.write("0")
        return [_try(nodes, *one) for one in TRIES]

    found: list[bool] = in_child(act)
    return found


def _try(nodes: Path, kind: str, major: int, minor: int, access: int) -> bool:
    try:
        if access == MKNOD:
            made = nodes / f"made-{os.getpid()}"
            os.mknod(made, _TYPES[kind] | 0o600, os.makedev(major, minor))
            os.unlink(made)
        else:
            flags = _MODES[access] | os.O_NONBLOCK | os.O_NOCTTY
            os.close(os.open(nodes / f"{kind}-{major}-{minor}", flags))
    except OSError as error:
        # Without such a device the permission is looked at all the same, and first.
        return error.errno != errno.EPERM
    return True


def expected(policy: Policy) -> list[bool]:
    return [policy.permits(*one) for one in TRIES]


@pytest.mark.timeout(300)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rules=rule_lists())
def test_all_say_the_same(rules: list[Rule], nodes: Path, unique: str) -> None:
    policy = EVERYTHING.but(rules)
    for first in there():
        with cgroup(first=first, unique=unique) as made:
            device_control.enforce(made, policy)
            assert permitted(made, nodes) == expected(policy)
            if first:
                # The rules as they stand in a configuration, one after the other.
                device_control.change(made, policy, EVERYTHING)
                (directory,) = made.directories.values()
                for rule in rules:
                    Path(directory, rule.file).write_text(rule.text)
                assert permitted(made, nodes) == expected(policy)
                if not policy.allows:
                    assert device_control.in_force(made) == policy


@pytest.mark.timeout(300)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(one=rule_lists(), other=rule_lists())
def test_one_becomes_the_other(
    one: list[Rule], other: list[Rule], nodes: Path, unique: str
) -> None:
    old, new = EVERYTHING.but(one), EVERYTHING.but(other)
    for first in there():
        with cgroup(first=first, unique=unique) as made:
            device_control.enforce(made, old)
            device_control.change(made, old, new)
            assert permitted(made, nodes) == expected(new)


def test_the_default(payload: Payload, nodes: Path) -> None:
    for _ in range(2):
        device_control.enforce(payload, devices.DEFAULT)
        assert permitted(payload, nodes) == expected(devices.DEFAULT)


def test_what_is_there_is_not_written_again(payload: Payload) -> None:
    device_control.enforce(payload, devices.DEFAULT)
    if "" in payload.directories:
        with Fd(os.open(payload.directories[""], os.O_RDONLY)) as directory:
            before = bpf.attached(directory.fileno())
            device_control.enforce(payload, devices.DEFAULT)
            assert bpf.attached(directory.fileno()) == before
            assert len(before) == 1
    else:
        # With a directory below it version 1 takes no `a`.
        (path,) = payload.directories.values()
        os.mkdir(f"{path}/below")
        try:
            device_control.enforce(payload, devices.DEFAULT)
            with pytest.raises(device_control.RuleRefusedError) as caught:
                device_control.enforce(payload, EVERYTHING.but([Rule(False, "a", origin="c:7")]))
            assert caught.value.rule.origin == "c:7"
        finally:
            os.rmdir(f"{path}/below")


def test_a_rule_that_is_refused_names_its_line(payload: Payload) -> None:
    if "" in payload.directories:
        payload = Payload({"": payload.directories[""] + "/gone"}, ())
        with pytest.raises(FileNotFoundError, match="gone"):
            device_control.enforce(payload, devices.DEFAULT)
        return
    (above,) = payload.directories.values()
    Path(above, "devices.deny").write_text("a")
    below = f"{above}/below"
    os.mkdir(below)
    try:
        policy = Policy(allows=False).but([Rule(True, "c", 1, 3, origin="config:12")])
        with pytest.raises(device_control.RuleRefusedError) as caught:
            device_control.enforce(Payload({"devices": below}, ()), policy)
    finally:
        os.rmdir(below)
    assert caught.value.filename == f"{below}/devices.allow: c 1:3 rwm"
    assert caught.value.errno == errno.EPERM
    assert caught.value.rule.origin == "config:12"
    assert libc.syscall_of(caught.value) == "write"


# Programs


@pytest.fixture
def unified(unique: str) -> Iterator[int]:
    """A directory of version 2."""
    if _TREES.unified is None:
        pytest.fail("no version 2 here")
    with (
        cgroup(first=False, unique=unique) as made,
        Fd(os.open(made.directories[""], os.O_RDONLY | os.O_DIRECTORY)) as directory,
    ):
        yield directory.fileno()


def test_others_programs_stay(unified: int) -> None:
    payload = Payload({"": f"/proc/self/fd/{unified}"}, ())
    with Fd(bpf.load_device_program(assemble(EVERYTHING), "somebodys")) as other:
        bpf.attach(unified, other.fileno())
        theirs = bpf.attached(unified)
        for policy in (devices.DEFAULT, Policy(allows=False), EVERYTHING):
            device_control.enforce(payload, policy)
            found = set(bpf.attached(unified))
            assert found > set(theirs) or (policy == EVERYTHING and found == set(theirs))
            assert len(found) <= 2
        bpf.detach(unified, other.fileno())
    assert bpf.attached(unified) == []


def test_the_kernel_tells_programs_apart() -> None:
    loaded = [
        Fd(bpf.load_device_program(assemble(policy), "a_name_that_is_too_long"))
        for policy in (devices.DEFAULT, devices.DEFAULT, EVERYTHING)
    ]
    found = [bpf.describe(one.fileno()) for one in loaded]
    assert {one.name for one in found} == {"a_name_that_is_"}
    assert found[0].tag == found[1].tag != found[2].tag
    assert len({one.id for one in found}) == 3
    assert not any(os.get_inheritable(one.fileno()) for one in loaded)
    with Fd(bpf.open_program(found[0].id)) as again:
        assert bpf.describe(again.fileno()) == found[0]


def test_the_verifier_says_why() -> None:
    with pytest.raises(OSError, match="last insn is not an exit") as caught:
        bpf.load_device_program(assemble(EVERYTHING)[:-8], "endless")
    assert libc.syscall_of(caught.value) == "bpf BPF_PROG_LOAD"


def test_many_rules_are_one_program() -> None:
    policy = Policy(allows=False).but(
        Rule(True, "c", number % 4000, number, 1 + number % 7) for number in range(2000)
    )
    os.close(bpf.load_device_program(assemble(policy), "many"))
    with pytest.raises(FileNotFoundError):
        bpf.open_program(0x7FFFFFFF)
