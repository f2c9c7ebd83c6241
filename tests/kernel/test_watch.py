"""Watching a network namespace, against the kernel: overflows, ends in the middle, what it costs."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lxcd.kernel.fd import Fd
from lxcd.network import namespace, watch
from lxcd.network.picture import Picture
from lxcd.network.watch import Watch
from tests.patience import PATIENCE

DEADLINE = 30.0 * PATIENCE


class Place:
    """A network namespace that lives as long as one process in it, and who holds it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up; echo; exec sleep 1000"],
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()
        self.pid = self._process.pid
        self.inode = os.stat(f"/proc/{self.pid}/ns/net").st_ino

    def ip(self, *commands: str) -> None:
        """Commands of ip(8), in there, by one process."""
        subprocess.run(
            ["nsenter", "-t", str(self.pid), "-n", "ip", "-batch", "-"],
            input="".join(f"{command}\n" for command in commands).encode(),
            check=True,
        )

    def pidfd(self) -> Fd:
        return Fd(os.pidfd_open(self.pid))

    def close(self) -> None:
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.kill()
        self._process.wait()


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.close()


class Seen:
    """Every picture that was told of."""

    def __init__(self) -> None:
        self.pictures: list[Picture] = []
        self._news = asyncio.Event()

    def take(self, picture: Picture) -> None:
        self.pictures.append(picture)
        self._news.set()

    async def until(self, holds: Callable[[Picture], bool]) -> Picture:
        async with asyncio.timeout(DEADLINE):
            while not (self.pictures and holds(self.pictures[-1])):
                self._news.clear()
                await self._news.wait()
        return self.pictures[-1]


@asynccontextmanager
async def watching(
    place: Place,
    opened: Fd | None = None,
    before_look: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[tuple[Watch, Seen]]:
    host, seen = Fd(namespace.open_own()), Seen()
    async with asyncio.TaskGroup() as tasks:
        with host:
            made = Watch(host.fileno(), seen.take, before_look)
            inside = opened or place.pidfd()
            task = tasks.create_task(made.run(inside, opened=opened is not None))
            try:
                yield made, seen
            finally:
                made.close()
                await task


def addresses(picture: Picture, name: str = "one") -> set[str]:
    return {
        address.address
        for interface in picture.interfaces
        if interface.name == name
        for address in interface.addresses
    }


async def test_a_buffer_too_small_for_what_is_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel makes it 2304 bytes, of which one notification of a link takes all.
    monkeypatch.setattr(watch, "BUFFER_BYTES", 1)
    async with watching(place) as (_, seen):
        await seen.until(lambda picture: len(picture.interfaces) == 1)
        storm = ["link add one type veth peer name two"]
        for number in range(1, 200):
            storm += [
                f"addr add 10.0.0.{number}/32 dev one",
                f"addr del 10.0.0.{number}/32 dev one",
            ]
        storm += ["addr add 10.9.9.9/32 dev one", "link set one up", "link set two up"]
        await asyncio.to_thread(place.ip, *storm)
        last = await seen.until(lambda picture: "10.9.9.9" in addresses(picture))
        assert {one for one in addresses(last) if one.startswith("10.")} == {"10.9.9.9"}
        await seen.until(lambda picture: all(one.up for one in picture.interfaces))


async def test_an_overflow_is_noticed_on_a_socket_that_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without NETLINK_NO_ENOBUFS: what a full buffer makes of a dump is no answer either."""
    monkeypatch.setattr(watch, "BUFFER_BYTES", 1)
    monkeypatch.setattr(watch, "_NO_ENOBUFS", watch._GET_STRICT_CHK)
    async with watching(place) as (_, seen):
        await seen.until(lambda picture: len(picture.interfaces) == 1)
        storm = ["link add one type veth peer name two"] + [
            f"addr add 10.0.{number}.1/32 dev one" for number in range(200)
        ]
        await asyncio.to_thread(place.ip, *storm)
        last = await seen.until(lambda picture: "10.0.199.1" in addresses(picture))
        assert len(addresses(last)) == 200


async def test_pictures_are_few_while_changes_are_many(place: Place) -> None:
    async with watching(place) as (_, seen):
        await asyncio.to_thread(place.ip, "link add one type veth peer name two")
        await seen.until(lambda picture: len(picture.interfaces) == 3)
        flood = [f"addr {verb} 10.0.0.1/32 dev one" for _ in range(3000) for verb in ("add", "del")]
        before = len(seen.pictures)
        await asyncio.to_thread(place.ip, *flood, "addr add 10.0.0.2/32 dev one")
        await seen.until(lambda picture: addresses(picture) == {"10.0.0.2"})
        assert len(seen.pictures) - before < 30


async def test_what_is_more_than_it_keeps_is_cut_and_comes_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "ADDRESSES", 10)
    monkeypatch.setattr(watch, "INTERFACES", 4)
    async with watching(place) as (_, seen):
        await asyncio.to_thread(
            place.ip,
            "link add one type veth peer name two",
            *[f"addr add 10.0.{number}.1/32 dev one" for number in range(50)],
        )
        cut = await seen.until(lambda picture: picture.cut)
        assert sum(len(one.addresses) for one in cut.interfaces) == 10
        await asyncio.to_thread(place.ip, "addr flush dev one", "addr add 10.1.0.1/32 dev two")
        await seen.until(lambda p: not p.cut and addresses(p, "two") == {"10.1.0.1"})
        await asyncio.to_thread(
            place.ip, *[f"link add x{n} type veth peer name y{n}" for n in range(5)]
        )
        cut = await seen.until(lambda picture: picture.cut)
        assert len(cut.interfaces) == 4


def holders(inode: int) -> int:
    """How many sockets of ours are in a network namespace: their fdinfo does not say, SIOCGSKNS (0x894c) does."""

    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with Fd(fcntl.ioctl(int(name), 0x894C)) as there:
                found += os.fstat(there.fileno()).st_ino == inode
        except OSError:
            continue
    return found


async def test_closing_lets_the_namespace_go_at_once(place: Place) -> None:
    async with watching(place) as (made, seen):
        await seen.until(lambda picture: len(picture.interfaces) == 1)
        assert holders(place.inode) == 1
        made.close()
        assert holders(place.inode) == 0
        assert await made.counters() == {}
        made.close()


async def test_closing_in_the_middle_of_a_look(place: Place) -> None:
    for _ in range(50):
        async with watching(place) as (made, _):
            # Wherever it is: opening, asking, or waiting.
            await asyncio.sleep(0)
            busy = asyncio.ensure_future(made.counters())
            await asyncio.sleep(0)
            made.close()
            await busy
        assert holders(place.inode) == 0


def opened_in(place: Place) -> Fd:
    with place.pidfd() as inside:
        return Fd(namespace.netlink(inside.fileno()).detach())


async def test_by_a_socket_that_was_opened_inside(place: Place) -> None:
    async with watching(place, opened_in(place)) as (_, seen):
        await seen.until(lambda picture: len(picture.interfaces) == 1)
        await asyncio.to_thread(place.ip, "link add one type veth peer name two")
        await seen.until(lambda picture: len(picture.interfaces) == 3)
    assert holders(place.inode) == 0


async def test_nobody_looks_before_it_is_time(place: Place) -> None:
    may = asyncio.Event()

    async def wait() -> None:
        await may.wait()

    async with watching(place, opened_in(place), wait) as (made, seen):
        await asyncio.to_thread(place.ip, "link add one type veth peer name two")
        # It is there all the same for who asks.
        assert len(await made.counters()) == 3
        assert seen.pictures == []
        may.set()
        await seen.until(lambda picture: len(picture.interfaces) == 3)
        may.clear()
        await asyncio.to_thread(place.ip, "link del one")
        may.set()
        await seen.until(lambda picture: len(picture.interfaces) == 1)
    assert holders(place.inode) == 0


async def test_closed_while_it_waits_to_look(place: Place) -> None:
    never = asyncio.get_running_loop().create_future()
    host = Fd(namespace.open_own())
    with host:
        made = Watch(host.fileno(), Seen().take, lambda: never)
        task = asyncio.ensure_future(made.run(opened_in(place), opened=True))
        await asyncio.sleep(0)
        made.close()
        assert holders(place.inode) == 0
        never.set_result(None)
        await task


async def test_closed_before_it_began(place: Place) -> None:
    with Fd(namespace.open_own()) as host:
        seen = Seen()
        made = Watch(host.fileno(), seen.take)
        made.close()
        await made.run(place.pidfd())
        assert seen.pictures == []
        assert holders(place.inode) == 0


async def test_of_a_process_that_has_gone(place: Place) -> None:
    pidfd = place.pidfd()
    place.close()
    with Fd(namespace.open_own()) as host:
        seen = Seen()
        await Watch(host.fileno(), seen.take).run(pidfd)
        assert seen.pictures == []


async def test_counters_and_looks_share_the_socket(place: Place) -> None:
    async with watching(place) as (made, seen):
        await asyncio.to_thread(place.ip, "link add one type veth peer name two")
        await seen.until(lambda picture: len(picture.interfaces) == 3)

        async def count() -> None:
            for _ in range(100):
                assert len(await made.counters()) == 3

        async def change() -> None:
            for number in range(1, 15):
                await asyncio.to_thread(place.ip, f"addr add 10.0.0.{number}/32 dev one")
                wanted = f"10.0.0.{number}"
                await seen.until(lambda p: wanted in addresses(p))  # noqa: B023  waited for here

        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(count())
            tasks.create_task(change())
    assert holders(place.inode) == 0


async def test_nothing_happens_while_nothing_happens(place: Place) -> None:
    async with watching(place) as (made, seen):
        await seen.until(lambda picture: len(picture.interfaces) == 1)
        looks: list[socket.socket] = []
        original = made._everything

        def counted(opened: socket.socket) -> tuple[Picture, bool, float]:
            looks.append(opened)
            return original(opened)

        made._everything = counted  # type: ignore[method-assign]
        await asyncio.sleep(1.5)  # longer than all the times that it waits after a look
        assert len(looks) <= 1  # of what was told before the first
        before = len(looks)
        await asyncio.to_thread(place.ip, "link add one type veth peer name two")
        await seen.until(lambda picture: len(picture.interfaces) == 3)
        assert len(looks) > before


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="a kernel without IPv6")
async def test_tentative_until_it_is_known_to_be_free(place: Place) -> None:
    async with watching(place) as (_, seen):
        await asyncio.to_thread(
            place.ip,
            "link add one type veth peer name two",
            "link set two up",
            "link set one up",
            "addr add fd00::1/64 dev one",
        )

        def state(picture: Picture) -> list[bool]:
            return [
                address.tentative
                for interface in picture.interfaces
                for address in interface.addresses
                if address.address == "fd00::1"
            ]

        await seen.until(lambda picture: state(picture) == [False])
        flags = [flag for picture in seen.pictures for flag in state(picture)]
        assert flags == sorted(flags, reverse=True)
        assert seen.pictures[-1].reachable
        assert not any(picture.reachable for picture in seen.pictures if state(picture) == [True])
