"""Containers with devices that come and go, with a kill -9 of somebody in the middle of every fifth: nothing is left."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lxcd.v1 import network_pb2
from tests.system import ledger
from tests.system.boxes import Box, Refused, defined
from tests.system.calls import state
from tests.system.consistency import FEW_PREPARED, private
from tests.system.host import Host
from tests.system.losing import TAG, in_order, kill_both, kill_keeper, next_keeper
from tests.system.losing import settled as all_settled
from tests.system.machine import DEADLINE, until
from tests.system.wires import (
    config,
    device,
    ip,
    kept,
    link_inside,
    links,
    nic,
    pair,
    refusal,
    settled,
    start,
)

_HWADDR = "00:16:3e:00:00:77"
# Of a call that was cut short, or a start whose child or keeper was killed.
_CUT = ("UNAVAILABLE", "CANCELLED")
_TARGETS = ("lxcd", "child", "keeper", "both", "dnsmasq")
_MANAGED = "lxcbr0"


def _configs(host: Host, root: Path) -> dict[str, str]:
    """One with a name given, one without, one of a router, one with a card and a script; and one on a network of
    lxcd's own.
    """
    common = ("link = br0", "flags = up")
    texts = [
        nic(*common, "veth.pair = web0", "ipv4.address = 10.9.0.2/24", "ipv4.gateway = 10.9.0.1"),
        nic(*common, "ipv4.address = 10.9.0.3/24") + nic(*common, number=1),
        nic(
            *("veth.mode = router", "flags = up", "veth.pair = web2", "ipv4.address = 10.7.0.2/32"),
            *("ipv4.gateway = 169.254.0.1", "veth.ipv4.route = 10.77.0.0/16"),
        ),
        nic(*common, "script.up = true", "script.down = true")
        + nic("link = card0", "flags = up", "name = lan", "mtu = 1400", number=1, kind="phys")
        + nic("link = lan0", number=2, kind="macvlan"),
        nic(f"link = {_MANAGED}", "flags = up"),
    ]
    names = [f"{TAG}d{number}" for number in range(len(texts))]
    return {name: config(host, root, text, name) for name, text in zip(names, texts, strict=True)}


@dataclass
class Churn:
    """A host on which containers come and go, and what was there before."""

    host: Host
    chance: random.Random
    boxes: dict[str, Box]
    before: set[str]
    counts: dict[str, int] = field(default_factory=dict)

    def round(self) -> None:
        """A start and a stop that nobody disturbs."""
        made = self.boxes[self.chance.choice(sorted(self.boxes))]
        pid = start(made)
        if self.chance.random() < 0.5:
            made.stop(kill=True)
        else:
            _kill(pid)
            made.wait()
        self.nothing_is_left()

    def disturbed(self, target: str) -> None:
        """One of both is cut short; then all is gone, and the next start works."""
        made = self.boxes[self.chance.choice(sorted(self.boxes))]
        act: Callable[[], object] = made.start
        if self.chance.random() < 0.4:
            start(made)
            act = lambda: made.stop(kill=True)  # noqa: E731
        keeper = self.host.keeper_pid
        with ThreadPoolExecutor(1) as pool:
            begun = pool.submit(self._cut, act)
            time.sleep(self.chance.uniform(0, 0.06))
            self._strike(target, keeper)
            outcome = begun.result()
        if target in ("keeper", "both"):
            keeper = next_keeper(self.host, keeper)
        self.counts[f"{target}, {outcome}"] = self.counts.get(f"{target}, {outcome}", 0) + 1
        all_settled(self.host)
        if state(made.info()) == "RUNNING":
            if target != "child":
                # It is whole; that child may be dying still.
                assert link_inside(self.host, made.info().pid, "eth0")
            self._cut(lambda: made.stop(kill=True))
        self.nothing_is_left()
        in_order(self.host, keeper)
        start(made)
        made.stop(kill=True)
        self.nothing_is_left()

    @staticmethod
    def _cut(act: Callable[[], object]) -> str:
        error = refusal(act)
        if error is None:
            return "done"
        if error.code in _CUT:
            return "cut off"
        assert error.reason in ("START_FAILED", "KEEPER_LOST", "CONTAINER_NOT_RUNNING"), error
        return "failed"

    def _strike(self, target: str, keeper: int) -> None:
        match target:
            case "lxcd":
                self.host.kill_daemon()
                self.host.start_daemon()
            case "child":
                found = [one.pid for one in ledger.descendants(keeper) if one.parent == keeper]
                if found:
                    _kill(self.chance.choice(found))
            case "keeper":
                kill_keeper(self.host, keeper)
            case "dnsmasq":
                _kill(self.server())
            case _:
                kill_both(self.host, keeper)
                self.host.start_daemon()

    def server(self) -> int:
        """Pid of the dnsmasq of the network; it comes back wherever it was killed."""
        found = 0

        def there() -> bool:
            nonlocal found
            request = network_pb2.GetNetworkRequest(name=_MANAGED)
            with self.host.channel() as api:
                found = api.network.GetNetwork(request, timeout=DEADLINE).dnsmasq_pid
            return found != 0 and os.path.exists(f"/proc/{found}")

        until(there, "dnsmasq is there")
        return found

    def nothing_is_left(self) -> None:
        """Devices, addresses, routes, namespaces and mounts are what they were."""
        host = self.host
        settled(host, self.before)
        card = links(host)["card0"]
        assert (card["mtu"], card["address"]) == (1500, _HWADDR)
        until(lambda: "UP" in links(host)["card0"]["flags"], "the card is up")
        until(lambda: not kept(host), "no namespace is kept")
        mounted = ledger.mounts(host.machine.pid)
        assert not [each for each in mounted if str(private(host)) in each or "nsfs" in each]
        assert not ip(host, "neigh", "show", "proxy").strip()
        assert "10.7" not in ip(host, "route")
        # An lxcd that has just come takes its networks up beside all else.
        listing = ("nft", "list", "table", "bridge", "lxcd")
        until(lambda: "port." not in host.machine.run(*listing).stdout, "no port has rules")

        def files() -> list[str]:
            return [name for _, _, names in os.walk(host.run_dir / "networks") for name in names]

        until(lambda: not [name for name in files() if "veth" in name], "no port has files")
        server = self.server()
        running = [line for line in host.machine.processes() if "dnsmasq" in line]
        assert [line for line in running if str(server) not in line.split()[0]] == []


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _namespaces(host: Host) -> int:
    """How many networks lxcd holds, its own aside."""
    assert host.daemon is not None
    own = os.readlink(f"/proc/{host.daemon}/ns/net")
    names = [f"/proc/{host.daemon}/fd/{name}" for name in os.listdir(f"/proc/{host.daemon}/fd")]
    held = [os.readlink(name) for name in names if os.path.islink(name)]
    return sum(target.startswith("net:[") and target != own for target in held)


def churn(host: Host, root: Path, seed: int, rounds: int) -> None:
    print(f"seed {seed}")
    host.config.write_text(FEW_PREPARED)
    host.start_daemon()
    with ExitStack() as stack:
        stack.enter_context(device(host, "br0", "type", "bridge"))
        stack.enter_context(pair(host, "card0"))
        stack.enter_context(pair(host, "lan0"))
        ip(host, "link", "set", "card0", "address", _HWADDR)
        boxes = {
            name: stack.enter_context(defined(host, text, name))
            for name, text in _configs(host, root).items()
        }
        # Its network stays once it is up.
        last = boxes[max(boxes)]
        last.start()
        last.stop(kill=True)
        made = Churn(host, random.Random(seed), boxes, set(links(host)))
        kills = [_TARGETS[number % len(_TARGETS)] for number in range(rounds // 5)]
        acts = [*kills, *[""] * (rounds - len(kills))]
        made.chance.shuffle(acts)
        for number, target in enumerate(acts):
            try:
                made.disturbed(target) if target else made.round()
            except (AssertionError, Refused) as error:
                text = f"seed {seed}, round {number} ({target or 'no kill'}): {error}"
                raise AssertionError(text) from error
        until(lambda: _namespaces(host) == 0, "lxcd holds no network")
        in_order(host, host.keeper_pid)
        print(made.counts)


@pytest.mark.timeout(300)
def test_nothing_is_left_of_fifty(cold_host: Host, busybox_root: Path) -> None:
    churn(cold_host, busybox_root, int(os.environ.get("LXCD_TEST_SEED", "20261126")), 50)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_nothing_is_left_of_five_hundred(cold_host: Host, busybox_root: Path) -> None:
    seed = int(os.environ.get("LXCD_TEST_SEED", random.randrange(1 << 30)))
    churn(cold_host, busybox_root, seed, 500)


# Many at once


def many(host: Host, root: Path, count: int) -> None:
    with device(host, "br0", "type", "bridge"), ExitStack() as stack:
        before = set(links(host))
        boxes: list[Box] = []
        for number in range(count):
            name = f"{TAG}m{number}"
            text = nic("link = br0", "flags = up", f"ipv4.address = 10.9.0.{number + 1}/24")
            boxes.append(stack.enter_context(defined(host, config(host, root, text, name), name)))
        with ThreadPoolExecutor(8) as pool:
            pids = list(pool.map(start, boxes))
            ports = [one for one in links(host).values() if one.get("master") == "br0"]
            assert len(ports) == count
            assert len({one["address"] for one in ports}) == count
            for number in (0, count - 1):
                assert link_inside(host, pids[number], "eth0")["operstate"] == "UP"
            boxes[0].sh(f"ping -c 1 -W 20 10.9.0.{count}")
            list(pool.map(lambda made: made.stop(kill=True), boxes))
        assert set(links(host)) == before


def test_twenty_on_one_bridge(shared_host: Host, busybox_root: Path) -> None:
    many(shared_host, busybox_root, 20)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_two_hundred_on_one_bridge(shared_host: Host, busybox_root: Path) -> None:
    many(shared_host, busybox_root, 200)
