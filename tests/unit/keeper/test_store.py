from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from lxcd.keeper import store as room
from lxcd.keeper.store import Kept, Store
from lxcd.kernel import fd as kernel_fd

if TYPE_CHECKING:
    from lxcd.keeper.epoll import Epoll

STEADY = settings(deadline=None, derandomize=True, database=None)


class Timers:
    """The one thing of an Epoll that a Store wants."""

    def __init__(self) -> None:
        self.acts: list[Callable[[], object]] = []

    def later(self, seconds: float, act: Callable[[], object]) -> None:
        assert seconds > 0
        self.acts.append(act)

    def run(self) -> None:
        acts, self.acts = self.acts, []
        for act in acts:
            act()


class Manager:
    """systemd's side: sd_notify(3) as far as it is about descriptors."""

    def __init__(self) -> None:
        # Not a pair: only what is bound refuses more than a few messages (net.unix.max_dgram_qlen).
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("")
        self.socket.setblocking(False)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.connect(self.socket.getsockname())
        self.stored: dict[str, int] = {}
        self.ready = 0

    def read(self) -> int:
        """Take all messages that are there; how many."""
        count = 0
        while True:
            try:
                data, fds = kernel_fd.receive(self.socket, 4096)
            except BlockingIOError:
                return count
            count += 1
            words = dict(line.split("=", 1) for line in data.decode().splitlines())
            self._take(words, fds)

    def _take(self, words: dict[str, str], fds: list[int]) -> None:
        if words == {"READY": "1"}:
            self.ready += 1
            return
        name = words.pop("FDNAME")
        # What systemd takes for a name, and what is not cut apart in LISTEN_FDNAMES.
        assert 0 < len(name) < 256
        assert name.isascii()
        assert name.isalnum()
        if words == {"FDSTORE": "1", "FDPOLL": "0"}:
            (number,) = fds
            assert name not in self.stored
            self.stored[name] = number
        else:
            assert words == {"FDSTOREREMOVE": "1"}
            assert fds == []
            # systemd passes over what it does not have.
            if name in self.stored:
                os.close(self.stored.pop(name))

    def handed_over(self) -> dict[str, int]:
        """As the next keeper gets them."""
        return {name: os.dup(number) for name, number in self.stored.items()}

    def store(self, timers: Timers) -> Store:
        return Store(cast("Epoll", timers), self.notify.dup())

    def close(self) -> None:
        self.socket.close()
        self.notify.close()
        kernel_fd.close_all(list(self.stored.values()))


@pytest.fixture
def manager() -> Iterator[Manager]:
    made = Manager()
    yield made
    made.close()


def inode(number: int) -> int:
    return os.fstat(number).st_ino


def memfd(text: str) -> int:
    number = os.memfd_create("test")
    os.write(number, text.encode())
    return number


def end(store: Store) -> None:
    """It is killed."""
    if store.notify is not None:
        store.notify.close()
    kernel_fd.close_all([number for _, number in store._unsent if number >= 0])
    if store._book >= 0:
        os.close(store._book)


IDS = st.sampled_from(["init-1", "exec-2", "a"])
STREAMS = st.sampled_from(["console", "stdout", "tty1"])


class Model(RuleBasedStateMachine):
    """Descriptors come and go; the keeper is killed and upgraded; the service manager is slow. What is stored is what is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = Manager()
        self.timers = Timers()
        self.store = self.manager.store(self.timers)
        self.kept: dict[Kept, int] = {}
        self.pids = 0

    def teardown(self) -> None:
        end(self.store)
        self.manager.close()
        kernel_fd.close_all(list(self.kept.values()))

    def _find(self, id_: str, what: str, stream: str) -> Kept | None:
        """A child has one pidfd; its streams are told apart by their names."""
        for kept in self.kept:
            if (kept.id, kept.what) == (id_, what) and what == "pidfd":
                return kept
            if kept == Kept(id_, "init", what, stream):
                return kept
        return None

    @rule(id_=IDS, what=st.sampled_from(["open", "ring"]), stream=STREAMS)
    def keep(self, id_: str, what: str, stream: str) -> None:
        number = memfd(f"{id_} {what} {stream}")
        self.store.keep(id_, "init", what, stream, number)
        if self._find(id_, what, stream) is None:
            self.kept[Kept(id_, "init", what, stream)] = number
        else:
            os.close(number)

    @rule(id_=IDS)
    def keep_pidfd(self, id_: str) -> None:
        self.pids += 1
        number = memfd(f"{id_} {self.pids}")
        self.store.keep(id_, "init", "pidfd", str(self.pids), number)
        if self._find(id_, "pidfd", "") is None:
            self.kept[Kept(id_, "init", "pidfd", str(self.pids))] = number
        else:
            os.close(number)

    @rule(id_=IDS, what=st.sampled_from(["open", "ring", "pidfd"]), stream=STREAMS)
    def drop(self, id_: str, what: str, stream: str) -> None:
        detail = "" if what == "pidfd" else stream
        self.store.drop(id_, what, detail)
        kept = self._find(id_, what, stream)
        if kept is not None:
            os.close(self.kept.pop(kept))

    @rule(id_=IDS)
    def forget(self, id_: str) -> None:
        self.store.forget(id_)
        for kept in [kept for kept in self.kept if kept.id == id_]:
            os.close(self.kept.pop(kept))

    @rule()
    def settle(self) -> None:
        while self.manager.read() or self.store.busy:
            self.timers.run()
        found = {name: inode(number) for name, number in self.manager.stored.items()}
        books = [name for name in found if name.startswith("book")]
        assert len(books) == (1 if self.store._book >= 0 else 0)
        for name in books:
            assert found.pop(name) == inode(self.store._book)
        assert sorted(found.values()) == sorted(inode(n) for n in self.kept.values())

    @rule(settled=st.booleans())
    def kill(self, *, settled: bool) -> None:
        if settled:
            self.settle()
        end(self.store)
        # What was on its way arrives.
        self.manager.read()
        self.timers = Timers()
        self.store = self.manager.store(self.timers)
        handed = self.manager.handed_over()
        found = self.store.restore(dict(handed))
        given = {kept: inode(number) for kept, number in self.kept.items()}
        told = {kept: inode(number) for kept, number in found.items()}
        if settled:
            assert told == given
        else:
            # It may not have come to tell of all; but what it has told is so.
            assert told.items() <= given.items()
        for kept in set(self.kept) - set(found):
            os.close(self.kept.pop(kept))
        for number in handed.values():
            if number not in found.values() and number != self.store._book:
                with pytest.raises(OSError, match="Bad file"):
                    os.fstat(number)
        kernel_fd.close_all(list(found.values()))

    @precondition(lambda self: not self.store.busy)
    @rule()
    def upgrade(self) -> None:
        words = json.loads(json.dumps(self.store.handed_over()))
        notify = self.store.notify
        assert notify is not None
        assert words.pop("notify") == notify.fileno()
        after = Store(cast("Epoll", self.timers), notify)
        after.resume(**words)
        self.store = after


TestModel = Model.TestCase
TestModel.settings = settings(STEADY, max_examples=60, stateful_step_count=60)


class SmallBooks(Model):
    """The same, with the book written anew every few lines."""

    def __init__(self) -> None:
        super().__init__()
        self._before = room._BOOK_BYTES
        room._BOOK_BYTES = 120

    def teardown(self) -> None:
        room._BOOK_BYTES = self._before
        super().teardown()


TestSmallBooks = SmallBooks.TestCase
TestSmallBooks.settings = settings(STEADY, max_examples=60, stateful_step_count=60)


# ---- the service manager


def test_what_is_stored_is_named_and_not_polled(manager: Manager) -> None:
    timers = Timers()
    store = manager.store(timers)
    store.ready()
    with kernel_fd.Fd(memfd("pidfd")) as pidfd:
        store.keep("init-1", "init", "pidfd", "77", pidfd.fileno())
        manager.read()
        assert manager.ready == 1
        assert set(manager.stored) == {"book1", "1"}
        assert inode(manager.stored["1"]) == inode(pidfd.fileno())
    store.drop("init-1", "pidfd")
    manager.read()
    assert set(manager.stored) == {"book1"}
    assert timers.acts == []
    end(store)


def test_without_a_service_manager_it_does_nothing() -> None:
    timers = Timers()
    store = Store(cast("Epoll", timers), None)
    store.ready()
    store.keep("a", "init", "pidfd", "1", 0)
    store.drop("a", "pidfd")
    store.forget("a")
    assert store.restore({}) == {}
    assert not store.busy
    assert timers.acts == []
    assert store.handed_over()["notify"] == -1
    assert store.handed_over()["kept"] == {}


def test_a_slow_service_manager_gets_all_in_order(manager: Manager) -> None:
    timers = Timers()
    store = manager.store(timers)
    numbers = [memfd(str(number)) for number in range(100)]
    for place, number in enumerate(numbers):
        store.keep(f"a{place}", "init", "ring", "console", number)
        if place % 2:
            store.forget(f"a{place}")
    assert store._unsent
    inodes = [inode(number) for number in numbers]
    # Copies wait: ours may be closed meanwhile.
    kernel_fd.close_all(numbers)
    while store.busy:
        timers.run()
        manager.read()
    manager.read()
    assert manager.stored.keys() == {"book1", *(room._short(n) for n in range(1, 101, 2))}
    for place in range(0, 100, 2):
        assert inode(manager.stored[room._short(place + 1)]) == inodes[place]
    end(store)


def test_a_service_manager_that_is_gone_holds_nobody_up(
    manager: Manager, capsys: pytest.CaptureFixture[str]
) -> None:
    timers = Timers()
    store = manager.store(timers)
    manager.socket.close()
    store.ready()
    with kernel_fd.Fd(memfd("")) as number:
        store.keep("a", "init", "ring", "console", number.fileno())
    store.forget("a")
    assert not store.busy
    assert timers.acts == []
    assert "cannot be told" in capsys.readouterr().err
    end(store)


def test_the_later_of_two_books_counts(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was killed between storing the new one and taking back the old one."""
    timers = Timers()
    store = manager.store(timers)
    with kernel_fd.Fd(memfd("one")) as one, kernel_fd.Fd(memfd("two")) as two:
        store.keep("a", "init", "ring", "console", one.fileno())
        manager.read()
        old = os.dup(manager.stored["book1"])
        monkeypatch.setattr(room, "_BOOK_BYTES", 0)
        store.keep("b", "init", "ring", "console", two.fileno())
        manager.read()
        assert set(manager.stored) == {"book2", "1", "2"}
    end(store)
    manager.stored["book1"] = old
    again = manager.store(timers)
    handed = manager.handed_over()
    found = again.restore(handed)
    assert [(kept.id, kept.detail) for kept in found] == [("a", "console"), ("b", "console")]
    manager.read()
    assert set(manager.stored) == {"book2", "1", "2"}
    kernel_fd.close_all(list(found.values()))
    end(again)


@pytest.mark.parametrize("book", [None, "", "é\0[[[\n[]\n1\n"])
def test_without_its_book_nothing_is_known(manager: Manager, book: str | None) -> None:
    timers = Timers()
    numbers = {"1": memfd("one"), "stored": memfd("x"), "bookish": memfd("y"), "book": memfd("z")}
    if book is not None:
        numbers["book3"] = memfd(book)
    manager.stored = {name: os.dup(number) for name, number in numbers.items()}
    store = manager.store(timers)
    assert store.restore(dict(numbers)) == {}
    manager.read()
    assert set(manager.stored) <= {"book3"}
    # And it can be gone on with.
    with kernel_fd.Fd(memfd("new")) as number:
        store.keep("a", "init", "ring", "console", number.fileno())
        manager.read()
        new = [n for name, n in manager.stored.items() if not name.startswith("book")]
        assert [inode(n) for n in new] == [inode(number.fileno())]
    end(store)


# ---- the book


TEXTS = st.text(max_size=20)
LINES = st.one_of(
    st.lists(TEXTS, max_size=6),
    st.tuples(st.sampled_from(["1", "2", "z", "10"])).map(list),
    st.tuples(st.sampled_from(["1", "2", "z", "10"]), TEXTS, TEXTS, TEXTS, TEXTS).map(list),
    st.recursive(st.none() | st.booleans() | st.floats() | TEXTS, st.lists),
)


@STEADY
@given(
    st.one_of(st.binary(), st.lists(LINES).map(lambda ls: "\n".join(map(json.dumps, ls)).encode()))
)
def test_any_book_can_be_read(text: bytes) -> None:
    found = room._read(text)
    for token, kept in found.items():
        assert int(token, 36) >= 0
        assert json.dumps(kept.id)


@STEADY
@given(st.lists(LINES), st.integers(0, 10_000))
def test_a_torn_line_costs_itself_only(lines: list[object], cut: int) -> None:
    whole = [json.dumps(line).encode() for line in lines]
    text = b"".join(line + b"\n" for line in whole)
    torn = text[:cut]
    complete = torn.count(b"\n")
    expected = room._read(b"".join(line + b"\n" for line in whole[:complete]))
    rest = torn.rpartition(b"\n")[2]
    if complete < len(whole) and rest == whole[complete]:
        # Only its end of line is missing.
        expected = room._read(b"".join(line + b"\n" for line in whole[: complete + 1]))
    assert room._read(torn) == expected


@STEADY
@given(st.lists(st.integers(1, 1 << 64), unique=True))
def test_numbers_in_few_characters(numbers: list[int]) -> None:
    words = [room._short(number) for number in numbers]
    assert len(set(words)) == len(words)
    for number, word in zip(numbers, words, strict=True):
        assert int(word, 36) == number
        assert room._is_token(word)
        assert len(word) <= 1 + number.bit_length() // 5


def test_twenty_thousand_names_fit_into_one_variable() -> None:
    # MAX_ARG_STRLEN
    assert sum(len(room._short(number)) + 1 for number in range(20_000)) < 128 * 1024 - 20


@pytest.mark.parametrize("text", ["", "A", "a b", "a:b", "é", "²", "a\n", "-1", "+1", "1_0"])
def test_what_is_no_token(text: str) -> None:
    assert not room._is_token(text)
