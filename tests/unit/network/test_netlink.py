from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.network import netlink
from lxcd.network.netlink import Message, Netlink, RefusedError, Request, decode, encode

STEADY = settings(deadline=None, derandomize=True, database=None)
HEADER = struct.Struct("=IHHII")
_ROUTE, _KERNEL_ERROR = 0, 2
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-_", min_size=1, max_size=15)
HWADDRS = st.binary(min_size=6, max_size=6).map(lambda data: data.hex(":"))
NOBODY = 0x7FFFFFF0  # an index that no device has


def frame(number: int, payload: bytes, *, flags: int = 0, sequence: int = 1) -> bytes:
    return HEADER.pack(HEADER.size + len(payload), number, flags, sequence, 0) + payload


@pytest.fixture
def rtnetlink() -> Iterator[Netlink]:
    with Netlink(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _ROUTE)) as opened:
        yield opened


def one(request: Request) -> Message:
    (message,) = decode(encode(request, 7))
    return message


# What is said is what is understood.


@STEADY
@given(NAMES, HWADDRS, st.integers(0, 0xFFFFFFFF), st.integers(0, 0x7FFFFFFF))
def test_a_link_says_what_it_was_told(name: str, hwaddr: str, mtu: int, index: int) -> None:
    attributes: list[tuple[str, Any]] = [
        ("IFLA_IFNAME", name),
        ("IFLA_ADDRESS", hwaddr),
        ("IFLA_MTU", mtu),
    ]
    message = one(Request("newlink", {"index": index, "flags": 1}, attributes, "x"))
    assert message.verb == "newlink"
    assert (message.fields["index"], message.fields["flags"]) == (index, 1)
    assert message.attributes == dict(attributes)


@STEADY
@given(NAMES, NAMES, HWADDRS, st.integers(1, 4096))
def test_a_pair_says_both_of_its_ends(name: str, peer: str, hwaddr: str, queues: int) -> None:
    ends = [("IFLA_IFNAME", peer), ("IFLA_ADDRESS", hwaddr), ("IFLA_NUM_TX_QUEUES", queues)]
    data = {"attrs": [("VETH_INFO_PEER", {"attrs": ends})]}
    info = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}
    attributes = [("IFLA_IFNAME", name), ("IFLA_LINKINFO", info)]
    said = one(Request("newlink", {}, attributes, "x")).attributes["IFLA_LINKINFO"]
    assert said["IFLA_INFO_KIND"] == "veth"
    assert said["IFLA_INFO_DATA"]["VETH_INFO_PEER"] == dict(ends)


@STEADY
@given(st.ip_addresses(), st.data())
def test_an_address_and_a_route_say_theirs(address: Any, data: st.DataObject) -> None:
    prefix = data.draw(st.integers(0, address.max_prefixlen))
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    fields = {"family": family, "index": 2, "prefixlen": prefix}
    message = one(Request("newaddr", fields, [("IFA_LOCAL", str(address))], "x"))
    assert message.fields["prefixlen"] == prefix
    assert ipaddress.ip_address(message.attributes["IFA_LOCAL"]) == address
    fields = {"family": family, "dst_len": prefix, "flags": 4}
    attributes = [("RTA_DST", str(address)), ("RTA_OIF", 2), ("RTA_GATEWAY", str(address))]
    message = one(Request("newroute", fields, attributes, "x"))
    assert (message.fields["dst_len"], message.fields["flags"]) == (prefix, 4)
    assert message.attributes["RTA_OIF"] == 2
    for name in ("RTA_DST", "RTA_GATEWAY"):
        assert ipaddress.ip_address(message.attributes[name]) == address


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("isolation", [0, 1, 2])
def test_who_may_talk_to_whom_on_an_ipvlan(mode: int, isolation: int) -> None:
    data = {"attrs": [("IFLA_IPVLAN_MODE", mode), ("IFLA_IPVLAN_FLAGS", isolation)]}
    info = {"attrs": [("IFLA_INFO_KIND", "ipvlan"), ("IFLA_INFO_DATA", data)]}
    sent = encode(Request("newlink", {}, [("IFLA_LINKINFO", info)], "x"), 1)
    # Two attributes of two bytes each: linux/if_link.h.
    assert struct.pack("=HHHxxHHHxx", 6, 1, mode, 6, 2, isolation) in sent


@STEADY
@given(st.integers(1, 0xFFFFFFFF), st.sampled_from(sorted(netlink._VERBS)))
def test_the_header_is_whole(sequence: int, verb: str) -> None:
    for dump in (False, True):
        data = encode(Request(verb, {}, [], "x"), sequence, dump=dump)
        length, number, flags, found, _ = HEADER.unpack_from(data)
        assert (length, found) == (len(data), sequence)
        assert number == netlink._VERBS[verb][0]
        assert flags & 1
        assert bool(flags & 4) is not dump


def test_what_may_be_there_is_replaced() -> None:
    request = Request("newneigh", {}, [], "x", replace=True)
    flags = HEADER.unpack_from(encode(request, 1))[2]
    assert flags & 0x700 == 0x500  # NLM_F_CREATE | NLM_F_REPLACE, and not NLM_F_EXCL


# Whatever comes


def tries_to(data: bytes) -> list[Message]:
    """What is understood of it; it may be told that it is nonsense, and nothing else."""
    try:
        return decode(data)
    except OSError as error:
        if error.errno != errno.EBADMSG:
            raise
        return []


@STEADY
@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    tries_to(data)


@settings(STEADY, max_examples=400)
@given(st.sampled_from([16, 17, 20, 21, 24, 25]), st.binary(max_size=200))
def test_any_payload(number: int, payload: bytes) -> None:
    for message in tries_to(frame(number, payload)):
        assert message.verb


@settings(STEADY, max_examples=400)
@given(st.data())
def test_any_damage_to_what_was_right(data: st.DataObject) -> None:
    ends = [("IFLA_IFNAME", "peer"), ("IFLA_ADDRESS", "00:16:3e:00:00:01")]
    nested = {"attrs": [("VETH_INFO_PEER", {"attrs": ends})]}
    info = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", nested)]}
    right = bytearray(
        encode(Request("newlink", {}, [("IFLA_IFNAME", "one"), ("IFLA_LINKINFO", info)], "x"), 1)
        + encode(Request("newaddr", {"family": 2}, [("IFA_LOCAL", "10.0.0.1")], "x"), 2)
        + encode(Request("newroute", {"family": 10}, [("RTA_DST", "fd00::")], "x"), 3)
    )
    places = st.integers(0, len(right) - 1)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=12)):
        right[place] = value
    tries_to(bytes(right[: data.draw(places)]))


def test_what_is_no_message_of_ours_is_passed_over() -> None:
    assert decode(b"") == []
    assert decode(frame(3, b"\0\0\0\0") + frame(0x1234, b"abcd")) == []
    # One that says it is longer than what there is, or shorter than its header.
    assert decode(HEADER.pack(400, 16, 0, 1, 0)) == []
    assert decode(HEADER.pack(3, 16, 0, 1, 0) + bytes(30)) == []


@STEADY
@given(st.binary(max_size=100), st.integers(0, 0xFFFF))
def test_any_acknowledgement(payload: bytes, flags: int) -> None:
    code, text = netlink._acknowledged(frame(_KERNEL_ERROR, payload), flags)
    assert isinstance(code, int)
    assert isinstance(text, str)


# The kernel


def test_a_dump_has_all(rtnetlink: Netlink) -> None:
    found = rtnetlink.dump(Request("getlink", {}, [], "links"))
    names = {message.attributes["IFLA_IFNAME"] for message in found}
    assert names == {name for _, name in socket.if_nameindex()}
    found = rtnetlink.dump(Request("getaddr", {"family": socket.AF_INET}, [], "addresses"))
    assert {message.verb for message in found} <= {"newaddr"}


def refused(number: int) -> Request:
    """One that nobody is allowed, and that is not possible either."""
    return Request("setlink", {"index": NOBODY, "flags": 1, "change": 1}, [], f"try {number}")


def test_the_first_refusal_is_told_and_all_are_known(rtnetlink: Netlink) -> None:
    requests = [refused(number) for number in range(3)]
    with pytest.raises(RefusedError) as caught:
        rtnetlink.run(requests)
    assert caught.value.request is requests[0]
    assert caught.value.refused == requests
    assert caught.value.syscall == "RTM_SETLINK"
    assert caught.value.errno in (errno.ENODEV, errno.EPERM)
    # And the socket goes on.
    assert rtnetlink.dump(Request("getlink", {}, [], "links"))


def test_what_is_optional_may_be_refused(rtnetlink: Netlink) -> None:
    rtnetlink.run([])
    rtnetlink.run(
        [Request("setlink", {"index": NOBODY, "flags": 1, "change": 1}, [], "x", optional=True)]
    )


def test_thousands_of_requests_and_little_room_for_answers(rtnetlink: Netlink) -> None:
    fileno = rtnetlink.fileno()
    with socket.socket(fileno=fileno) as same:
        # What a kernel of some years ago gave at most.
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 212_992)
        same.detach()
    requests = [refused(number) for number in range(5000)]
    with pytest.raises(RefusedError) as caught:
        rtnetlink.run(requests)
    assert caught.value.refused == requests


def test_a_dump_that_is_refused_says_so(rtnetlink: Netlink) -> None:
    # Of addresses with a prefix there is none, and the kernel is asked to be strict.
    fields = {"family": socket.AF_INET, "prefixlen": 24}
    with pytest.raises(RefusedError, match="Invalid argument") as caught:
        rtnetlink.dump(Request("getaddr", fields, [], "x"))
    assert caught.value.errno == errno.EINVAL
    fields = {"family": socket.AF_INET, "index": NOBODY}
    with pytest.raises(RefusedError, match="No such device"):
        rtnetlink.dump(Request("getaddr", fields, [], "x"))


def test_nothing_was_told(rtnetlink: Netlink) -> None:
    rtnetlink.listen("link", "ipv4_address", "ipv4_route", "ipv6_address", "ipv6_route")
    assert rtnetlink.receive() == []
