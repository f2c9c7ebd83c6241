"""What changes is told with what it was and what it is: states to who watches, keys to who reads events."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lxcd.v1 import container_pb2 as pb
from lxcd.v1 import types_pb2
from tests.system.calls import application, define, events, get, idle
from tests.system.host import Host
from tests.system.machine import DEADLINE, until

UPDATED = "container.updated"


def updates(host: Host, count: int) -> list[Any]:
    api = host.channel()
    until(lambda: len(events(api, UPDATED)) >= count, f"{count} updates are told")
    found = events(api, UPDATED)
    assert len(found) == count, found
    return found


def test_who_watches_sees_it_freeze_and_thaw(host: Host, busybox_root: Path) -> None:
    with idle(host, busybox_root, "cold") as made:
        call = made.api.container.WatchContainers(pb.WatchContainersRequest(), timeout=DEADLINE)
        assert next(call).container.state == types_pb2.STATE_RUNNING
        host.ctl("freeze", "cold")
        until(lambda: next(call).container.state == types_pb2.STATE_FROZEN, "it is frozen")
        host.ctl("thaw", "cold")
        until(lambda: next(call).container.state == types_pb2.STATE_RUNNING, "it goes on")
        call.cancel()


def test_an_update_says_what_it_has_changed(host: Host, busybox_root: Path) -> None:
    api = host.channel()
    define(api, "one", application(host, busybox_root, "one", "lxc.uts.name = before"))
    host.ctl("config", "set", "one", "lxc.uts.name", "after")
    host.ctl("config", "set", "one", "lxc.group", "a", "b")
    host.ctl("config", "unset", "one", "lxc.group")
    name, group, none = updates(host, 3)
    assert dict(name.details) == {
        "by": "request",
        "scope": "saved",
        "keys": "lxc.uts.name",
        "before.lxc.uts.name": "before",
        "after.lxc.uts.name": "after",
    }
    assert name.message == "lxc.uts.name"
    assert group.details["after.lxc.group"] == "a\nb"
    assert "before.lxc.group" not in group.details
    assert none.details["before.lxc.group"] == "a\nb"


def test_a_hand_edit_is_told_when_it_is_noticed(host: Host, busybox_root: Path) -> None:
    api = host.channel()
    define(api, "one", application(host, busybox_root, "one"))
    get(api, "one")
    config = host.lxcpath / "one/config"
    text = config.read_text()
    config.write_text(f"# nobody's business\n{text}")
    get(api, "one")
    config.write_text(f"{text}lxc.group = edited\n")
    get(api, "one")
    get(api, "one")
    (event,) = updates(host, 1)
    assert dict(event.details) == {
        "by": "file",
        "keys": "lxc.group",
        "after.lxc.group": "edited",
    }
    config.write_text(text)
    os.utime(config)
    get(api, "one")
    assert updates(host, 2)[1].details["before.lxc.group"] == "edited"


def test_events_without_some(host: Host, busybox_root: Path) -> None:
    with idle(host, busybox_root, "one"):
        shown = host.ctl("events", "--type", "container.*", "--exclude", "container.state").stdout
        kinds = {line.split()[2] for line in shown.splitlines()}
        assert {"container.created", "container.started"} <= kinds
        assert "container.state" not in kinds
        elsewhere = host.ctl("--lxcpath", str(host.root / "none"), "events").stdout
        assert elsewhere == ""
