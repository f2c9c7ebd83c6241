"""Addresses are known: the kernel tells of each change from inside a container's network namespace, and nothing polls."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from lxcd.v1 import container_pb2 as pb
from lxcd.v1 import host_pb2, types_pb2
from tests.system import ledger
from tests.system.boxes import Box, defined, info
from tests.system.calls import IDLE, application, events, everything, idle, refused, seconds
from tests.system.host import Host
from tests.system.machine import DEADLINE, until

PEER = "lxcd-box"
IP = "/bin/busybox ip"


def give(made: Box, device: str = "eth0", peer: str = PEER) -> None:
    """A veth pair: `peer` on the host, its other end in the container."""
    pid = made.info().pid
    run = made.host.machine.run
    run(*f"ip link add {peer} type veth peer name {device} netns {pid}".split())
    run("ip", "link", "set", peer, "up")


def links(host: Host) -> set[str]:
    return {link["ifname"] for link in json.loads(host.machine.run("ip", "-j", "link").stdout)}


def device(found: pb.Container, name: str = "eth0") -> types_pb2.NetworkInterface:
    """The device of that name; one without a name if there is none."""
    there = [one for one in found.network_interfaces if one.name == name]
    return there[0] if there else types_pb2.NetworkInterface()


def addresses(found: pb.Container, name: str = "eth0") -> dict[str, types_pb2.NetworkAddress]:
    return {address.address: address for address in device(found, name).addresses}


def network(made: Box, timeout: float | None = DEADLINE, generation: int = 0) -> Any:
    request = pb.WaitContainerRequest(
        name=made.name, condition=pb.CONDITION_NETWORK, generation=generation
    )
    if timeout is not None:
        request.timeout.CopyFrom(seconds(timeout))
    return made.api.container.WaitContainer(request, timeout=2 * DEADLINE)


class Watched:
    """WatchContainers of one container, read by a thread of its own: no call of ours can be what makes lxcd look."""

    def __init__(self, made: Box) -> None:
        self._call = made.api.container.WatchContainers(
            pb.WatchContainersRequest(names=[made.name])
        )
        self._news = threading.Condition()
        self.last = pb.Container()
        self.count = 0
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for answer in self._call:
                if answer.HasField("container"):
                    with self._news:
                        self.last = answer.container
                        self.count += 1
                        self._news.notify_all()
        except grpc.RpcError:
            pass

    def shows(self, what: Any) -> pb.Container:
        with self._news:
            assert self._news.wait_for(lambda: what(self.last), DEADLINE), self.last
            return self.last

    def close(self) -> None:
        self._call.cancel()
        self._thread.join()


@contextmanager
def watched(made: Box) -> Iterator[Watched]:
    it = Watched(made)
    try:
        yield it
    finally:
        it.close()


@pytest.fixture
def made(shared_host: Host, busybox_root: Path) -> Iterator[Box]:
    with idle(shared_host, busybox_root, "box") as it:
        yield it
    # The pair goes with the namespace, and that when the last descriptor of it is closed.
    until(lambda: PEER not in links(shared_host), "the pair is gone")


def test_every_change_is_told_without_asking(made: Box) -> None:
    with watched(made) as watch:
        give(made)
        eth0 = device(watch.shows(lambda c: device(c).name))
        on_host = json.loads(made.host.machine.run("ip", "-j", "link", "show", PEER).stdout)[0]
        assert (eth0.type, eth0.up, eth0.mtu) == ("veth", False, 1500)
        assert (eth0.host_name, eth0.host_index) == (PEER, on_host["ifindex"])
        assert eth0.hardware_address == made.sh("cat /sys/class/net/eth0/address")
        made.sh(f"{IP} link set eth0 up")
        watch.shows(lambda c: device(c).up and device(c).carrier)
        made.sh(f"{IP} addr add 10.1.0.2/24 dev eth0")
        one = addresses(watch.shows(lambda c: "10.1.0.2" in addresses(c)))["10.1.0.2"]
        assert (one.prefix_length, one.scope) == (24, "global")
        assert one.family == types_pb2.ADDRESS_FAMILY_INET
        made.sh(f"{IP} route add default via 10.1.0.1")
        found = watch.shows(lambda c: any(r.destination == "0.0.0.0/0" for r in c.network_routes))
        default = next(r for r in found.network_routes if r.destination == "0.0.0.0/0")
        assert (default.gateway, default.interface, default.type) == ("10.1.0.1", "eth0", "unicast")
        made.sh(f"{IP} addr del 10.1.0.2/24 dev eth0; {IP} addr add 10.1.0.3/24 dev eth0")
        watch.shows(lambda c: set(addresses(c)) & {"10.1.0.2", "10.1.0.3"} == {"10.1.0.3"})
        made.sh(f"{IP} link set eth0 mtu 1400")
        watch.shows(lambda c: device(c).mtu == 1400)
        made.host.machine.run("ip", "link", "set", PEER, "down")
        watch.shows(lambda c: device(c).up and not device(c).carrier)
        # Of these routes the kernel tells nobody that they are gone.
        made.sh(f"{IP} link set eth0 down")
        watch.shows(
            lambda c: not any(r.family == types_pb2.ADDRESS_FAMILY_INET for r in c.network_routes)
        )
        made.sh(f"{IP} link set eth0 name lan0")
        watch.shows(lambda c: not device(c).name and device(c, "lan0").name)
        made.host.machine.run("ip", "link", "del", PEER)
        watch.shows(lambda c: not device(c, "lan0").name)


def test_list_and_info_and_events_show_it(made: Box) -> None:
    host = made.host
    last = events(made.api)[-1].sequence
    give(made)
    made.sh(f"{IP} link set eth0 up; {IP} addr add 10.1.0.2/24 dev eth0")
    made.sh(f"{IP} addr add fd00::2/64 dev eth0")
    # Until it is known to be nobody else's it is tentative, and no address to wait for.
    assert network(made).reached
    until(
        lambda: any(not a.tentative for n, a in addresses(made.info()).items() if n == "fd00::2"),
        "nobody else has it",
    )
    row = next(line for line in host.ctl("list").stdout.splitlines() if line.startswith("box "))
    assert {"10.1.0.2", "fd00::2"} <= set(row.split())
    found = info(host, "box")
    eth0 = next(one for one in found["network_interfaces"] if one["name"] == "eth0")
    assert {one["address"] for one in eth0["addresses"]} >= {"10.1.0.2", "fd00::2"}
    text = host.ctl("info", "box").stdout
    assert f"eth0 up veth {eth0['hardware_address']} mtu 1500 host {PEER}\n" in text
    assert "  10.1.0.2/24 global\n" in text
    told = events(made.api, "container.network_changed", after=last, names=("box",))
    assert told[-1].message == "eth0 10.1.0.2/24, eth0 fd00::2/64"
    assert told[-1].generation == found["generation"]
    # A list is answered from memory: what has passed is asked for one by one.
    assert not device(everything(made.api)["box"]).HasField("counters")


def test_counters_are_those_of_now(made: Box) -> None:
    give(made)
    made.host.machine.run("ip", "addr", "add", "10.1.0.1/24", "dev", PEER)
    made.sh(f"{IP} link set eth0 up; {IP} addr add 10.1.0.2/24 dev eth0")

    def received() -> tuple[int, int]:
        one = device(made.info())
        return one.counters.rx_packets, one.counters.rx_bytes

    before = received()
    send = "for i in 1 2 3; do printf %1000s > /dev/udp/10.1.0.2/9; done"
    made.host.machine.run("bash", "-c", send)
    after = received()
    assert after[0] - before[0] >= 3
    assert after[1] - before[1] >= 3 * 1000
    assert after[1] <= int(made.sh("cat /sys/class/net/eth0/statistics/rx_bytes"))


def test_asking_does_not_keep_a_change_from_being_told(made: Box) -> None:
    give(made)
    done = threading.Event()

    def ask() -> None:
        with made.host.channel() as api:
            while not done.is_set():
                api.container.GetContainer(pb.GetContainerRequest(name="box"), timeout=DEADLINE)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        with watched(made) as watch:
            for number in range(2, 15):
                made.sh(f"{IP} addr add 10.1.0.{number}/24 dev eth0")
                watch.shows(lambda c, number=number: f"10.1.0.{number}" in addresses(c))
    finally:
        done.set()
        thread.join()


# waiting


def test_wait_for_a_network(made: Box) -> None:
    host = made.host
    assert (
        host.ctl("wait", "box", "--for", "network", "--timeout", "0", check=False).returncode == 1
    )
    give(made)
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(network(made, None)))
    thread.start()
    with watched(made) as watch:
        # Each of these is not yet a network.
        made.sh(f"{IP} link set lo up; {IP} addr add 10.7.0.1/24 dev lo")
        watch.shows(lambda c: "10.7.0.1" in addresses(c, "lo"))
        made.sh(f"{IP} addr add 169.254.3.4/16 dev eth0; {IP} link set eth0 up")
        watch.shows(lambda c: any(one.startswith("fe80:") for one in addresses(c)))
        watch.shows(
            lambda c: all(
                not one.tentative for name, one in addresses(c).items() if name.startswith("fe80:")
            )
        )
        made.sh("echo 3 > /proc/sys/net/ipv6/conf/eth0/dad_transmits")
        made.sh(f"{IP} addr add fd00::2/64 dev eth0")
        watch.shows(lambda c: "fd00::2" in addresses(c))
        assert not answers or not addresses(made.info())["fd00::2"].tentative
        thread.join(DEADLINE)
        assert answers[0].reached
        assert not addresses(watch.shows(lambda c: not addresses(c)["fd00::2"].tentative))[
            "fd00::2"
        ].tentative
    assert host.ctl("wait", "box", "--for", "network", "--timeout", "0").returncode == 0


def test_an_address_that_somebody_else_has_is_none(made: Box) -> None:
    host = made.host
    give(made)
    host.machine.run("ip", "addr", "add", "fd00::2/64", "dev", PEER, "nodad")
    made.sh(f"{IP} link set eth0 up")
    until(lambda: any(n.startswith("fe80:") for n in addresses(made.info())), "it is up")
    made.sh(f"{IP} addr add fd00::2/64 dev eth0")
    until(
        lambda: any(a.duplicate for n, a in addresses(made.info()).items() if n == "fd00::2"),
        "somebody else has it",
    )
    assert not network(made, 0).reached
    assert "fd00::2" not in host.ctl("list").stdout


def test_the_end_of_it_ends_the_wait(shared_host: Host, busybox_root: Path) -> None:
    text = application(shared_host, busybox_root, "box")
    with defined(shared_host, text) as made:
        started = made.start("/bin/cat", stdin=True, stdio=pb.STDIO_PIPES)
        answers: list[Any] = []
        thread = threading.Thread(
            target=lambda: answers.append(network(made, None, started.generation))
        )
        thread.start()
        until(lambda: made.info().network_interfaces != [], "it is looked at")
        made.stop(kill=True)
        thread.join(DEADLINE)
        (answer,) = answers
        assert (answer.reached, answer.exit.signal) == (False, 9)
        # Also if it has been so for long.
        assert not network(made, None, started.generation).reached
        done = shared_host.ctl("start", "box", "--wait", "network", "--", "true", check=False)
        assert done.returncode == 1
        assert "ended before it had an address" in done.stderr


def test_start_waits_for_a_network(shared_host: Host, busybox_root: Path) -> None:
    script = (
        "until busybox ip link set eth0 up 2>/dev/null; do usleep 10000; done;"
        "busybox ip addr add 10.1.0.2/24 dev eth0; exec sleep 100000"
    )
    text = application(shared_host, busybox_root, "box")
    with defined(shared_host, text) as made:
        done: list[Any] = []
        argv = ("start", "box", "--wait", "network", "--", "/bin/sh", "-c", script)
        thread = threading.Thread(target=lambda: done.append(shared_host.ctl(*argv, check=False)))
        thread.start()
        until(lambda: made.info().pid > 0, "it runs")
        give(made)
        thread.join(DEADLINE)
        assert done[0].returncode == 0, done[0].stderr
        assert "10.1.0.2" in addresses(made.info())
    until(lambda: PEER not in links(shared_host), "the pair is gone")


def test_on_the_hosts_network_there_is_nothing_to_wait_for(
    shared_host: Host, busybox_root: Path
) -> None:
    with idle(shared_host, busybox_root, "box", "lxc.namespace.keep = net") as made:
        found = made.info()
        assert found.shares_network
        assert not found.network_interfaces
        refusal = refused(lambda: network(made))
        assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "NETWORK_SHARED")
        assert shared_host.ctl("netstat", "box", "--", "-r", check=False).returncode == 4


@pytest.mark.parametrize(
    "request_",
    [
        pb.WaitContainerRequest(name="box", condition=77),  # type: ignore[arg-type]
        pb.WaitContainerRequest(
            name="box", condition=pb.CONDITION_NETWORK, states=[types_pb2.STATE_RUNNING]
        ),
    ],
)
def test_conditions_that_cannot_be_meant(made: Box, request_: Any) -> None:
    refusal = refused(lambda: made.api.container.WaitContainer(request_, timeout=DEADLINE))
    assert refusal.reason == "INVALID_CONDITION"


# beginnings and ends


@pytest.fixture
def plain_host(cold_host: Host) -> Host:
    """Nothing is prepared there: what lxcd holds is of what it was asked for."""
    cold_host.config.write_text("prepared_max = 0\n")
    cold_host.start_daemon()
    return cold_host


def sockets_of(pid: int) -> int:
    return ledger.descriptors(pid).get("socket", 0)


def test_the_end_of_a_container_lets_its_namespace_go(plain_host: Host, busybox_root: Path) -> None:
    with defined(plain_host, application(plain_host, busybox_root, "box")) as made:
        made.start(*IDLE)
        made.stop(kill=True)
        assert plain_host.daemon is not None
        before = sockets_of(plain_host.daemon)
        for _ in range(5):
            made.start(*IDLE)
            give(made)
            made.sh(f"{IP} link set eth0 up; {IP} addr add 10.1.0.2/24 dev eth0")
            assert network(made).reached
            made.stop(kill=True)
            until(lambda: PEER not in links(plain_host), "the pair is gone")
            assert not made.info().network_interfaces
        until(lambda: sockets_of(plain_host.daemon or 0) == before, "no socket is left")


def test_an_end_in_the_middle_of_the_beginning_leaves_nothing(
    plain_host: Host, busybox_root: Path
) -> None:
    with defined(plain_host, application(plain_host, busybox_root, "box")) as made:
        made.start("/bin/true")
        made.wait()
        assert plain_host.daemon is not None
        before = ledger.descriptors(plain_host.daemon)
        for _ in range(30):
            made.start("/bin/true")
            made.wait()
        until(
            lambda: sockets_of(plain_host.daemon or 0) <= before.get("socket", 0),
            "no socket is left",
        )
    assert "Traceback" not in plain_host.log_text()


def test_the_next_lxcd_knows_it_again(host: Host, busybox_root: Path) -> None:
    with idle(host, busybox_root, "box") as made:
        give(made)
        made.sh(f"{IP} link set eth0 up; {IP} addr add 10.1.0.2/24 dev eth0")
        assert network(made).reached
        pid = made.info().pid
        host.kill_daemon()
        # While nobody looked.
        host.machine.run(
            "nsenter", "-t", str(pid), "-n", "ip", "addr", "add", "10.1.0.9/24", "dev", "eth0"
        )
        host.start_daemon()
        until(lambda: "10.1.0.9" in addresses(made.info()), "it is looked at again")
        with watched(made) as watch:
            made.sh(f"{IP} addr del 10.1.0.2/24 dev eth0")
            watch.shows(lambda c: bool(addresses(c)) and "10.1.0.2" not in addresses(c))
        assert device(made.info()).host_name == PEER
    until(lambda: PEER not in links(host), "the pair is gone")


def test_a_reboot_inside_begins_anew(shared_host: Host, busybox_root: Path) -> None:
    with idle(shared_host, busybox_root, "box") as made:
        first = made.info()
        give(made)
        until(lambda: device(made.info()).name != "", "eth0 is seen")
        made.api.container.RestartContainer(
            pb.RestartContainerRequest(name="box", kill=True), timeout=DEADLINE
        )
        until(lambda: device(made.info(), "lo").name != "", "it is looked at again")
        again = made.info()
        assert again.generation == first.generation + 1
        assert not device(again).name
    until(lambda: PEER not in links(shared_host), "the pair is gone")


# what somebody inside may do to us


def test_thousands_of_addresses_are_cut_and_said_to_be(made: Box) -> None:
    give(made)
    batch = "".join(
        f"addr add 10.{number >> 8}.{number & 255}.1/32 dev eth0\n" for number in range(5000)
    )
    pid = made.info().pid
    words = ("nsenter", "-t", str(pid), "-n", "ip", "-batch", "-")
    path = made.host.root / "batch"
    path.write_text(batch)
    made.host.machine.run(*words[:-1], str(path))
    until(lambda: made.info().network_truncated, "that it is cut is said")
    found = made.info()
    assert sum(len(one.addresses) for one in found.network_interfaces) == 512
    row = next(t for t in made.host.ctl("list").stdout.splitlines() if t.startswith("box "))
    assert len(row) < 400
    assert "... and more than are kept" in made.host.ctl("info", "box").stdout
    # It is whole again when there are few: what was cut was not forgotten.
    with watched(made) as watch:
        made.host.machine.run(*words[:-2], "addr", "flush", "dev", "eth0")
        made.sh(f"{IP} addr add 10.1.0.2/24 dev eth0")
        last = watch.shows(lambda c: not c.network_truncated and "10.1.0.2" in addresses(c))
    assert sum(len(one.addresses) for one in last.network_interfaces) < 10


def test_a_storm_costs_lxcd_little_and_is_seen_to_its_end(made: Box) -> None:
    host = made.host
    give(made)
    assert host.daemon is not None
    pid = host.daemon
    script = (
        "i=0; while [ $i -lt 1500 ]; do busybox ip addr add 10.1.0.7/24 dev eth0;"
        " busybox ip addr del 10.1.0.7/24 dev eth0; i=$((i+1)); done;"
        " busybox ip addr add 10.1.0.8/24 dev eth0"
    )
    last = events(made.api)[-1].sequence

    def spent() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    with watched(made) as watch:
        before = spent()
        made.sh(script)
        after = spent()
        watch.shows(lambda c: set(addresses(c)) & {"10.1.0.7", "10.1.0.8"} == {"10.1.0.8"})
    told = events(made.api, "container.network_changed", after=last)
    # 3000 changes, each of them more than one notification.
    assert len(told) < 100
    assert after - before < 2.0


@pytest.mark.slow
def test_a_hundred_containers_cost_a_descriptor_each_and_nothing_while_idle(
    plain_host: Host, busybox_root: Path
) -> None:
    api = plain_host.channel()
    names = [f"{number:03}" for number in range(100)]

    assert plain_host.daemon is not None
    pid = plain_host.daemon
    api.host.GetHost(host_pb2.GetHostRequest(), timeout=DEADLINE)
    before = ledger.descriptors(pid)
    for name in names:
        text = application(plain_host, busybox_root, name)
        list(api.container.CreateContainer(pb.CreateContainerRequest(name=name, config_text=text)))
        api.container.StartContainer(
            pb.StartContainerRequest(name=name, command=IDLE), timeout=DEADLINE
        )
    until(lambda: all(one.network_interfaces for one in everything(api).values()), "all are known")
    # One socket of each, and what was held of it before.
    until(lambda: sockets_of(pid) - before.get("socket", 0) == len(names), "a socket of each")
    assert sum(ledger.descriptors(pid).values()) - sum(before.values()) < 8 * len(names)
    for name in names:
        api.container.DeleteContainer(
            pb.DeleteContainerRequest(name=name, force=True), timeout=DEADLINE
        )
    until(lambda: sockets_of(pid) == before.get("socket", 0), "no namespace is held")
