"""What a Spec becomes: read back by its layout alone (`layout.py`)."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.container import (
    calls,
    channel,
    credentials,
    devices,
    join,
    mounts,
    namespaces,
    nodes,
    rootfs,
)
from lxcd.container.calls import ANY_ERROR, NOTHING, Address, Calls, Data, Label, Program, Register
from lxcd.container.credentials import Execute
from lxcd.container.fault import Fault
from lxcd.container.spec import Spec, Step
from lxcd.container.walk import Walk
from lxcd.kernel.process import NAMESPACES
from lxcd.kernel.syscalls import NUMBERS
from tests.unit.container.layout import (
    ACTS,
    ADDRESS,
    DATA,
    MOST_FDS,
    NUMBER,
    REGISTER,
    Call,
    Text,
    _pointer,
    check,
    read,
)

STEADY = settings(deadline=None, derandomize=True, database=None, max_examples=100)
ROOMS = (join, namespaces, rootfs, mounts, devices, nodes, credentials)
DESCRIPTORS = 7

# ---- any steps


def every_step() -> list[type[Step]]:
    found = {
        kind
        for room in ROOMS
        for kind in vars(room).values()
        if isinstance(kind, type) and issubclass(kind, Step) and kind is not Step
    }
    return sorted(found, key=lambda kind: kind.__name__)


TEXT = st.binary(max_size=8).map(lambda data: data.decode(errors="surrogateescape"))
WORD = st.text("ab./=:,", max_size=6)
IDS = st.integers(0, (1 << 32) - 1)
PLACES = st.integers(0, DESCRIPTORS - 1)
CAPABILITY = st.integers(0, 40)
# What only some values make sense for. By the name of the field; of a step, too, where that says more.
SOME: dict[str, st.SearchStrategy[Any]] = {
    "argv": st.lists(TEXT, min_size=1, max_size=3).map(tuple),
    "cgroup": st.integers(-1, DESCRIPTORS - 1),
    "cgroup_namespace": st.integers(-1, DESCRIPTORS - 1),
    "cgroups": st.lists(PLACES, max_size=3).map(tuple),
    "columns": st.integers(0, 0xFFFF),
    "create": st.sampled_from(["", "dir", "file"]),
    "fd": PLACES,
    "Fork.fd": st.integers(-1, DESCRIPTORS - 1),
    "gid": IDS,
    "groups": st.lists(IDS, max_size=3).map(tuple),
    "host_mounts": st.integers(-1, DESCRIPTORS - 2),
    "keep": st.lists(CAPABILITY, max_size=5).map(tuple),
    "kind": st.sampled_from(["b", "c"]),
    "last": CAPABILITY,
    "mode": st.sampled_from(["mixed", "rw", "ro"]),
    "MakeNode.mode": st.integers(0, 0o7777),
    "namespace": st.sampled_from(sorted(NAMESPACES)),
    "namespaces": st.sets(st.sampled_from(sorted(NAMESPACES))).map(sorted).map(tuple),
    "OpenPipes.gid": st.integers(-1, 1 << 31),
    "OpenPipes.uid": st.integers(-1, 1 << 31),
    "rows": st.integers(0, 0xFFFF),
    "stderr": st.integers(-2, DESCRIPTORS - 1),
    "stdin": st.integers(-2, DESCRIPTORS - 1),
    "stdout": st.integers(-2, DESCRIPTORS - 1),
    "ttys": st.integers(0, 3),
    "uid": IDS,
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    if hint is str:
        return TEXT | WORD
    if hint is int:
        return st.integers(0, (1 << 31) - 1)
    if hint is bool:
        return st.booleans()
    if hint is type(None):
        return st.none()
    arguments = get_args(hint)
    if get_origin(hint) is tuple:
        if arguments[-1] is Ellipsis:
            return st.lists(values(arguments[0]), max_size=3).map(tuple)
        return st.tuples(*(values(argument) for argument in arguments))
    return st.one_of(*(values(argument) for argument in arguments))


def of_kind(kind: type[Step]) -> st.SearchStrategy[Step]:
    fields = {
        name: SOME.get(f"{kind.__name__}.{name}", SOME.get(name, values(hint)))
        for name, hint in get_type_hints(kind).items()
        if name != "name"
    }
    made: st.SearchStrategy[Step] = st.builds(kind, **fields)
    if kind is Execute:
        # With nobody to run, there is somebody who stays.
        fields |= {"argv": st.just(()), "reaper": st.just(True)}
        made |= st.builds(kind, **fields)
    return made


def test_the_list_is_whole() -> None:
    assert join.Join in every_step()
    assert len(every_step()) >= 29
    assert len({kind.name for kind in every_step()}) == len(every_step())


@pytest.mark.parametrize("kind", every_step(), ids=lambda kind: kind.__name__)
def test_every_step_becomes_calls_that_stay_within_their_text(kind: type[Step]) -> None:
    @settings(STEADY, max_examples=40)
    @given(of_kind(kind))
    def compiles(step: Step) -> None:
        _compiles((step,), None)

    compiles()


@STEADY
@given(
    st.lists(st.one_of(*map(of_kind, every_step())), max_size=5).map(tuple),
    st.none()
    | st.builds(Fault, st.integers(0, 4), st.sampled_from(["kill", "fault", "EIO", "ENOSPC"])),
)
def test_so_do_all_together(steps: tuple[Step, ...], fault: Fault | None) -> None:
    _compiles(steps, fault)


def test_more_terminals_than_descriptors_fit_into_a_message() -> None:
    step = devices.OpenTerminals(origin="", console=True, ttys=300, directory="")
    _compiles((step,), None)
    text = read(Spec((step,)).compile(0).text)
    handed = [call for call in text.calls if call.name == "hand"]
    assert [call.arguments[3][1] for call in handed] == [MOST_FDS, 301 - MOST_FDS]


def _compiles(steps: tuple[Step, ...], fault: Fault | None) -> None:
    program = Spec(steps).compile(DESCRIPTORS, fault)
    text = read(program.text)
    check(text, len(steps))
    assert text.calls[0].arguments[:2] == ((NUMBER, DESCRIPTORS), (ADDRESS, 0))
    assert program.steps == tuple(step.name for step in steps)
    assert [said[0] + 1 for said in program.calls] == [call.step for call in text.calls]
    for number, call in enumerate(text.calls):
        failed = program.failure(number, errno.EIO, "")
        assert (failed.index, failed.errno) == (call.step - 1, errno.EIO)
        assert failed.text.startswith("Input/output error")
        if call.name == "wait":
            assert program.barrier(number) == program.calls[number][2]
        else:
            with pytest.raises(ValueError, match="waits for nothing"):
                program.barrier(number)


@STEADY
@given(st.integers(0, 3), st.integers(-3, 12))
def test_a_step_that_names_no_descriptor_is_refused(count: int, place: int) -> None:
    step = namespaces.ShareNamespace(origin="", fd=place, namespace="net", whose="")
    if 0 <= place < count:
        check(read(Spec((step,)).compile(count).text), 1)
    else:
        with pytest.raises(ValueError, match="no descriptor"):
            Spec((step,)).compile(count)


# ---- how they are written


def test_the_layout() -> None:
    made = Calls(2)
    made.begin("step")
    there = Label()
    register = made.call(
        "openat", made.sent(1), "path", Address(0), 7, unless=((2, None), (ANY_ERROR, there))
    )
    made.put(there)
    pointed = made.pointing(b"\0" * 8, {0: made.text("path")})
    made.call("raise", register, pointed, -1, then=there)
    text = read(made.program().text)
    nothing = (NUMBER, 0)
    assert text == Text(
        calls=(
            Call(
                "receive",
                0,
                2,
                0,
                ((0, 0),) * 3,
                ((NUMBER, 2), (ADDRESS, 0), *[nothing] * 4),
            ),
            Call(
                "openat",
                1,
                3,
                0,
                ((2, 2), (ANY_ERROR, 2), (0, 0)),
                ((REGISTER, 1), (DATA, 0), (ADDRESS, 0), (NUMBER, 7), nothing, nothing),
            ),
            Call(
                "raise",
                1,
                4,
                2,
                ((0, 0),) * 3,
                ((REGISTER, 3), (DATA, 8), (NUMBER, -1), *[nothing] * 3),
            ),
        ),
        relocations=(8,),
        registers=5,
        data=b"path\0\0\0\0" + b"\0" * 8,
    )


def test_the_same_calls_make_the_same_text() -> None:
    def made() -> Program:
        walk = Walk(3)
        walk.begin("one")
        with walk.trying():
            walk.target("a/b", "file")
        return walk.program()

    assert made() == made()


def test_a_program_may_be_asked_for_twice() -> None:
    made = Calls(0)
    there = Label()
    made.call("raise", 1, unless=((1, there),))
    made.put(there)
    assert made.program() == made.program()


def test_calls_that_there_are_not() -> None:
    made = Calls(0)
    with pytest.raises(KeyError):
        made.call("fork_and_run")
    with pytest.raises(IndexError):
        made.call("set", *range(7))
    made.call("set", 1 << 63)
    with pytest.raises(OverflowError):
        made.program()


def test_a_place_that_is_nowhere() -> None:
    for made, ways in ((Calls(0), ((1, Label()),)), (Calls(0), ())):
        made.call("raise", 1, unless=ways, then=None if ways else Label())
        with pytest.raises(ValueError, match="nowhere"):
            made.program()


@STEADY
@given(st.lists(TEXT | st.binary(max_size=5), max_size=6))
def test_texts_are_found_where_they_are_said_to_be(texts: list[str | bytes]) -> None:
    made = Calls(0)
    places = [made.text(text) for text in texts]
    data = read(made.program().text).data
    for text, place in zip(texts, places, strict=True):
        wanted = os.fsencode(text)
        assert data[place : place + len(wanted) + 1] == wanted + b"\0"


@STEADY
@given(st.lists(TEXT, max_size=5), st.lists(TEXT, max_size=3))
def test_words_are_an_argv(before: list[str], words: list[str]) -> None:
    made = Calls(0)
    for other in before:
        made.text(other)
    place = int(made.words(words))
    text = read(made.program().text)
    assert place % 8 == 0
    assert len(text.relocations) == len(words)
    for number, word in enumerate(words):
        at = _pointer(text, place + 8 * number)
        found = text.data[at:].partition(b"\0")[0]
        assert found == word.encode(errors="surrogateescape").partition(b"\0")[0]
    assert _pointer(text, place + 8 * len(words)) == 0


def test_numbers_are_no_addresses_and_names_no_numbers() -> None:
    made = Calls(1)
    values_ = (5, Register(0), Address(0), Data(0), "text", errno.EIO)
    made.call("set", *values_)
    kinds = [kind for kind, _ in read(made.program().text).calls[1].arguments]
    assert kinds == [NUMBER, REGISTER, ADDRESS, DATA, DATA, NUMBER]


# ---- what comes back


def _programs() -> list[Program]:
    with_barrier = Calls(1)
    with_barrier.begin("first")
    with_barrier.call("wait", path="network")
    with_barrier.call("fsconfig", 0, path="tmpfs: x", head="tmpfs")
    steps = (
        namespaces.Barrier(origin="", barrier="ready", why=""),
        rootfs.PivotRoot(origin=""),
    )
    return [
        NOTHING,
        Calls(0).program(),
        Spec(()).compile(3),
        with_barrier.program(),
        Spec(steps).compile(0),
    ]


PROGRAMS = st.sampled_from(_programs())
U32 = st.integers(0, 4) | st.sampled_from([ANY_ERROR, ANY_ERROR - 1]) | st.integers(0, ANY_ERROR)
I32 = st.integers(-2, 200) | st.integers(-(1 << 31), (1 << 31) - 1)
REPORTS = st.builds(
    lambda kind, call, error, words, more: (
        struct.pack("=IIiI", kind, call, error, (len(words) + more) % (1 << 32)) + words
    ),
    U32,
    U32,
    I32,
    st.binary(max_size=40),
    st.sampled_from([0, 0, 0, 1, -1]),
)


@settings(STEADY, max_examples=500)
@given(st.binary(max_size=40) | REPORTS, PROGRAMS)
def test_any_bytes_are_a_report_or_none(data: bytes, program: Program) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(channel.decode(data, program), channel.Report)


@STEADY
@given(U32, I32, st.text(max_size=9), PROGRAMS)
def test_any_call_has_failed_or_is_none(
    call: int, error: int, words: str, program: Program
) -> None:
    with contextlib.suppress(ValueError):
        found = program.failure(call, error, words)
        assert -1 <= found.index < len(program.steps)
    with contextlib.suppress(ValueError):
        assert program.barrier(call) in ("network", "ready")


def test_who_walks_nothing_can_only_fail_before_it() -> None:
    for call in (0, 1, 1000):
        with pytest.raises(ValueError, match="no call"):
            NOTHING.failure(call, 1, "")
        with pytest.raises(ValueError, match="waits for nothing"):
            NOTHING.barrier(call)
    assert NOTHING.failure(0xFFFFFFFF, 28, "").step == "enter_cgroups"
    assert NOTHING.failure(0xFFFFFFFE, 22, "").syscall == "mmap"


def test_the_end_of_what_has_no_steps() -> None:
    program = Calls(0).program()
    assert program.failure(0, 9, "").step == "receive_descriptors"
    with pytest.raises(ValueError, match="no call"):
        program.failure(1, 0, "")


def test_acts_are_told_from_calls() -> None:
    assert max(NUMBERS.values()) < calls.ACTS
    assert not {*ACTS} & {*NUMBERS}
