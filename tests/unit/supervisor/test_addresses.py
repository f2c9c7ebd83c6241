"""Who is told of a container's network, and when."""

from __future__ import annotations

import socket
from ipaddress import ip_interface
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from lxcd.network.device import Assigned, Device
from lxcd.network.picture import Address, Interface, Picture, Route
from lxcd.supervisor.addresses import Addresses, summary
from lxcd.supervisor.lull import Lull

if TYPE_CHECKING:
    from collections.abc import Iterator

V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)
LO = Interface(1, "lo", "loopback", flags=0x49, addresses=(Address(V4, "127.0.0.1", 8, "host"),))


def eth0(*texts: str) -> Interface:
    found = tuple(
        Address(V6 if ":" in text else V4, text, 24, "link" if text.startswith("fe80") else "global")
        for text in texts
    )  # fmt: skip
    return Interface(2, "eth0", "veth", flags=0x1043, addresses=found)


class Container:
    """What of one is needed."""

    def __init__(self) -> None:
        self.network: Picture | None = None
        self.name = "box"
        self.record = SimpleNamespace(namespaces=("net",))
        self.told: list[str] = []
        self.woken = 0

    def tell(self, type_: str, *, message: str) -> None:
        assert type_ == "container.network_changed"
        self.told.append(message)

    def wake(self) -> None:
        self.woken += 1


@pytest.fixture
def addresses() -> Iterator[Addresses]:
    made = Addresses(lambda work: work.close(), Lull())
    yield made
    made.close()


def test_in_a_line() -> None:
    assert summary(Picture((LO,))) == "no address"
    assert summary(Picture((LO, eth0("10.0.0.2", "fe80::1", "fd00::2")))) == (
        "eth0 10.0.0.2/24, eth0 fd00::2/24"
    )
    many = summary(Picture((eth0(*[f"10.0.0.{number}" for number in range(20)]),)))
    assert many.endswith(", eth0 10.0.0.7/24, ...")


def test_what_every_namespace_is_born_with_is_no_news(addresses: Addresses) -> None:
    made = Container()
    container: Any = made
    seen: list[tuple[object, Picture | None]] = []
    addresses.on_change.append(lambda one, picture: seen.append((one, picture)))
    pictures = [
        Picture((LO,)),
        Picture((LO, eth0())),
        Picture((LO, eth0("10.0.0.2")), (Route(V4, "10.0.0.0/24", interface="eth0"),)),
        Picture((LO,)),
    ]
    for picture in pictures:
        addresses._changed(container, picture)
        assert made.network == picture
    assert made.told == ["no address", "eth0 10.0.0.2/24", "no address"]
    assert made.woken == 4
    addresses.end(container)
    assert made.network is None
    addresses.end(container)
    assert seen == [(made, picture) for picture in [*pictures, None]]


def test_one_that_is_found_with_a_network_is_news(addresses: Addresses) -> None:
    made = Container()
    addresses._changed(cast("Any", made), Picture((LO, eth0("10.0.0.2"))))
    assert made.told == ["eth0 10.0.0.2/24"]


async def test_without_a_network_of_its_own_nobody_looks(addresses: Addresses) -> None:
    made = Container()
    made.record.namespaces = ("mnt", "pid")
    addresses.begin(cast("Any", made), cast("Any", None), ())
    assert addresses._watches == {}
    assert await addresses.counters(cast("Any", made)) == {}


def test_an_address_that_another_has_on_the_same_link(addresses: Addresses) -> None:
    def devices(link: str, *given: str) -> tuple[Device, ...]:
        origin = "config:3"
        assigned = tuple(Assigned(ip_interface(text), None, origin) for text in given)
        return (Device(0, "veth", "eth0", 2, origin, link=link, assigned=assigned),)

    def told(link: str, *given: str) -> list[str]:
        return [problem.message for problem in addresses.twice(devices(link, *given))]

    made = [Container() for _ in range(3)]
    for number, one in enumerate(made):
        one.name = f"box-{number}"
        # Whatever is watched: this is about what is given.
        one.record.namespaces = ()
    first, second, third = (cast("Any", one) for one in made)
    assert told("br0", "10.0.0.2/24") == []
    addresses.begin(first, cast("Any", None), devices("br0", "10.0.0.2/24", "fd00::2/64"))
    addresses.begin(third, cast("Any", None), devices("", "10.0.0.9/24"))
    assert told("br0", "10.0.0.2/16", "fd00::2/64", "10.0.0.3/24") == [
        "10.0.0.2 is also box-0's, on br0",
        "fd00::2 is also box-0's, on br0",
    ]
    assert told("br1", "10.0.0.2/24") == told("", "10.0.0.9/24") == []
    # Who has it too stays when the first goes.
    addresses.begin(second, cast("Any", None), devices("br0", "10.0.0.2/24"))
    addresses.end(first)
    assert told("br0", "10.0.0.2/24", "fd00::2/64") == ["10.0.0.2 is also box-1's, on br0"]
    addresses.end(second)
    addresses.end(third)
    assert addresses._given == {}
